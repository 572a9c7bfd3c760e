"""What the executor tests share: a small job, a task without files, a handler that writes everything down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from unetx_evaluators.evaluation import Budget, CurvePoint, Evaluation, Observer
from unetx_evaluators.tasks.task import Splits, Task
from unetx_search.executors.base import Executor, Job
from unetx_search.executors.slots import Slot, make_slots
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.genome import DecoderNode, Genome, decoder, encoder, plain_coarser
from unetx_studies.processes import ProcessIdentity

DEADLINE_S = 60.0
"""Far beyond what any of these tests needs; only a deadlock reaches it."""

BUDGET = Budget(steps=6, batch_size=1, width_factor=1.0, rungs=(2, 4, 6), validation_cases=3)
LONG = Budget(steps=10**9, batch_size=1, width_factor=1.0, rungs=(10**9,), validation_cases=3)
"""Ends only when something ends it."""

TASK = Task(
    folder=Path("nowhere"),
    name="none",
    source="made up",
    dims=2,
    channels=("ct",),
    classes=("background", "vessel", "lesion"),
    spacing=(1.0, 1.0),
    patch=(32, 32),
    strides=((1, 1), (2, 2), (2, 2)),
    widths=(32, 64, 128),
    splits=Splits(train=("a",), validation=("b", "c", "d", "e"), test=("f",)),
    digest="0",
)


def u_net(n_levels: int = 3, *, skips: bool = True) -> Architecture:
    """A plain decoder with or without the skip connection of every level."""
    nodes = tuple(
        DecoderNode(
            ref=decoder(level),
            coarser=plain_coarser(level, n_levels),
            sources=(encoder(level),) if skips else (),
        )
        for level in range(n_levels - 1)
    )
    return Architecture(isotropic_backbone(2, n_levels=n_levels), Genome(nodes))


def job(trial: int, *, budget: Budget = BUDGET, seed: int = 0) -> Job:
    return Job(trial, u_net(), budget, seed)


def cpu_slots(n_slots: int) -> tuple[Slot, ...]:
    return make_slots(0, cpu_workers=n_slots, n_cores=n_slots)


class Forgetful:
    """An evaluator that returns nothing, against its promise."""

    def evaluate(
        self,
        architecture: Architecture,
        task: Task,
        budget: Budget,
        seed: int,
        observer: Observer,
        *,
        checkpoint: Path | None = None,
        weights: Path | None = None,
        diagnosed_above: float = 0.0,
    ) -> Evaluation:
        return None  # type: ignore[return-value]


@dataclass
class Recorder:
    """A handler that keeps what it was told; prunes at the rungs in ``prune_at``."""

    prune_at: tuple[int, ...] = ()
    started: dict[int, tuple[int, str]] = field(default_factory=dict)
    processes: dict[int, int] = field(default_factory=dict)
    """Ids by trial."""
    steps: dict[int, list[int]] = field(default_factory=dict)
    rungs: dict[int, list[int]] = field(default_factory=dict)
    finished: dict[int, Evaluation] = field(default_factory=dict)
    lost: dict[int, Evaluation] = field(default_factory=dict)
    workers: dict[int, int] = field(default_factory=dict)
    preempted: dict[int, str] = field(default_factory=dict)
    interrupted: list[int] = field(default_factory=list)
    n_finished_calls: int = 0
    n_lost_calls: int = 0

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None:
        self.started[trial] = (worker, device)
        self.processes[trial] = process.pid

    def on_step(self, trial: int, step: int) -> None:
        self.steps.setdefault(trial, []).append(step)

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        self.rungs.setdefault(trial, []).append(point.step)
        return point.step in self.prune_at

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self.finished[trial] = evaluation
        self.workers[trial] = worker
        self.n_finished_calls += 1

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self.lost[trial] = evaluation
        self.n_lost_calls += 1

    def on_preempted(self, trial: int, reason: str) -> None:
        self.preempted[trial] = reason

    def on_interrupted(self, trial: int) -> None:
        self.interrupted.append(trial)

    @property
    def n_ended(self) -> int:
        return self.n_finished_calls + self.n_lost_calls + len(self.preempted) + len(self.interrupted)


def poll_until(executor: Executor, recorder: Recorder, done: Callable[[], bool]) -> None:
    """Poll until ``done``; fails at the deadline."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline_s, f"nothing more came after {recorder}"
        executor.poll(recorder, 0.2)


def is_running(pid: int) -> bool:
    """Whether the process runs; one that only waits for its exit code to be read does not."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def wait_until(done: Callable[[], bool]) -> None:
    """Wait for what needs no polling; fails at the deadline."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline_s, "what the test waits for did not come"
        time.sleep(0.02)


def run_all(executor: Executor, jobs: list[Job], recorder: Recorder | None = None) -> Recorder:
    """Run the jobs, as many at once as there are free slots, and return what was told."""
    told = recorder or Recorder()
    ended_before = told.n_ended
    waiting = list(jobs)

    def done() -> bool:
        while waiting and executor.n_free():
            executor.submit(waiting.pop(0))
        return not waiting and told.n_ended - ended_before == len(jobs)

    poll_until(executor, told, done)
    return told
