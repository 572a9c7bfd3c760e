"""What an executor knows of a slot, of its worker and of the job that it has."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Outcome
from unetx_search.executors.base import Job, failed_evaluation
from unetx_search.executors.slots import Slot
from unetx_search.executors.worker_handle import WorkerHandle

MAX_SETBACKS = 2
"""Setbacks of a slot in a row after which it is retired: starts that failed, and jobs under which its device failed or
hung. A job that fails a device twice counts once, for it may be the cause."""
SILENCE_FACTOR = 10
MIN_SILENCE_S = 180.0
"""A worker hangs when it reports nothing on its job for ten times as long as the longest silence in jobs that ended
well, but for three minutes at least. Before one has ended well the budget's own limit holds alone."""

H = TypeVar("H", bound=WorkerHandle)


@dataclass(slots=True)
class HeldJob:
    """A job that a slot has, from its submission to its end."""

    number: int
    job: Job
    is_sent: bool = False
    """Whether the worker has been given the job."""
    began_s: float = math.inf
    """When the worker reported that it has begun the job; infinite before."""
    last_report_s: float = math.inf
    """When the worker last reported on the job; infinite before."""
    longest_silence_s: float = 0.0
    """The longest time between two reports on the job."""
    interrupted: bool = False
    curve: list[CurvePoint] = field(default_factory=list)

    @property
    def has_begun(self) -> bool:
        return self.began_s < math.inf

    def is_overdue(self, overtime_s: float) -> bool:
        """Return whether the job still runs so long after its evaluator should have ended it."""
        return time.monotonic() - self.began_s > self.job.budget.max_seconds + overtime_s

    def note_report(self) -> None:
        """Note that the worker has reported on the job."""
        now_s = time.monotonic()
        self.longest_silence_s, self.last_report_s = max(self.longest_silence_s, now_s - self.last_report_s), now_s

    def hangs(self, longest_silence_s: float) -> bool:
        """Return whether nothing was reported for far longer than the ``longest_silence_s`` of jobs that ended well."""
        return time.monotonic() - self.last_report_s > max(MIN_SILENCE_S, SILENCE_FACTOR * longest_silence_s)

    def failure(self, outcome: Outcome, reason: str) -> Evaluation:
        return failed_evaluation(outcome, reason, curve=self.curve, seconds=time.monotonic() - self.began_s)


@dataclass(slots=True)
class SlotState(Generic[H]):
    """A slot, its worker (none until there is work, unless all start at once) and the job that it has."""

    slot: Slot
    log_file: Path | None
    label: str
    """The device's name, for people."""
    handle: H | None = None
    is_up: bool = False
    """Whether the worker has reported that it is up."""
    killed_at_s: float | None = None
    """When the worker was killed, as its job was overdue or hung, or it was of no more use; None before."""
    exited: H | None = None
    """The worker before, while its GPU's memory is not free yet."""
    held: HeldJob | None = None
    n_failed_starts: int = 0
    failures: set[tuple[str, int]] = field(default_factory=set)
    """Failures of the device since the last evaluation that ended: by a trial, or by itself under a job."""
    retired: str = ""
    """Why no worker is started here any more; empty while the slot is in use."""
    start_error: str = ""
    """The traceback of the error that kept the last worker from starting."""
    start_at_s: float = 0.0
    """The time before which no worker is started."""

    @property
    def is_withdrawn(self) -> bool:
        """Whether the job was interrupted before a worker had it, so that no report will come."""
        return self.held is not None and self.held.interrupted and not self.held.is_sent

    @property
    def n_setbacks(self) -> int:
        return self.n_failed_starts + len(self.failures)

    @property
    def device(self) -> str:
        """The GPU that the slot shares with others, where it is known; else the slot's own number."""
        return self.slot.gpu or str(self.slot.index)

    @property
    def where(self) -> str:
        return f"worker {self.slot.index} on {self.label}"

    def waits_for_memory(self) -> bool:
        """Return whether the memory of the worker that ended is not free yet."""
        if self.exited is not None and self.exited.is_released():
            self.exited.release()
            self.exited = None
        return self.exited is not None
