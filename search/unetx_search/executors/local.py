"""One spawned process per slot on this machine, each pinned to its device before anything can import torch."""

from __future__ import annotations

import atexit
import itertools
import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Evaluator, Outcome
from unetx_search.executors import worker
from unetx_search.executors.base import Executor, Handler, Job, failed_evaluation, tell_end
from unetx_search.executors.memory import FreeMemoryProbe, MemoryWatch, Rest, nvidia_smi_free
from unetx_search.executors.process import WorkerProcess, end_all
from unetx_search.executors.slots import Slot
from unetx_space.errors import UnetxError
from unetx_studies.disk_full import StorageFull

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

MAX_FAILED_STARTS = 3
"""Worker processes of one seat that may die one after another before any of them begins the job."""


class LocalExecutor(Executor):
    """A worker process per slot, started with its seat's first job, used again for the next, replaced when it died.

    A worker that dies under a job loses it, with the exit code or signal as the reason; one that runs ``overtime_s``
    past the budget's own limit hangs, is killed and counts as TIMED_OUT. After either, the seat takes no job before
    the GPU's memory is free again. With a ``log_folder`` what worker N prints is appended to ``worker-N.log`` there.
    Evaluator and task are pickled once, here.

    Workers ignore SIGINT and SIGTERM, so ``close`` hangs up first (a worker leaves at once, whatever it does) and
    then kills; SIGTERM would say nothing more.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        task: Task,
        slots: Sequence[Slot],
        *,
        log_folder: Path | None = None,
        overtime_s: float = 60.0,
        free_memory: FreeMemoryProbe = nvidia_smi_free,
    ) -> None:
        if log_folder is not None:
            log_folder.mkdir(parents=True, exist_ok=True)
        setup = worker.Setup(pickle.dumps((evaluator, task)))
        numbers = itertools.count(1)
        watch = MemoryWatch(slots, probe=free_memory)
        self.n_slots = len(slots)
        self._seats = [Seat(slot, setup, numbers, log_folder, overtime_s, watch) for slot in slots]
        self._closed = False
        atexit.register(self.close)  # before multiprocessing's own exit hook, which would wait for the workers forever

    def n_free(self) -> int:
        return sum(seat.free for seat in self._seats)

    def submit(self, job: Job) -> None:
        seat = next((seat for seat in self._seats if seat.free), None)
        if self._closed or seat is None:
            why = "it is closed" if self._closed else f"none of {self.n_slots} seats is free"
            raise RuntimeError(f"an executor takes a job while n_free() > 0; trial {job.trial} came when {why}")
        seat.take(job)

    def poll(self, handler: Handler, timeout_s: float) -> None:
        timeout_s = 0.0 if any(seat.withdrawn for seat in self._seats) else timeout_s
        wait([source for seat in self._seats for source in seat.sources()], timeout_s)
        for seat in self._seats:
            seat.attend(handler)

    def interrupt(self) -> None:
        for seat in self._seats:
            seat.interrupt()

    def close(self, timeout_s: float = 10.0) -> None:
        self._closed = True
        atexit.unregister(self.close)
        end_all([process for seat in self._seats if (process := seat.vacate()) is not None], timeout_s)


class _Stage(Enum):
    """How far a job has come."""

    WAITING = "its worker is not up yet"
    SENT = "the worker has it"
    RUNNING = "the worker has begun"


@dataclass(slots=True)
class _Assignment:
    """A job in its seat."""

    number: int
    job: Job
    stage: _Stage = _Stage.WAITING
    began_s: float = 0.0
    interrupted: bool = False
    curve: list[CurvePoint] = field(default_factory=list)

    def failure(self, outcome: Outcome, reason: str) -> Evaluation:
        return failed_evaluation(outcome, reason, curve=self.curve, seconds=time.monotonic() - self.began_s)


class Seat:
    """A slot, its worker process (none until there is work) and the job it has."""

    def __init__(
        self,
        slot: Slot,
        setup: worker.Setup,
        numbers: Iterator[int],
        log_folder: Path | None,
        overtime_s: float,
        watch: MemoryWatch,
    ) -> None:
        self._slot = slot
        self._setup = setup
        self._numbers = numbers
        self._log_file = None if log_folder is None else log_folder / f"worker-{slot.index}.log"
        self._overtime_s = overtime_s
        self._process: WorkerProcess | None = None
        self._assignment: _Assignment | None = None
        self._n_failed_starts = 0
        self._watch = watch
        self._rest: Rest | None = None

    @property
    def free(self) -> bool:
        return self._assignment is None and self._rest is None

    @property
    def withdrawn(self) -> bool:
        """The job was interrupted before its worker was up: nothing will come, it only has to be told."""
        held = self._assignment
        return held is not None and held.interrupted and held.stage is _Stage.WAITING

    def sources(self) -> list[Connection[worker.Order, worker.Report] | int]:
        """What to wait for: words from the worker, or its death."""
        return [] if self._process is None else [self._process.connection, self._process.sentinel]

    def take(self, job: Job) -> None:
        self._assignment = _Assignment(next(self._numbers), job)
        if self._process is None:
            self._process = WorkerProcess(self._slot, self._log_file)
        self._hand_over()

    def _hand_over(self) -> None:
        held, process = self._assignment, self._process
        if held is not None and process is not None and process.up and not held.interrupted:
            process.send(worker.Begin(held.number, held.job))
            held.stage = _Stage.SENT

    def interrupt(self) -> None:
        held, process = self._assignment, self._process
        if held is not None:
            held.interrupted = True
            if process is not None and held.stage is not _Stage.WAITING:
                process.send(worker.Interrupt(held.number))

    def vacate(self) -> WorkerProcess | None:
        """Give up job and process; the caller ends the process."""
        process, self._process, self._assignment = self._process, None, None
        return process

    def attend(self, handler: Handler) -> None:
        """Tell the handler what this seat's worker did since the last time."""
        if self._rest is not None and self._rest.is_over():
            self._rest = None
        dead = self._process is not None and self._process.died()  # asked first: its last words are in the pipe by now
        while self._process is not None and (report := self._process.receive()) is not None:
            self._heed(report, handler)
        if self._process is not None and (dead or self._process.silent):
            self._bury(self._process, handler)
        elif self.withdrawn:
            self._close_job(handler, None)
        elif self._overdue():
            self._stop_overdue(handler)

    def _heed(self, report: worker.Report, handler: Handler) -> None:
        assert self._process is not None
        match report:
            case worker.Hello():
                self._process.up = True
                self._process.send(self._setup)
                self._hand_over()
            case worker.Broken():
                self._process.trouble = report.traceback
            case _ if self._assignment is not None:
                self._heed_job(self._assignment, self._process, report, handler)

    def _heed_job(self, held: _Assignment, process: WorkerProcess, report: worker.Report, handler: Handler) -> None:
        trial = held.job.trial
        match report:
            case worker.Started():
                held.stage, held.began_s = _Stage.RUNNING, time.monotonic()
                self._n_failed_starts = 0
                handler.on_started(trial, self._slot.index, self._slot.label, report.process)
            case worker.Stepped():
                handler.on_step(trial, report.step)
            case worker.ReachedRung():
                held.curve.append(report.point)
                process.send(worker.Answer(held.number, handler.on_rung(trial, report.point)))
            case worker.Finished():
                self._close_job(handler, report.evaluation)
            case worker.Left():
                self._close_job(handler, None)
            case worker.DiskFull():
                self._close_job(handler, None)
                raise StorageFull(report.message)

    def _close_job(self, handler: Handler, evaluation: Evaluation | None) -> None:
        """Free the seat, then tell how the job ended; None: without a result."""
        held, self._assignment = self._assignment, None
        if held is not None:
            tell_end(handler, held.job.trial, self._slot.index, evaluation)

    def _bury(self, process: WorkerProcess, handler: Handler) -> None:
        """A process ended by itself: that ends the job if it had begun; if not, another process gets it."""
        self._process = None
        cause = process.bury()
        self._rest = self._watch.rest(self._slot)
        held = self._assignment
        if held is None:
            return
        if held.interrupted:
            self._close_job(handler, None)
        elif held.stage is _Stage.RUNNING:
            trial = held.job.trial
            log = f"; its log is {self._log_file}" if self._log_file else ""
            reason = f"worker {self._slot.index} on {self._slot.label} {cause}{log}"
            self._assignment = None
            handler.on_lost(trial, self._slot.index, held.failure(Outcome.CRASHED, reason))
        else:
            self._start_again(held, cause, process.trouble)

    def _start_again(self, held: _Assignment, cause: str, trouble: str) -> None:
        self._n_failed_starts += 1
        if self._n_failed_starts >= MAX_FAILED_STARTS:
            log = f" The log is {self._log_file}." if self._log_file else ""
            raise UnetxError(
                f"a worker must start before it can evaluate; worker {self._slot.index} on {self._slot.label} {cause} "
                f"while starting, {self._n_failed_starts} times in a row.{log} Check that the evaluator and what it "
                "imports load in a fresh Python, and that a script which starts a search does so under "
                f'if __name__ == "__main__".\n{trouble}'.rstrip()
            )
        held.stage = _Stage.WAITING
        self._process = WorkerProcess(self._slot, self._log_file)

    def _overdue(self) -> bool:
        held = self._assignment
        if held is None or held.stage is not _Stage.RUNNING:
            return False
        return time.monotonic() - held.began_s > held.job.budget.max_seconds + self._overtime_s

    def _stop_overdue(self, handler: Handler) -> None:
        held, process = self._assignment, self._process
        if held is None or process is None:
            return
        self._process = None
        process.kill()
        self._rest = self._watch.rest(self._slot)
        limit = f"{held.job.budget.max_seconds:g} s and {self._overtime_s:g} s more"
        hung = held.failure(Outcome.TIMED_OUT, f"hung: still running after its {limit}, so its worker was killed")
        self._close_job(handler, None if held.interrupted else hung)
