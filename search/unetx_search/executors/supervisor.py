"""The executor over workers, wherever they run: hands jobs out, keeps to their limits, replaces workers that ended.

Nothing that breaks on the way can count a trial twice. A job ends with the first report that ends it, and its number is
spent; a worker is heard through one handle, which is dropped when the worker or the way to it ends, so that whatever a
lost worker still does is heard by nobody; and only two reports count against the job: Exited, which the process that
started the worker tells, and DeviceLost of an error that the job's own computation may have caused.

A slot is judged, too: one that fails again and again is retired, and work goes on in the others.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import math
import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic

from unetx_evaluators.evaluation import Evaluation, Evaluator, Outcome
from unetx_search.executors import messages
from unetx_search.executors.base import Executor, Handler, Job
from unetx_search.executors.slot_state import MAX_SETBACKS, H, HeldJob, SlotState
from unetx_search.executors.slots import Slot
from unetx_search.executors.worker_handle import KILL_TIMEOUT_S, WorkerHandle
from unetx_space.errors import UnetxError
from unetx_studies.disk_full import StorageFull

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

logger = logging.getLogger(__name__)

SILENT_AFTER_KILL_S = 30.0
"""Seconds without a report after which a worker that was killed counts as lost."""
UNFIT_S = 60.0
"""Seconds before another worker is tried in a slot whose worker was not fit."""

StartWorker = Callable[[Slot, Path | None], H]
"""Starts a worker in a slot, with the file for its log."""
WaitForReports = Callable[[Sequence[H], float], None]
"""Waits until one of the workers has a report, at most so many seconds."""


class Supervisor(Executor, Generic[H]):
    """Runs evaluations in one worker per slot, which takes job after job and is replaced when it ends.

    Evaluator and task are pickled here. A worker that dies under a job loses it, with the exit code or signal as the
    reason; so does one that hangs, which is killed; one that runs ``overtime_s`` past the budget's own limit is killed
    and its job counts as TIMED_OUT. After any of them the slot takes no job before the GPU's memory is free again. A
    lost connection preempts the job. A worker whose device failed is replaced; its job is lost if it may have been the
    cause, else preempted. With a ``log_folder`` what worker N prints is appended to ``worker-N.log`` there.

    Workers ignore SIGINT and SIGTERM, so ``close`` first closes their connections, upon which a worker exits at once,
    and then kills those that are left.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        task: Task,
        slots: Sequence[Slot],
        start: StartWorker[H],
        wait: WaitForReports[H],
        *,
        starts_at_once: bool = False,
        log_folder: Path | None = None,
        overtime_s: float = 60.0,
    ) -> None:
        """With ``starts_at_once`` a slot takes no job before its worker is up; otherwise jobs start the workers."""
        if log_folder is not None:
            log_folder = log_folder.absolute()
            log_folder.mkdir(parents=True, exist_ok=True)
        self._setup = messages.Setup(pickle.dumps((evaluator, task)))
        self._numbers = itertools.count(1)
        self._start = start
        self._wait = wait
        self._starts_at_once = starts_at_once
        self._overtime_s = overtime_s
        self._last_poll_s = time.monotonic()
        """When the last poll ended."""
        self._longest_silence_s = math.inf
        """The longest time between two reports on a job that ended well."""
        self._failed_on: dict[int, set[str]] = {}
        """Devices that failed under each trial."""
        self._suspects: set[int] = set()
        """Trials that ran together when their GPU's service broke. To show which of them broke it, each runs alone."""
        self._closed = False
        self._slots: list[SlotState[H]] = [
            SlotState(slot, log_folder and log_folder / f"worker-{slot.index}.log", slot.label) for slot in slots
        ]
        self.n_slots = len(slots)
        atexit.register(self.close)  # before multiprocessing's own exit hook, which would wait for the workers forever

    def n_free(self) -> int:
        return 0 if self._closed else sum(map(self._is_free, self._slots))

    def _is_free(self, slot: SlotState[H]) -> bool:
        is_idle = slot.held is None and slot.killed_at_s is None and not slot.retired and not slot.waits_for_memory()
        is_ready = is_idle and (slot.is_up or not self._starts_at_once)
        return is_ready and not any(held.job.trial in self._suspects for held in self._jobs_beside(slot))

    def takes(self, trial: int) -> bool:
        return not self._closed and self._slot_for(trial) is not None

    def _slot_for(self, trial: int) -> SlotState[H] | None:
        """A free slot on a device that has not failed under the trial, or on any where all have."""
        failed = self._failed_on.get(trial, set())
        at_work = [slot for slot in self._slots if not slot.retired]
        if trial in self._suspects:
            at_work = [slot for slot in at_work if not self._jobs_beside(slot)]
        others = [slot for slot in at_work if slot.device not in failed]
        return next(filter(self._is_free, others or at_work), None)

    def _slots_beside(self, slot: SlotState[H]) -> list[SlotState[H]]:
        """The other slots of the service that the slot's worker computes through."""
        return [
            other
            for other in self._slots
            if other is not slot and slot.slot.uses_mps and other.slot.uses_mps and other.device == slot.device
        ]

    def _jobs_beside(self, slot: SlotState[H]) -> list[HeldJob]:
        return [other.held for other in self._slots_beside(slot) if other.held is not None]

    def submit(self, job: Job) -> None:
        slot = self._slot_for(job.trial) or next(filter(self._is_free, self._slots), None)
        if self._closed or slot is None:
            why = "it is closed" if self._closed else f"none of {self.n_slots} slots is free"
            raise RuntimeError(f"an executor takes a job while n_free() > 0; trial {job.trial} came when {why}")
        slot.held = HeldJob(next(self._numbers), job)
        self._ensure_worker(slot)
        self._send_job(slot)

    def poll(self, handler: Handler, timeout_s: float) -> None:
        is_told = any(slot.is_withdrawn for slot in self._slots)
        self._wait([slot.handle for slot in self._slots if slot.handle is not None], 0.0 if is_told else timeout_s)
        unattended_s = time.monotonic() - self._last_poll_s - timeout_s
        for slot in self._slots:
            if slot.held is not None and unattended_s > 0:  # nobody listened, as while all are stopped by Ctrl-Z
                slot.held.last_report_s += unattended_s
            self._update_slot(slot, handler)
        self._last_poll_s = time.monotonic()

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
        exited = [slot.exited for slot in self._slots if slot.exited is not None]
        for slot in self._slots:
            slot.handle = slot.exited = slot.held = None
        left = handles
        try:
            for handle in handles:
                handle.hang_up()
            left = self._await_ends(handles, timeout_s)
        finally:  # a second Ctrl-C goes straight to the killing
            for handle in left:
                handle.kill()
            self._await_ends(left, KILL_TIMEOUT_S)
            for handle in (*handles, *exited):
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
        is_wanted = not slot.retired and (self._starts_at_once or slot.held is not None)
        if slot.handle is None and is_wanted and not slot.waits_for_memory() and time.monotonic() >= slot.start_at_s:
            slot.start_error = ""
            slot.handle = self._start(slot.slot, slot.log_file)

    def _send_job(self, slot: SlotState[H]) -> None:
        if slot.handle is not None and slot.is_up and slot.held is not None and not slot.held.interrupted:
            slot.handle.send(messages.Begin(slot.held.number, slot.held.job))
            slot.held.is_sent = True

    def _update_slot(self, slot: SlotState[H], handler: Handler) -> None:
        """Tell the handler what this slot's worker did since the last time."""
        while slot.handle is not None and (report := slot.handle.receive()) is not None:
            self._on_report(slot, slot.handle, report, handler)
        now_s = time.monotonic()
        if slot.is_withdrawn:
            self._end_job(slot, handler, None)
        elif slot.killed_at_s is not None and now_s > slot.killed_at_s + SILENT_AFTER_KILL_S:
            self._on_connection_lost(slot, "it was to be killed, and nothing was heard of it", handler)
        elif slot.killed_at_s is None and slot.held is not None and self._must_be_killed(slot.held):
            self._end_worker(slot)
        self._ensure_worker(slot)

    def _must_be_killed(self, held: HeldJob) -> bool:
        return held.is_overdue(self._overtime_s) or held.hangs(self._longest_silence_s)

    def _end_worker(self, slot: SlotState[H]) -> None:
        """Another worker is to take this one's place, once its end is known."""
        if slot.handle is not None:
            slot.killed_at_s = time.monotonic()
            slot.handle.kill()

    def _on_report(self, slot: SlotState[H], handle: H, report: messages.Report, handler: Handler) -> None:
        match report:
            case messages.Hello():
                slot.is_up, slot.label = True, report.label
                handle.send(self._setup)
                self._send_job(slot)
            case messages.StartFailed():
                slot.start_error = report.traceback
            case messages.Exited():
                self._on_exit(slot, report.how, handler)
            case messages.ConnectionLost():
                self._on_connection_lost(slot, report.reason, handler)
            case messages.Unfit():
                self._on_unfit(slot, report.problem)
            case _ if slot.held is not None and slot.held.number == report.number:
                self._on_job_report(slot, handle, slot.held, report, handler)

    def _on_job_report(
        self, slot: SlotState[H], handle: H, held: HeldJob, report: messages.JobReport, handler: Handler
    ) -> None:
        trial = held.job.trial
        held.note_report()
        match report:
            case _ if held.interrupted and not held.has_begun:  # nobody was told that it began, nor is of the rest
                if isinstance(report, messages.DeviceLost):
                    self._end_worker(slot)
                if isinstance(report, messages.JobEnd):
                    self._end_job(slot, handler, None)
            case messages.Started():
                held.began_s, held.last_report_s, slot.n_failed_starts = time.monotonic(), time.monotonic(), 0
                handler.on_started(trial, slot.slot.index, slot.label, report.process)
            case messages.Stepped():
                handler.on_step(trial, report.step)
            case messages.ReachedRung():
                held.curve.append(report.point)
                handle.send(messages.Answer(held.number, handler.on_rung(trial, report.point)))
                held.last_report_s = time.monotonic()  # what the handler took is not the worker's
            case messages.Finished():
                self._on_answer(slot, held, report.evaluation)
                self._end_job(slot, handler, report.evaluation)
            case messages.DeviceLost():
                self._end_worker(slot)
                self._on_device_lost(slot, held, report, handler)
            case messages.Interrupted():
                self._end_job(slot, handler, None)
            case messages.DiskFull():
                self._end_job(slot, handler, None)
                raise StorageFull(report.message)

    def _on_answer(self, slot: SlotState[H], held: HeldJob, evaluation: Evaluation) -> None:
        """What an answer tells of the slot and its worker."""
        slot.failures.clear()
        self._failed_on.pop(held.job.trial, None)
        self._suspects.discard(held.job.trial)
        if evaluation.outcome is Outcome.COMPLETE:
            before_s = 0.0 if self._longest_silence_s == math.inf else self._longest_silence_s
            self._longest_silence_s = max(held.longest_silence_s, before_s)
        if evaluation.needs_new_process and slot.killed_at_s is None:
            self._end_worker(slot)

    def _on_device_lost(self, slot: SlotState[H], held: HeldJob, report: messages.DeviceLost, handler: Handler) -> None:
        reason = f"{slot.where} lost its device: {report.reason}"
        beside = self._jobs_beside(slot)
        self._restart_beside(slot, reason, handler)
        if held.interrupted:
            self._end_job(slot, handler, None)
        elif beside:  # any of them may have done it
            self._suspects |= {other.job.trial for other in (held, *beside)}
            slot.held = None
            handler.on_preempted(held.job.trial, reason)
            return
        elif report.may_be_design:
            self._report_lost(slot, held, held.failure(Outcome.CRASHED, reason), handler)
        else:
            slot.held = None
            handler.on_preempted(held.job.trial, reason)
        self._count_failed_device(slot, held, reason, may_be_design=report.may_be_design)

    def _restart_beside(self, slot: SlotState[H], reason: str, handler: Handler) -> None:
        """A worker broke off in its computations: the service, and all whom it serves, are in an unknown state."""
        for other in self._slots_beside(slot):
            held, other.held = other.held, None
            if other.killed_at_s is None:
                self._end_worker(other)
            if held is not None and held.interrupted:
                handler.on_interrupted(held.job.trial)
            elif held is not None:
                handler.on_preempted(held.job.trial, f"its GPU's workers start anew, for {reason}")

    def _report_lost(self, slot: SlotState[H], held: HeldJob, evaluation: Evaluation, handler: Handler) -> None:
        """Free the slot of a job that may be what ended its worker, and tell."""
        slot.held = None
        handler.on_lost(held.job.trial, slot.slot.index, evaluation)

    def _end_job(self, slot: SlotState[H], handler: Handler, evaluation: Evaluation | None) -> None:
        """Free the slot, then tell how the job ended; None: without a result."""
        held, slot.held = slot.held, None
        assert held is not None
        if evaluation is None:
            handler.on_interrupted(held.job.trial)
        else:
            handler.on_finished(held.job.trial, slot.slot.index, evaluation)

    def _drop_worker(self, slot: SlotState[H], *, has_exited: bool = False) -> None:
        """Hear this worker no more; one that has ended is kept until its memory is free."""
        if slot.handle is not None and not has_exited:
            slot.handle.release()
        slot.exited = slot.handle if has_exited else None
        slot.handle, slot.is_up, slot.killed_at_s = None, False, None

    def _on_exit(self, slot: SlotState[H], how: str, handler: Handler) -> None:
        """The worker ended, by what the process that started it says: that ends the job if it had begun."""
        was_killed, held = slot.killed_at_s is not None, slot.held
        self._drop_worker(slot, has_exited=True)
        if held is not None and held.has_begun:
            self._restart_beside(slot, f"{slot.where} {how}", handler)
        if held is None:
            if slot.start_error:
                self._count_failed_start(slot, how, handler)
        elif held.interrupted:
            self._end_job(slot, handler, None)
        elif not held.has_begun:
            held.is_sent = False
            self._count_failed_start(slot, how, handler)
        elif was_killed and not held.is_overdue(self._overtime_s):
            silent_s = time.monotonic() - held.last_report_s
            reason = f"hung: {slot.where} told nothing for {silent_s:.0f} s and was killed"
            self._report_lost(slot, held, held.failure(Outcome.TIMED_OUT, reason), handler)
            self._count_failed_device(slot, held, reason, may_be_design=True)
        elif was_killed:
            limit = f"{held.job.budget.max_seconds:g} s and {self._overtime_s:g} s more"
            reason = f"hung: still running after its {limit}, so its worker was killed"
            self._end_job(slot, handler, held.failure(Outcome.TIMED_OUT, reason))
        else:
            log = f"; its log is {slot.log_file}" if slot.log_file else ""
            self._report_lost(slot, held, held.failure(Outcome.CRASHED, f"{slot.where} {how}{log}"), handler)

    def _on_connection_lost(self, slot: SlotState[H], reason: str, handler: Handler) -> None:
        """Nothing is known of the worker any more: its job, which may have ended well or ill, is to be run again."""
        was_up, held = slot.is_up, slot.held
        self._drop_worker(slot)
        if not was_up:
            self._count_failed_start(slot, f"was lost ({reason})", handler)
        elif held is not None and held.interrupted:
            self._end_job(slot, handler, None)
        elif held is not None:
            slot.held = None
            handler.on_preempted(held.job.trial, f"{slot.where} was lost ({reason})")

    def _on_unfit(self, slot: SlotState[H], problem: str) -> None:
        """No worker can do its work there now: the slot is left out for a while."""
        logger.warning("worker %d is tried again in %g s: %s", slot.slot.index, UNFIT_S, problem)
        slot.start_at_s = time.monotonic() + UNFIT_S
        self._drop_worker(slot)

    def _count_failed_start(self, slot: SlotState[H], how: str, handler: Handler) -> None:
        slot.n_failed_starts += 1
        log = f" The log is {slot.log_file}." if slot.log_file else ""
        self._count_setback(
            slot,
            f"a worker must start before it can evaluate; {slot.where} {how} while starting, {slot.n_failed_starts} "
            f"times in a row.{log} Check that unetx-search, the evaluator and what it imports load in a fresh Python "
            'on every machine, and that a script which starts a search does so under if __name__ == "__main__".\n'
            f"{slot.start_error}".rstrip(),
            handler,
        )

    def _count_failed_device(self, slot: SlotState[H], held: HeldJob, reason: str, *, may_be_design: bool) -> None:
        slot.failures.add(("trial", held.job.trial) if may_be_design else ("job", held.number))
        self._failed_on.setdefault(held.job.trial, set()).add(slot.device)
        self._count_setback(slot, f"{reason} (setback {slot.n_setbacks} in a row)", None)

    def _count_setback(self, slot: SlotState[H], reason: str, handler: Handler | None) -> None:
        """Retire a slot that has had its last chance; its job goes to another. UnetxError when none is left."""
        if slot.n_setbacks < MAX_SETBACKS:
            return
        slot.retired = reason
        n_left = sum(not other.retired for other in self._slots)
        if n_left == 0:
            raise UnetxError(
                f"a search needs a worker, and the last of {self.n_slots} slots is given up: {reason}\n"
                "Every trial that had finished is safe: the same command continues once that is mended"
            )
        words = "worker %d is given up, %d of %d go on: %s"
        logger.error(words, slot.slot.index, n_left, self.n_slots, reason)
        if slot.held is not None and handler is not None:
            held, slot.held = slot.held, None
            handler.on_preempted(held.job.trial, f"{slot.where} could not start")


def _has_ended(handle: WorkerHandle) -> bool:
    while (report := handle.receive()) is not None:
        if isinstance(report, messages.Exited | messages.ConnectionLost | messages.Unfit):
            return True
    return False
