"""Seats all over a Ray cluster: an actor for each, which keeps the seat where Ray has put it (remote.py).

Ray decides where an actor goes, and starts it when there is room. So a seat whose node is gone is placed on another,
or waits, without a word, until there is a node again; the other seats work on.
"""

from __future__ import annotations

import atexit
import logging
import pickle
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError

from unetx_evaluators.evaluation import Evaluator
from unetx_search.executors import worker
from unetx_search.executors.base import Executor, Handler, Job
from unetx_search.executors.ray.far_seat import ASK_AGAIN_S, FarSeat
from unetx_search.executors.ray.reach import Reach
from unetx_search.executors.ray.remote import Errand
from unetx_search.executors.slots import Slot
from unetx_space.errors import UnetxError

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

logger = logging.getLogger(__name__)

KILL_WITHIN_S = 5.0
"""For an actor to end a worker process that did not leave by itself."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a cluster may take, in seconds."""

    start_s: float = 120.0
    """For the first workers to be up; those that are not by then may join later."""
    lonely_s: float = 600.0
    """With no worker left at all, for a node to come back."""
    verdict_s: float = 30.0
    """After an actor died: for Ray to find out that its whole node did, which by default takes it some 15 s."""


class RayExecutor(Executor):
    """A Ray actor per slot, each with a worker process of its own on the node where Ray has put it.

    Begins with waiting until the workers are up and have shown that they reach the task's arrays and, where one is
    given, the folder of the ``checkpoints``. Raises UnetxError when a worker does not, or when none came up in time.
    What LocalExecutor says of workers that die or hang holds here, too. A job whose node died is told as displaced.

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
        patience: Patience = Patience(),
    ) -> None:
        if log_folder is not None:
            log_folder = log_folder.absolute()
            log_folder.mkdir(parents=True, exist_ok=True)
        setup = worker.Setup(pickle.dumps((evaluator, replace(task, folder=task.folder.absolute()))))
        self.n_slots = len(slots)
        self._patience = patience
        self._closed = False
        self._last_up_s = time.monotonic()
        self._warned = False
        self._reach = Reach.of(task, checkpoints)
        errands = [
            Errand(
                worker=slot.index,
                device=slot.device,
                n_threads=slot.n_threads,
                workers_per_gpu=workers_per_gpu,
                setup=setup,
                reach=self._reach,
                log_folder=log_folder,
                overtime_s=overtime_s,
                version=version("unetx-search"),
            )
            for slot in slots
        ]
        self._seats = [FarSeat(errand, patience.verdict_s) for errand in errands]
        atexit.register(self.close)
        try:
            self._gather()
        except BaseException:
            self.close(0.0)
            raise

    def _gather(self) -> None:
        """Wait for the workers; content with some when time is up."""
        deadline_s = time.monotonic() + self._patience.start_s
        for seat in self._seats:
            seat.fill()
        while not all(seat.up for seat in self._seats) and time.monotonic() < deadline_s:
            for seat in self._ready(0.5):
                if seat.up is None:
                    seat.welcome()
            for seat in self._seats:
                seat.go_on_asking()
        n_up = sum(seat.up is not None for seat in self._seats)
        if n_up == 0:
            raise UnetxError(
                f"workers begin when Ray finds room for them; in {self._patience.start_s:g} s it found none for any of "
                f"{self.n_slots}. The cluster has {_resources(ray.cluster_resources())}, of which "
                f"{_resources(ray.available_resources())} are free: wait until others have left it, or ask for less"
            )
        if n_up < self.n_slots:
            logger.warning(
                "%d of %d workers are up; the others join as soon as Ray finds room for them", n_up, self.n_slots
            )

    def n_free(self) -> int:
        return 0 if self._closed else sum(seat.free for seat in self._seats)

    def submit(self, job: Job) -> None:
        seat = next((seat for seat in self._seats if seat.free), None)
        if self._closed or seat is None:
            why = "it is closed" if self._closed else f"none of {self.n_slots} seats is free"
            raise RuntimeError(f"an executor takes a job while n_free() > 0; trial {job.trial} came when {why}")
        checkpoint, weights = (file and file.absolute() for file in (job.checkpoint, job.weights))
        seat.take(replace(job, checkpoint=checkpoint, weights=weights))

    def poll(self, handler: Handler, timeout_s: float) -> None:
        for seat in self._ready(timeout_s):
            seat.attend(handler)
        for seat in self._seats:
            seat.look_after(handler)
        self._mind_loneliness()

    def _ready(self, timeout_s: float) -> list[FarSeat]:
        """The seats that have an answer, waiting for the first one."""
        asked = {seat.question: seat for seat in self._seats if seat.question is not None}
        if not asked:
            time.sleep(min(timeout_s, ASK_AGAIN_S))
            return []
        ray.wait(list(asked), num_returns=1, timeout=timeout_s)
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
        return [asked[question] for question in answered]

    def _mind_loneliness(self) -> None:
        """Without any worker nothing will ever come; that is said, and not endured for ever."""
        now_s = time.monotonic()
        if any(seat.up for seat in self._seats):
            self._last_up_s, self._warned = now_s, False
        elif now_s - self._last_up_s > self._patience.lonely_s:
            raise UnetxError(
                f"a run needs a worker; all {self.n_slots} were lost and for {self._patience.lonely_s:g} s the cluster "
                "had room for none. Every trial that had finished is safe: mend the cluster and run the same command"
            )
        elif not self._warned:
            self._warned = True
            logger.warning(
                "no worker is left; waiting up to %g s for a node with room for one", self._patience.lonely_s
            )

    def interrupt(self) -> None:
        for seat in self._seats:
            seat.interrupt()

    def close(self, timeout_s: float = 10.0) -> None:
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._reach.forget()
        if not ray.is_initialized():
            return  # the connection is gone, and with it the actors
        for seat in self._seats:
            seat.begin_to_close(timeout_s)
        deadline_s = time.monotonic() + timeout_s + KILL_WITHIN_S
        with suppress(RayError):
            while any(seat.closing for seat in self._seats) and time.monotonic() < deadline_s:
                for seat in self._ready(0.2):
                    seat.hear_goodbye()
        for seat in self._seats:
            seat.end()


def _resources(found: Mapping[str, float]) -> str:
    return f"{found.get('GPU', 0):g} GPUs and {found.get('CPU', 0):g} CPUs"
