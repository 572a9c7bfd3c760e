"""A study in a folder with a fake evaluator in this process, which may be opened again as after a crash."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from executor_helpers import TASK
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from statements import Crash

from unetx_evaluators.evaluation import Budget, CurvePoint, Evaluation, Evaluator
from unetx_search.config import DEFAULT_SHARE
from unetx_search.coordinator import Coordinator, RunOptions
from unetx_search.executors.base import Executor
from unetx_search.executors.inline import InlineExecutor
from unetx_search.proposals import Reseeding, SearchProposals
from unetx_search.sampler_study import SamplerStudy
from unetx_search.samplers.constrained_sampler import ConstrainedSampler
from unetx_search.study_setup import StudySetup
from unetx_space.design_space import DesignSpace
from unetx_studies.evidence import Evidence
from unetx_studies.ranking import Ranked, Ranking
from unetx_studies.store import (
    OptunaMirror,
    Patience,
    Records,
    held_lease,
    new_run,
    open_store,
    optuna_storage,
    study_url,
)

BUDGET = Budget(steps=6, batch_size=1, width_factor=0.25, rungs=(2, 4, 6), validation_cases=3)
BACKBONE = TASK.backbone()
SETUP = StudySetup(BACKBONE, TASK.patch, DesignSpace(BACKBONE.n_levels), BUDGET, seed=0, max_cost=4.0)


@dataclass
class Notes:
    """A reporter that writes down."""

    finished: list[int] = field(default_factory=list)
    interrupted: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    bests: list[int] = field(default_factory=list)
    rungs: list[tuple[int, int]] = field(default_factory=list)
    """Trial and step."""
    measured_after: dict[int, Evidence] = field(default_factory=dict)
    """What was said, after so many trials of this run."""

    def trial_started(self, trial: int, worker: int, device: str, origin: str) -> None: ...
    def trial_step(self, trial: int, step: int) -> None: ...
    def trial_rung(self, trial: int, point: CurvePoint) -> None:
        self.rungs.append((trial, point.step))

    def trial_finished(self, trial: int, evaluation: Evaluation, best: Ranked | None, is_best: bool) -> None:
        self.finished.append(trial)

    def trial_lost(self, trial: int, reason: str) -> None:
        self.lost.append(trial)

    def trial_interrupted(self, trial: int) -> None:
        self.interrupted.append(trial)

    def measured(self, evidence: Evidence) -> None:
        self.measured_after[len(self.finished)] = evidence


def ticking() -> Iterator[datetime]:
    """A clock that goes on a second at every look."""
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=s) for s in itertools.count())


def tpe(seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)


class Bench:
    """A study that may be opened as often as one likes."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folder = folder
        self.url = url or study_url(folder)
        self.where = url or folder
        """For ``rows``."""
        self.patience: Patience | None = None
        self.setup = SETUP
        self.notes = Notes()
        self.pruner: Callable[[], optuna.pruners.BasePruner] = lambda: optuna.pruners.MedianPruner(n_startup_trials=3)
        self.sampler_of: Callable[[int], BaseSampler] = tpe
        ticks = ticking()
        self.clock: Callable[[], datetime] = lambda: next(ticks)
        self.executor_of: Callable[[Evaluator], Executor] = lambda evaluator: InlineExecutor(evaluator, TASK)

    @contextmanager
    def open(
        self, evaluator: Evaluator, n_trials: int, *, reseed: float = DEFAULT_SHARE, **options: Any
    ) -> Iterator[Coordinator]:
        """A coordinator that has the lease; the ``options`` are those of ``RunOptions``."""
        run = new_run("s", n_trials=n_trials, clock=self.clock)
        setup = self.setup
        with (
            open_store(self.url, create=True, patience=self.patience) as self.store,
            held_lease(self.store, run, clock=self.clock) as self.lease,
        ):
            self.records = Records(self.store, "s", self.lease)
            with OptunaMirror(self.store, "s", self.records, setup.genes) as self.mirror:
                self.executor = self.executor_of(evaluator)
                study = SamplerStudy("s", setup.genes, self.pruner())
                sampler = ConstrainedSampler(self.sampler_of, setup.genes, setup.admitted, seed=0)
                yield Coordinator(
                    records=self.records,
                    study=study,
                    proposals=SearchProposals(setup, self.records, study, sampler, n_trials, Reseeding(reseed)),
                    mirror=self.mirror,
                    executor=self.executor,
                    reporter=self.notes,
                    options=RunOptions(**options, checkpoints=self.folder / "checkpoints"),
                    on_ranked=self.note_best,
                    clock=self.clock,
                )

    def note_best(self, ranking: Ranking) -> None:
        if ranking.best is not None and [ranking.best.number] != self.notes.bests[-1:]:
            self.notes.bests.append(ranking.best.number)

    def run(self, evaluator: Evaluator, n_trials: int, **options: Any) -> None:
        with self.open(evaluator, n_trials, **options) as coordinator:
            coordinator.run()
        self.look()

    @contextmanager
    def crash_after(self, last: int) -> Iterator[None]:
        """The process is gone when the result of that trial is there."""

        def crash(trial: int, evaluation: Evaluation, best: Ranked | None, is_best: bool) -> None:
            if trial == last:
                raise Crash

        with pytest.MonkeyPatch.context() as patch, suppress(Crash):
            patch.setattr(self.notes, "trial_finished", crash)
            yield

    def look(self) -> None:
        """Read everything as it is now: our records, and what Optuna finds in its tables."""
        self.records_now = self.stored().trials()
        self.trials = self.mirrored()

    def stored(self) -> Records:
        """What the database holds, read with a store of its own."""
        return Records(open_store(self.url, create=False, read_only=True), "s")

    def mirrored(self) -> list[FrozenTrial]:
        """The trials that Optuna finds in its tables."""
        return optuna.load_study(study_name="s", storage=optuna_storage(self.url, read_only=True)).trials
