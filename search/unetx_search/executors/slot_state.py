"""What an executor knows of a slot, of its worker and of the job it has."""

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
"""Setbacks of a slot without an answer in between after which it is retired: starts that failed, and jobs under which
its device failed or hung. A job that fails a device twice counts once, for it may be what does it."""
PATIENCE_FACTOR = 10
LEAST_PATIENCE_S = 180.0
"""A worker hangs when nothing is heard of its job for ten times as long as it ever was in jobs that ended well, but for
three minutes at least. Before one has ended well nobody knows how long is long, and the budget's own limit holds."""

H = TypeVar("H", bound=WorkerHandle)


@dataclass(slots=True)
class HeldJob:
    """A job in its slot."""

    number: int
    job: Job
    is_sent: bool = False
    """The worker has it."""
    began_s: float = math.inf
    """When its worker was told to have begun it."""
    heard_s: float = math.inf
    """When its worker last told of it."""
    slowest_s: float = 0.0
    """The longest time between two words of it."""
    interrupted: bool = False
    curve: list[CurvePoint] = field(default_factory=list)

    @property
    def has_begun(self) -> bool:
        return self.began_s < math.inf

    def is_overdue(self, overtime_s: float) -> bool:
        """It runs on, long after its evaluator should have ended it."""
        return time.monotonic() - self.began_s > self.job.budget.max_seconds + overtime_s

    def hear(self) -> None:
        """Its worker has told something of it."""
        now_s = time.monotonic()
        self.slowest_s, self.heard_s = max(self.slowest_s, now_s - self.heard_s), now_s

    def hangs(self, slowest_s: float) -> bool:
        """Nothing was heard of it for far longer than the ``slowest_s`` that jobs like it take between two words."""
        return time.monotonic() - self.heard_s > max(LEAST_PATIENCE_S, PATIENCE_FACTOR * slowest_s)

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
    """When the worker was to be killed: its job is overdue or hangs, or it is of no more use."""
    ended: H | None = None
    """The worker before, while its memory is not free yet."""
    held: HeldJob | None = None
    n_failed_starts: int = 0
    failures: set[tuple[str, int]] = field(default_factory=set)
    """What its device failed of since its last answer: a trial, or itself under a job."""
    retired: str = ""
    """Why no worker is started here any more."""
    trouble: str = ""
    """Traceback of what kept the last worker from starting."""
    start_at_s: float = 0.0
    """No worker is started before."""

    @property
    def has_end_to_tell(self) -> bool:
        """The job was interrupted before a worker had it: nothing will come."""
        return self.held is not None and self.held.interrupted and not self.held.is_sent

    @property
    def n_setbacks(self) -> int:
        return self.n_failed_starts + len(self.failures)

    @property
    def device(self) -> str:
        """What it shares with other slots: its GPU, where it knows which."""
        return self.slot.gpu or str(self.slot.index)

    @property
    def where(self) -> str:
        return f"worker {self.slot.index} on {self.label}"

    def is_resting(self) -> bool:
        """The memory of the worker that ended is not free yet."""
        if self.ended is not None and self.ended.is_released():
            self.ended.release()
            self.ended = None
        return self.ended is not None
