"""An executor over workers that only pretend: they report what a test has put there."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from executor_helpers import BUDGET, TASK, Recorder, cpu_slots, job

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_search.executors.messages import Exited, Hello, Order, Report, Started
from unetx_search.executors.slots import Slot
from unetx_search.executors.supervisor import Supervisor
from unetx_search.executors.worker_handle import WorkerHandle
from unetx_studies.processes import this_process

DONE = Evaluation(Outcome.COMPLETE, score=0.5)
POINT = CurvePoint(2, 0.4, 0.6, 1.0)
HASTY = replace(BUDGET, max_seconds=-1.0)
"""Overdue as soon as it has begun."""


class Pretended(WorkerHandle):
    """A worker that reports what a test has put there, and keeps what it was told."""

    def __init__(self, slot: Slot, log_file: Path | None) -> None:
        self.reports: deque[Report] = deque([Hello(f"device {slot.index}")])
        self.orders: list[Order] = []
        self.ends: list[str] = []

    def send(self, order: Order) -> None:
        self.orders.append(order)

    def receive(self) -> Report | None:
        assert "released" not in self.ends, "whoever was dropped is not heard"
        return self.reports.popleft() if self.reports else None

    def hang_up(self) -> None:
        self.ends.append("hung up")
        self.reports.append(Exited("exited with code 0"))

    def kill(self) -> None:
        self.ends.append("killed")

    def is_released(self) -> bool:
        return True

    def release(self) -> None:
        self.ends.append("released")


class Stage:
    """An executor over pretended workers."""

    def __init__(self, n_slots: int = 1, *, starts_at_once: bool = False, slots: Sequence[Slot] | None = None) -> None:
        self.workers: list[Pretended] = []
        """All that were started, in this order."""
        self.told = Recorder()
        self.executor = Supervisor(
            FakeEvaluator(),
            TASK,
            slots or cpu_slots(n_slots),
            self._start,
            self._wait,
            starts_at_once=starts_at_once,
            overtime_s=0.0,
        )

    def _start(self, slot: Slot, log_file: Path | None) -> Pretended:
        self.workers.append(Pretended(slot, log_file))
        return self.workers[-1]

    def _wait(self, workers: Sequence[Pretended], timeout_s: float) -> None: ...

    def poll(self, *reports: Report) -> None:
        """The newest worker reports; then all is told."""
        if self.workers:
            self.workers[-1].reports.extend(reports)
        self.executor.poll(self.told, 1.0)

    def begin(self, trial: int, number: int, *, hasty: bool = False) -> None:
        """A job that its worker has begun."""
        self.executor.submit(job(trial, budget=HASTY if hasty else BUDGET))
        self.poll(Started(number, this_process()))
