"""Studies whose proposals come from a list and not from a sampler, such as finals, are trained or continued here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import CategoricalDistribution

from unetx_evaluators.tasks.cache import task_in_use
from unetx_search.coordinator import Coordinator, RunOptions
from unetx_search.executors.engines import CHECKPOINTS
from unetx_search.progress import WORKERS, SearchProgress, WorkersFile, display
from unetx_search.pruners import PRUNERS
from unetx_search.run import SETTINGS
from unetx_search.sampler_study import SamplerStudy
from unetx_search.study_session import announce_location, claimed, run_to_end
from unetx_search.winner_files import search_provenance
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
    from unetx_search.config import Diagnosis, SearchConfig, StudySettings
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
    """URL of the server that keeps the study; None for a file in the folder."""
    task: Task
    budget: Budget
    """The budget of the longest training."""
    n_trials: int
    genes: Mapping[str, CategoricalDistribution]
    """The parameters of a training in Optuna's tables."""
    diagnosis: Diagnosis = "none"
    settings: StudySettings | None = None
    """The settings to keep in its folder, as a search does; None where the caller keeps them."""

    def train(
        self, proposals_of: Callable[[Records], Proposals], engine: Engine, evaluator: Evaluator, console: Console
    ) -> bool:
        """Train what is proposed and not recorded yet. Returns whether the user or the time limit ended it early."""
        location = resolve_location(self.config.folder, self.name, self.database)
        check_writable(location)
        announce_location(location, self.name, console)
        run = new_run(location.study or self.name, n_trials=self.n_trials)
        began_at, hours = utc_now(), self.config.max_hours
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with claimed(location, run, console) as claim, task_in_use(self.task):
            if self.settings is not None:
                self.settings.freeze(self.config.folder / SETTINGS)
            claim.is_settled = True
            records = Records(claim.store, run.study, claim.lease)
            n_done = len(records.trials(finished_only=True))
            progress = SearchProgress(run.study, self.n_trials, self.budget.steps, len(engine.slots), n_done=n_done)
            screen = display(progress, console, WorkersFile(self.config.folder / WORKERS))
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
                run_to_end(coordinator, executor, screen, console)
            return coordinator.was_stopped or coordinator.ran_out_of_time

    def _attach(self, trial: Trial, record: TrialRecord, architecture: Architecture) -> None:
        provenance = search_provenance(self.name, record.number, self.task)
        attach_drawing(trial, replace(architecture, provenance=provenance), self.config.folder)
