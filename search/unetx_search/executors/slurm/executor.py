"""The executor on Slurm: the same supervisor, with a worker for each slot in whatever job has called.

Jobs begin when Slurm says so. A slot without a job waits, for hours if need be, while the others work.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Evaluator
from unetx_search.executors.base import Handler
from unetx_search.executors.cluster_executor import ClusterExecutor
from unetx_search.executors.messages import ConnectionLost, Exited, Hello, Order, Report, Unfit
from unetx_search.executors.slots import Slot
from unetx_search.executors.slurm.jobs import Place, SlurmJobs
from unetx_search.executors.slurm.link import Line
from unetx_search.executors.worker_handle import WorkerHandle
from unetx_search.executors.worker_holder import Start
from unetx_space.errors import UnetxError

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task


class WorkerInJob(WorkerHandle):
    """The handle of a worker in a job. The constructor wants a place for it, which comes when there is a free one."""

    def __init__(self, start: Start, jobs: SlurmJobs) -> None:
        self._start = start
        self._jobs: SlurmJobs | None = jobs
        jobs.n_wanted += 1
        self._place: Place | None = None
        self._number = 0
        self._has_ended = False

    @property
    def lines(self) -> list[Line]:
        """What to wait for."""
        line = None if self._place is None else self._place.line
        return [] if line is None or line.closed else [line]

    def send(self, order: Order) -> None:
        self._tell("send", order)

    def _tell(self, method: str, *given: object) -> None:
        if self._place is not None and self._place.line is not None:
            with suppress(OSError):  # it is gone; receive tells
                self._place.line.send((self._number, method, *given))

    def receive(self) -> Report | None:
        if self._jobs is None:
            return ConnectionLost("it was given up")
        if self._place is None:
            failure = self._jobs.failure()
            self._place = None if failure else self._jobs.free_place()
            if self._place is None:
                return ConnectionLost(failure) if failure else None
            self._place.n_workers += 1
            self._number = self._place.n_workers
            self._tell("start", self._start)
        return self._heard(self._jobs, self._place)

    def _heard(self, jobs: SlurmJobs, place: Place) -> Report | None:
        assert place.line is not None
        try:
            while place.line.poll():
                number, report = place.line.recv()
                if number == self._number:
                    return self._heeded(report)
        except (EOFError, OSError):
            self._place = None
            return ConnectionLost(f"{place.name} ended, or the way to it; {jobs.drop(place)}")
        return None

    def _heeded(self, report: Report) -> Report:
        self._has_ended = self._has_ended or isinstance(report, Exited | Unfit)
        if isinstance(report, Hello):
            try:
                self._start.files.confirm(self._start.slot.index, report.label)
            except UnetxError as error:
                return Unfit(str(error))
        return report

    def hang_up(self) -> None:
        if self._place is None:  # nothing to lose
            self.release()
        self._tell("hang_up")

    def kill(self) -> None:
        self._tell("kill")

    def is_released(self) -> bool:
        return isinstance(self.receive(), ConnectionLost)

    def release(self) -> None:
        """The job is kept for another worker where this one is known to have ended."""
        if self._jobs is None:
            return
        self._jobs.n_wanted -= 1
        if self._place is not None and self._has_ended:
            self._place.is_taken = False
        elif self._place is not None:
            self._jobs.drop(self._place)
        self._jobs = self._place = None


class SlurmExecutor(ClusterExecutor[WorkerInJob]):
    """Workers in jobs of Slurm. Raises RequestError when Slurm refuses the first of them, UnetxError when a worker that
    comes up before any other is not fit."""

    def __init__(
        self,
        evaluator: Evaluator,
        task: Task,
        slots: Sequence[Slot],
        jobs: SlurmJobs,
        *,
        workers_per_gpu: int = 1,
        checkpoints: Path | None = None,
        log_folder: Path | None = None,
        overtime_s: float = 60.0,
    ) -> None:
        def wait_for_reports(workers: Sequence[WorkerInJob], timeout_s: float) -> None:
            jobs.wait([line for worker in workers for line in worker.lines], timeout_s)

        super().__init__(
            evaluator,
            task,
            slots,
            lambda start: WorkerInJob(start, jobs),
            wait_for_reports,
            workers_per_gpu=workers_per_gpu,
            checkpoints=checkpoints,
            log_folder=log_folder,
            overtime_s=overtime_s,
        )

    def poll(self, handler: Handler, timeout_s: float) -> None:
        super().poll(handler, timeout_s)
        self._is_gathering = self._is_gathering and not any(slot.is_up for slot in self._slots)
