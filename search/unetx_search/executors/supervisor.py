"""The executor over workers, wherever they run: hands jobs out, keeps to their limits, replaces workers that ended.

Nothing that breaks on the way can count a trial twice. A job ends with the first report that ends it, and its number is
spent; a worker is heard through one handle, which is dropped when the worker or the way to it ends, so that whatever a
lost worker still does is heard by nobody; and only Exited, which the process that started the worker tells, counts
against the job.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import math
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Evaluator, Outcome
from unetx_search.executors import messages
from unetx_search.executors.base import Executor, Handler, Job, failed_evaluation
from unetx_search.executors.slots import Slot
from unetx_search.executors.worker_handle import KILL_TIMEOUT_S, WorkerHandle
from unetx_space.errors import UnetxError
from unetx_studies.disk_full import StorageFull

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
"""Workers of one slot that may end one after another before any of them begins a job."""
SILENT_AFTER_KILL_S = 30.0
"""A worker that was to be killed and is not heard of for so long is lost."""
UNFIT_S = 60.0
"""For a slot whose worker turned out unfit, before another is tried."""

H = TypeVar("H", bound=WorkerHandle)
Start = Callable[[Slot, Path | None], H]
"""Starts a worker in a slot, with its log file."""
Wait = Callable[[Sequence[H], float], None]
"""Waits until one of the workers has something to tell, at most so many seconds."""


@dataclass(slots=True)
class HeldJob:
    """A job in its slot."""

    number: int
    job: Job
    is_sent: bool = False
    """The worker has it."""
    began_s: float = math.inf
    """When its worker was told to have begun it."""
    interrupted: bool = False
    curve: list[CurvePoint] = field(default_factory=list)

    @property
    def has_begun(self) -> bool:
        return self.began_s < math.inf

    def is_overdue(self, overtime_s: float) -> bool:
        """It runs on, long after its evaluator should have ended it."""
        return time.monotonic() - self.began_s > self.job.budget.max_seconds + overtime_s

    def failure(self, outcome: Outcome, reason: str) -> Evaluation:
        return failed_evaluation(outcome, reason, curve=self.curve, seconds=time.monotonic() - self.began_s)


@dataclass(slots=True)
class SlotState(Generic[H]):
    """A slot, its worker (none until there is work, unless all start at once) and the job it has."""

    slot: Slot
    log_file: Path | None
    label: str
    """Of the device, for people."""
    handle: H | None = None
    is_up: bool = False
    """The worker has said hello."""
    killed_at_s: float | None = None
    """When the worker was to be killed because its job was overdue."""
    ended: H | None = None
    """The worker before, while its memory is not free yet."""
    held: HeldJob | None = None
    n_failed_starts: int = 0
    trouble: str = ""
    """Traceback of what kept the last worker from starting."""
    start_at_s: float = 0.0
    """No worker is started before."""

    @property
    def has_end_to_tell(self) -> bool:
        """The job was interrupted before a worker had it: nothing will come."""
        return self.held is not None and self.held.interrupted and not self.held.is_sent

    @property
    def where(self) -> str:
        return f"worker {self.slot.index} on {self.label}"

    def is_resting(self) -> bool:
        """The memory of the worker that ended is not free yet."""
        if self.ended is not None and self.ended.is_released():
            self.ended.release()
            self.ended = None
        return self.ended is not None


class Supervisor(Executor, Generic[H]):
    """A worker per slot, used again for the next job, replaced when it ended. Evaluator and task are pickled here.

    A worker that dies under a job loses it, with the exit code or signal as the reason; one that runs ``overtime_s``
    past the budget's own limit hangs, is killed and counts as TIMED_OUT. After either, the slot takes no job before
    the GPU's memory is free again. A worker to which the connection is lost preempts its job. With a ``log_folder``
    what worker N prints is appended to ``worker-N.log`` there.

    Workers ignore SIGINT and SIGTERM, so ``close`` hangs up first (a worker leaves at once, whatever it does) and
    then kills; SIGTERM would say nothing more.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        task: Task,
        slots: Sequence[Slot],
        start: Start[H],
        wait: Wait[H],
        *,
        starts_at_once: bool = False,
        log_folder: Path | None = None,
        overtime_s: float = 60.0,
    ) -> None:
        """``starts_at_once``: a slot takes no job before its worker is up; otherwise jobs start the workers."""
        if log_folder is not None:
            log_folder = log_folder.absolute()
            log_folder.mkdir(parents=True, exist_ok=True)
        self._setup = messages.Setup(pickle.dumps((evaluator, task)))
        self._numbers = itertools.count(1)
        self._start = start
        self._wait = wait
        self._starts_at_once = starts_at_once
        self._overtime_s = overtime_s
        self._closed = False
        self._slots: list[SlotState[H]] = [
            SlotState(slot, log_folder and log_folder / f"worker-{slot.index}.log", slot.label) for slot in slots
        ]
        self.n_slots = len(slots)
        atexit.register(self.close)  # before multiprocessing's own exit hook, which would wait for the workers forever

    def n_free(self) -> int:
        return 0 if self._closed else sum(map(self._is_free, self._slots))

    def _is_free(self, slot: SlotState[H]) -> bool:
        is_idle = slot.held is None and slot.killed_at_s is None and not slot.is_resting()
        return is_idle and (slot.is_up or not self._starts_at_once)

    def submit(self, job: Job) -> None:
        slot = next(filter(self._is_free, self._slots), None)
        if self._closed or slot is None:
            why = "it is closed" if self._closed else f"none of {self.n_slots} slots is free"
            raise RuntimeError(f"an executor takes a job while n_free() > 0; trial {job.trial} came when {why}")
        slot.held = HeldJob(next(self._numbers), job)
        self._ensure_worker(slot)
        self._hand_over(slot)

    def poll(self, handler: Handler, timeout_s: float) -> None:
        is_told = any(slot.has_end_to_tell for slot in self._slots)
        self._wait([slot.handle for slot in self._slots if slot.handle is not None], 0.0 if is_told else timeout_s)
        for slot in self._slots:
            self._attend(slot, handler)

    def interrupt(self) -> None:
        for slot in self._slots:
            if slot.held is not None and not slot.held.interrupted:
                slot.held.interrupted = True
                if slot.handle is not None and slot.held.is_sent:
                    slot.handle.send(messages.Interrupt(slot.held.number))

    def close(self, timeout_s: float = 10.0) -> None:
        self._closed = True
        atexit.unregister(self.close)
        handles = [slot.handle for slot in self._slots if slot.handle is not None]
        ended = [slot.ended for slot in self._slots if slot.ended is not None]
        for slot in self._slots:
            slot.handle = slot.ended = slot.held = None
        left = handles
        try:
            for handle in handles:
                handle.hang_up()
            left = self._await_ends(handles, timeout_s)
        finally:  # a second Ctrl-C goes straight to the killing
            for handle in left:
                handle.kill()
            self._await_ends(left, KILL_TIMEOUT_S)
            for handle in (*handles, *ended):
                handle.release()

    def _await_ends(self, handles: list[H], timeout_s: float) -> list[H]:
        """Wait for the ends of workers that nobody hears any more; those that are left when time is up."""
        deadline_s = time.monotonic() + timeout_s
        while handles and (left_s := deadline_s - time.monotonic()) > 0:
            self._wait(handles, left_s)
            handles = [handle for handle in handles if not _has_ended(handle)]
        return handles

    # A slot and its worker.

    def _ensure_worker(self, slot: SlotState[H]) -> None:
        is_wanted = self._starts_at_once or slot.held is not None
        if slot.handle is None and is_wanted and not slot.is_resting() and time.monotonic() >= slot.start_at_s:
            slot.trouble = ""
            slot.handle = self._start(slot.slot, slot.log_file)

    def _hand_over(self, slot: SlotState[H]) -> None:
        if slot.handle is not None and slot.is_up and slot.held is not None and not slot.held.interrupted:
            slot.handle.send(messages.Begin(slot.held.number, slot.held.job))
            slot.held.is_sent = True

    def _attend(self, slot: SlotState[H], handler: Handler) -> None:
        """Tell the handler what this slot's worker did since the last time."""
        while slot.handle is not None and (report := slot.handle.receive()) is not None:
            self._heed(slot, slot.handle, report, handler)
        now_s = time.monotonic()
        if slot.has_end_to_tell:
            self._end_job(slot, handler, None)
        elif slot.killed_at_s is not None and now_s > slot.killed_at_s + SILENT_AFTER_KILL_S:
            self._heed_lost(slot, "it was to be killed, and nothing was heard of it", handler)
        elif slot.killed_at_s is None and slot.handle and slot.held and slot.held.is_overdue(self._overtime_s):
            slot.killed_at_s = now_s
            slot.handle.kill()
        self._ensure_worker(slot)

    def _heed(self, slot: SlotState[H], handle: H, report: messages.Report, handler: Handler) -> None:
        match report:
            case messages.Hello():
                slot.is_up, slot.label = True, report.label
                handle.send(self._setup)
                self._hand_over(slot)
            case messages.StartFailed():
                slot.trouble = report.traceback
            case messages.Exited():
                self._heed_exit(slot, report.how, handler)
            case messages.ConnectionLost():
                self._heed_lost(slot, report.reason, handler)
            case messages.Unfit():
                self._heed_unfit(slot, report.problem)
            case _ if slot.held is not None and slot.held.number == report.number:
                self._heed_job(slot, handle, slot.held, report, handler)

    def _heed_job(
        self, slot: SlotState[H], handle: H, held: HeldJob, report: messages.JobReport, handler: Handler
    ) -> None:
        trial = held.job.trial
        match report:
            case _ if held.interrupted and not held.has_begun:  # nobody was told that it began, nor is of the rest
                if isinstance(report, messages.Finished | messages.Left | messages.DiskFull):
                    self._end_job(slot, handler, None)
            case messages.Started():
                held.began_s, slot.n_failed_starts = time.monotonic(), 0
                handler.on_started(trial, slot.slot.index, slot.label, report.process)
            case messages.Stepped():
                handler.on_step(trial, report.step)
            case messages.ReachedRung():
                held.curve.append(report.point)
                handle.send(messages.Answer(held.number, handler.on_rung(trial, report.point)))
            case messages.Finished():
                self._end_job(slot, handler, report.evaluation)
            case messages.Left():
                self._end_job(slot, handler, None)
            case messages.DiskFull():
                self._end_job(slot, handler, None)
                raise StorageFull(report.message)

    def _end_job(self, slot: SlotState[H], handler: Handler, evaluation: Evaluation | None) -> None:
        """Free the slot, then tell how the job ended; None: without a result."""
        held, slot.held = slot.held, None
        assert held is not None
        if evaluation is None:
            handler.on_interrupted(held.job.trial)
        else:
            handler.on_finished(held.job.trial, slot.slot.index, evaluation)

    def _drop_worker(self, slot: SlotState[H], *, has_exited: bool = False) -> None:
        """Hear this worker no more; one that has exited is kept until its memory is free."""
        if slot.handle is not None and not has_exited:
            slot.handle.release()
        slot.ended = slot.handle if has_exited else None
        slot.handle, slot.is_up, slot.killed_at_s = None, False, None

    def _heed_exit(self, slot: SlotState[H], how: str, handler: Handler) -> None:
        """The worker ended, by what the process that started it says: that ends the job if it had begun."""
        was_overdue, held = slot.killed_at_s is not None, slot.held
        self._drop_worker(slot, has_exited=True)
        if held is None:
            if slot.trouble:
                self._count_failed_start(slot, how)
        elif held.interrupted:
            self._end_job(slot, handler, None)
        elif not held.has_begun:
            held.is_sent = False
            self._count_failed_start(slot, how)
        elif was_overdue:
            limit = f"{held.job.budget.max_seconds:g} s and {self._overtime_s:g} s more"
            reason = f"hung: still running after its {limit}, so its worker was killed"
            self._end_job(slot, handler, held.failure(Outcome.TIMED_OUT, reason))
        else:
            slot.held = None
            log = f"; its log is {slot.log_file}" if slot.log_file else ""
            crash = held.failure(Outcome.CRASHED, f"{slot.where} {how}{log}")
            handler.on_lost(held.job.trial, slot.slot.index, crash)

    def _heed_lost(self, slot: SlotState[H], reason: str, handler: Handler) -> None:
        """Nothing is known of the worker any more: its job, which may have ended well or ill, is to be run again."""
        was_up, held = slot.is_up, slot.held
        self._drop_worker(slot)
        if not was_up:
            self._count_failed_start(slot, f"was lost ({reason})")
        elif held is not None and held.interrupted:
            self._end_job(slot, handler, None)
        elif held is not None:
            slot.held = None
            handler.on_preempted(held.job.trial, f"{slot.where} was lost ({reason})")

    def _heed_unfit(self, slot: SlotState[H], problem: str) -> None:
        """No worker can do its work there now: the slot is left out for a while."""
        logger.warning("worker %d is tried again in %g s: %s", slot.slot.index, UNFIT_S, problem)
        slot.start_at_s = time.monotonic() + UNFIT_S
        self._drop_worker(slot)

    def _count_failed_start(self, slot: SlotState[H], how: str) -> None:
        slot.n_failed_starts += 1
        if slot.n_failed_starts >= MAX_FAILED_STARTS:
            log = f" The log is {slot.log_file}." if slot.log_file else ""
            raise UnetxError(
                f"a worker must start before it can evaluate; {slot.where} {how} while starting, "
                f"{slot.n_failed_starts} times in a row.{log} Check that unetx-search, the evaluator and what it "
                "imports load in a fresh Python on every machine, and that a script which starts a search does so "
                f'under if __name__ == "__main__".\n{slot.trouble}'.rstrip()
            )


def _has_ended(handle: WorkerHandle) -> bool:
    while (report := handle.receive()) is not None:
        if isinstance(report, messages.Exited | messages.ConnectionLost | messages.Unfit):
            return True
    return False
