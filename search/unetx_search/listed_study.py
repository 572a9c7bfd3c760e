"""Trains a study whose proposals do not depend on a sampler, such as finals, to its end, or goes on with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import CategoricalDistribution

from unetx_evaluators.tasks.cache import using
from unetx_search.best import whereabouts
from unetx_search.coordinator import Coordinator, RunOptions
from unetx_search.executors.engines import CHECKPOINTS
from unetx_search.progress import WORKERS, Standing, WorkersFile, display
from unetx_search.pruners import PRUNERS
from unetx_search.run import CLOSE_WITHIN_S, SETTINGS
from unetx_search.sampler_study import SamplerStudy
from unetx_search.study_session import claimed, graceful_shutdown, tell_of
from unetx_studies.artifacts import attach_drawing
from unetx_studies.store import (
    OptunaMirror,
    Records,
    check_writable,
    heartbeats,
    new_run,
    resolve_location,
    utc_now,
)

if TYPE_CHECKING:
    from optuna.trial import Trial
    from rich.console import Console

    from unetx_evaluators.evaluation import Budget, Evaluator
    from unetx_evaluators.tasks import Task
    from unetx_search.config import Diagnosis, SearchConfig, Settled
    from unetx_search.executors.engines import Engine
    from unetx_search.proposals import Proposals
    from unetx_space.architecture import Architecture
    from unetx_studies.store import TrialRecord


@dataclass(frozen=True, slots=True)
class ListedStudy:
    """A study in the folder of ``config``, on its workers and until its time is up."""

    config: SearchConfig
    name: str
    database: str | None
    """URL of the server that keeps it; None for a file in the folder."""
    task: Task
    budget: Budget
    """The longest of its trainings."""
    n_trials: int
    genes: Mapping[str, CategoricalDistribution]
    """What Optuna knows of a training."""
    diagnosis: Diagnosis = "none"
    settled: Settled | None = None
    """What it is begun with, to be kept beside it as a search's is; None where its caller keeps that."""

    def train(
        self, proposals_of: Callable[[Records], Proposals], engine: Engine, evaluator: Evaluator, console: Console
    ) -> bool:
        """Train what is proposed, from the study's records on; whether somebody or the time ended it before its end."""
        location = resolve_location(self.config.folder, self.name, self.database)
        check_writable(location)
        tell_of(location, self.name, console)
        run = new_run(location.study or self.name, n_trials=self.n_trials)
        began_at, hours = utc_now(), self.config.max_hours
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with claimed(location, run, console) as claim, using(self.task):
            if self.settled is not None:
                self.settled.freeze(self.config.folder / SETTINGS)
            claim.is_settled = True
            records = Records(claim.store, run.study, claim.lease)
            n_done = len(records.trials(finished_only=True))
            standing = Standing(run.study, self.n_trials, self.budget.steps, len(engine.slots), n_done=n_done)
            screen = display(standing, console, WorkersFile(self.config.folder / WORKERS))
            with (
                OptunaMirror(claim.store, run.study, records, self.genes, attach=self._attach) as mirror,
                heartbeats(claim.store.url, claim.lease.run),
                engine.executor(evaluator, self.task, engine.slots) as executor,
            ):
                coordinator = Coordinator(
                    records=records,
                    study=SamplerStudy(run.study, self.genes, PRUNERS["none"](self.budget)),
                    proposals=proposals_of(records),
                    mirror=mirror,
                    executor=executor,
                    reporter=screen,
                    options=RunOptions(
                        ends_at=None if hours is None else began_at + timedelta(hours=hours),
                        checkpoints=self.config.folder / CHECKPOINTS,
                        diagnosis=self.diagnosis,
                    ),
                    on_ranked=lambda ranking: None,
                )
                with screen, graceful_shutdown(coordinator, executor, console):
                    coordinator.run()
                executor.close(timeout_s=CLOSE_WITHIN_S)
            return coordinator.was_stopped or coordinator.ran_out_of_time

    def _attach(self, trial: Trial, record: TrialRecord, architecture: Architecture) -> None:
        provenance = whereabouts(self.name, record.number, self.task)
        attach_drawing(trial, replace(architecture, provenance=provenance), self.config.folder)
