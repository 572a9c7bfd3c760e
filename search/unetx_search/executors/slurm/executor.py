"""The executor on Slurm: the same supervisor, with a worker for each slot in whichever job has connected.

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
from unetx_search.executors.slurm.connection import JobConnection
from unetx_search.executors.slurm.jobs import JobTask, SlurmJobs
from unetx_search.executors.worker_handle import WorkerHandle
from unetx_search.executors.worker_holder import WorkerSpec
from unetx_space.errors import UnetxError

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task


class WorkerInJob(WorkerHandle):
    """The handle of a worker in a job. The constructor asks for a job, which the worker gets when one is free."""

    def __init__(self, spec: WorkerSpec, jobs: SlurmJobs) -> None:
        self._spec = spec
        self._jobs: SlurmJobs | None = jobs
        jobs.n_workers_wanted += 1
        self._job_task: JobTask | None = None
        self._number = 0
        self._has_ended = False

    @property
    def connections(self) -> list[JobConnection]:
        """The connections that tell of the worker."""
        connection = None if self._job_task is None else self._job_task.connection
        return [] if connection is None or connection.closed else [connection]

    def send(self, order: Order) -> None:
        self._request("send", order)

    def _request(self, method: str, *given: object) -> None:
        if self._job_task is not None and self._job_task.connection is not None:
            with suppress(OSError):  # it is gone; receive tells
                self._job_task.connection.send((self._number, method, *given))

    def receive(self) -> Report | None:
        if self._jobs is None:
            return ConnectionLost("it was given up")
        if self._job_task is None:
            failure = self._jobs.failure()
            self._job_task = None if failure else self._jobs.free_task()
            if self._job_task is None:
                return ConnectionLost(failure) if failure else None
            self._job_task.n_workers += 1
            self._number = self._job_task.n_workers
            self._request("start", self._spec)
        return self._next_report(self._jobs, self._job_task)

    def _next_report(self, jobs: SlurmJobs, job_task: JobTask) -> Report | None:
        assert job_task.connection is not None
        try:
            while job_task.connection.poll():
                number, report = job_task.connection.recv()
                if number == self._number:
                    return self._noted(report)
        except (EOFError, OSError):
            self._job_task = None
            return ConnectionLost(f"{job_task.name} ended, or the way to it; {jobs.drop(job_task)}")
        return None

    def _noted(self, report: Report) -> Report:
        self._has_ended = self._has_ended or isinstance(report, Exited | Unfit)
        if isinstance(report, Hello):
            try:
                self._spec.files.confirm(self._spec.slot.index, report.label)
            except UnetxError as error:
                return Unfit(str(error))
        return report

    def hang_up(self) -> None:
        if self._job_task is None:  # nothing to lose
            self.release()
        self._request("hang_up")

    def kill(self) -> None:
        self._request("kill")

    def is_released(self) -> bool:
        return isinstance(self.receive(), ConnectionLost)

    def release(self) -> None:
        """Give the worker up; its job takes another where this one is known to have ended."""
        if self._jobs is None:
            return
        self._jobs.n_workers_wanted -= 1
        if self._job_task is not None and self._has_ended:
            self._job_task.is_taken = False
        elif self._job_task is not None:
            self._jobs.drop(self._job_task)
        self._jobs = self._job_task = None


class SlurmExecutor(ClusterExecutor[WorkerInJob]):
    """Runs evaluations in jobs of Slurm.

    Raises RequestError when Slurm refuses the first of them, UnetxError when a worker that comes up before any other is
    not fit.
    """

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
            jobs.wait([connection for worker in workers for connection in worker.connections], timeout_s)

        super().__init__(
            evaluator,
            task,
            slots,
            lambda spec: WorkerInJob(spec, jobs),
            wait_for_reports,
            workers_per_gpu=workers_per_gpu,
            checkpoints=checkpoints,
            log_folder=log_folder,
            overtime_s=overtime_s,
        )

    def poll(self, handler: Handler, timeout_s: float) -> None:
        super().poll(handler, timeout_s)
        self._is_starting = self._is_starting and not any(slot.is_up for slot in self._slots)
