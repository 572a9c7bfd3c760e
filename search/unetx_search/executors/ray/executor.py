"""The executor on a Ray cluster: the same supervisor, with a worker for each slot wherever Ray has room for it.

Ray starts an actor when there is room. So a slot whose node is gone gets a worker on another, or waits, without a word,
until there is a node again; the other slots work on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import ray

from unetx_evaluators.evaluation import Evaluator
from unetx_search.executors.base import Handler
from unetx_search.executors.cluster_executor import ClusterExecutor
from unetx_search.executors.ray.actor_handle import WorkerOnRay, wait_for_reports
from unetx_search.executors.slots import Slot
from unetx_space.errors import UnetxError

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

logger = logging.getLogger(__name__)


class RayExecutor(ClusterExecutor[WorkerOnRay]):
    """Runs evaluations in workers all over a Ray cluster, each held by an actor on its node.

    The constructor waits until the workers are up, while connected to a cluster (``cluster.connected``). It raises
    UnetxError when a worker is not fit, or when none came up within ``start_timeout_s``; others may join later. While
    all workers are lost, ``poll`` waits for one for ``no_worker_timeout_s``, and then raises UnetxError.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        task: Task,
        slots: Sequence[Slot],
        *,
        workers_per_gpu: int = 1,
        checkpoints: Path | None = None,
        log_folder: Path | None = None,
        overtime_s: float = 60.0,
        start_timeout_s: float = 120.0,
        no_worker_timeout_s: float = 600.0,
    ) -> None:
        self._start_timeout_s = start_timeout_s
        self._no_worker_timeout_s = no_worker_timeout_s
        self._last_up_s = time.monotonic()
        self._warned = False
        super().__init__(
            evaluator,
            task,
            slots,
            WorkerOnRay,
            wait_for_reports,
            workers_per_gpu=workers_per_gpu,
            checkpoints=checkpoints,
            log_folder=log_folder,
            overtime_s=overtime_s,
        )
        try:
            self._wait_for_workers()
        except BaseException:
            self.close(0.0)
            raise

    def _wait_for_workers(self) -> None:
        """Wait for the workers; some are enough when the time is up."""
        deadline_s, n_up = time.monotonic() + self._start_timeout_s, 0
        while n_up < self.n_slots and time.monotonic() < deadline_s:
            super().poll(cast(Handler, None), 0.5)  # no job is under way: nobody is told anything
            n_up = sum(slot.is_up for slot in self._slots)
        if n_up == 0:
            there, free = (
                f"{found.get('GPU', 0):g} GPUs and {found.get('CPU', 0):g} CPUs"
                for found in (ray.cluster_resources(), ray.available_resources())
            )
            raise UnetxError(
                f"workers begin when Ray finds room for them; in {self._start_timeout_s:g} s it found none for any of "
                f"{self.n_slots}. The cluster has {there}, of which "
                f"{free} are free: wait until others have left it, or ask for less"
            )
        self._is_starting = False
        if n_up < self.n_slots:
            words = "%d of %d workers are up; the others join as soon as Ray finds room for them"
            logger.warning(words, n_up, self.n_slots)

    def poll(self, handler: Handler, timeout_s: float) -> None:
        super().poll(handler, timeout_s)
        now_s = time.monotonic()
        if any(slot.is_up for slot in self._slots):
            self._last_up_s, self._warned = now_s, False
        elif now_s - self._last_up_s > self._no_worker_timeout_s:
            raise UnetxError(
                f"a run needs a worker; all {self.n_slots} were lost and for {self._no_worker_timeout_s:g} s the "
                "cluster had room for none. Every trial that had finished is safe: mend the cluster and run the same "
                "command"
            )
        elif not self._warned:
            self._warned = True
            words = "no worker is left; waiting up to %g s for a node with room for one"
            logger.warning(words, self._no_worker_timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        if ray.is_initialized():  # otherwise the connection is gone, and with it the actors
            super().close(timeout_s)
        else:
            self._files.forget()
