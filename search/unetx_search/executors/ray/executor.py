"""The executor on a Ray cluster: the same supervisor, with a worker for each slot wherever Ray has room for it.

Ray starts an actor when there is room. So a slot whose node is gone gets a worker on another, or waits, without a word,
until there is a node again; the other slots work on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

import ray

from unetx_evaluators.evaluation import Evaluator
from unetx_search.executors.base import Handler, Job
from unetx_search.executors.ray.actor_handle import Start, WorkerOnRay, wait_for_reports
from unetx_search.executors.ray.shared_files_check import SharedFilesCheck
from unetx_search.executors.slot_state import SlotState
from unetx_search.executors.slots import Slot
from unetx_search.executors.supervisor import Supervisor
from unetx_space.errors import UnetxError

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

logger = logging.getLogger(__name__)


class RayExecutor(Supervisor[WorkerOnRay]):
    """Workers all over a cluster, each held by an actor on its node.

    Begins with waiting until the workers are up and have shown that they reach the task's arrays and, where one is
    given, the folder of the ``checkpoints``. Raises UnetxError when a worker does not, or when none came up within
    ``start_within_s``; those that are not up by then may join later. Without any worker it waits for ``lonely_s``.

    To be made while connected to a cluster (``unetx_search.executors.ray.cluster.connected``).
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
        start_within_s: float = 120.0,
        lonely_s: float = 600.0,
    ) -> None:
        self._files = files = SharedFilesCheck.of(task, checkpoints)
        self._start_within_s = start_within_s
        self._lonely_s = lonely_s
        self._last_up_s = time.monotonic()
        self._warned = False
        self._is_gathering = True

        def start(slot: Slot, log_file: Path | None) -> WorkerOnRay:
            return WorkerOnRay(Start(slot, log_file, workers_per_gpu, files, version("unetx-search")))

        super().__init__(
            evaluator,
            replace(task, folder=task.folder.absolute()),
            slots,
            start,
            wait_for_reports,
            starts_at_once=True,
            log_folder=log_folder,
            overtime_s=overtime_s,
        )
        try:
            self._gather()
        except BaseException:
            self.close(0.0)
            raise

    def _gather(self) -> None:
        """Wait for the workers; content with some when time is up."""
        deadline_s, n_up = time.monotonic() + self._start_within_s, 0
        while n_up < self.n_slots and time.monotonic() < deadline_s:
            super().poll(cast(Handler, None), 0.5)  # no job is under way: nobody is told anything
            n_up = sum(slot.is_up for slot in self._slots)
        if n_up == 0:
            there, free = (
                f"{found.get('GPU', 0):g} GPUs and {found.get('CPU', 0):g} CPUs"
                for found in (ray.cluster_resources(), ray.available_resources())
            )
            raise UnetxError(
                f"workers begin when Ray finds room for them; in {self._start_within_s:g} s it found none for any of "
                f"{self.n_slots}. The cluster has {there}, of which "
                f"{free} are free: wait until others have left it, or ask for less"
            )
        self._is_gathering = False
        if n_up < self.n_slots:
            words = "%d of %d workers are up; the others join as soon as Ray finds room for them"
            logger.warning(words, n_up, self.n_slots)

    def submit(self, job: Job) -> None:
        checkpoint, weights = (file and file.absolute() for file in (job.checkpoint, job.weights))
        super().submit(replace(job, checkpoint=checkpoint, weights=weights))

    def poll(self, handler: Handler, timeout_s: float) -> None:
        super().poll(handler, timeout_s)
        now_s = time.monotonic()
        if any(slot.is_up for slot in self._slots):
            self._last_up_s, self._warned = now_s, False
        elif now_s - self._last_up_s > self._lonely_s:
            raise UnetxError(
                f"a run needs a worker; all {self.n_slots} were lost and for {self._lonely_s:g} s the cluster "
                "had room for none. Every trial that had finished is safe: mend the cluster and run the same command"
            )
        elif not self._warned:
            self._warned = True
            words = "no worker is left; waiting up to %g s for a node with room for one"
            logger.warning(words, self._lonely_s)

    def _heed_unfit(self, slot: SlotState[WorkerOnRay], problem: str) -> None:
        """A node that is not ready when it joins later (a disk that is mounted late) ends no run."""
        if self._is_gathering:
            raise UnetxError(problem)
        super()._heed_unfit(slot, problem)

    def close(self, timeout_s: float = 10.0) -> None:
        self._files.forget()
        if ray.is_initialized():  # otherwise the connection is gone, and with it the actors
            super().close(timeout_s)
