"""A whole search, from the request to a summary: what the command line's main command calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from unetx_evaluators.tasks.cache import task_in_use
from unetx_search.cheapest import Cheapest, CostOf
from unetx_search.config import SearchConfig, check_request, read_settings, write_request
from unetx_search.coordinator import Coordinator, RunOptions
from unetx_search.executors.engines import CHECKPOINTS, Engine, open_engine, proxy_evaluator
from unetx_search.executors.gpus import GpuProbe, usable_gpus
from unetx_search.executors.slots import Slot
from unetx_search.gpu_check import preflight
from unetx_search.preparing import no_empty_folders, split_warnings, write_split_and_task
from unetx_search.progress import WORKERS, LineReporter, SearchProgress, WorkersFile, display
from unetx_search.proposals import Reseeding, SearchProposals
from unetx_search.pruners import PRUNERS
from unetx_search.resolving import ResolvedRequest, resolve_request, with_audited_steps
from unetx_search.sampler_study import SamplerStudy
from unetx_search.samplers.constrained_sampler import ConstrainedSampler
from unetx_search.samplers.registry import SAMPLERS
from unetx_search.sharing.measurement import slots_that_pay
from unetx_search.study_pictures import StudyPictures
from unetx_search.study_session import Claim, announce_location, claimed, run_to_end
from unetx_search.study_setup import StudySetup
from unetx_search.winner_files import WinnerFiles
from unetx_space import training_memory
from unetx_studies.ranking import Ranked, Ranking, preset_key
from unetx_studies.store import (
    Lease,
    OptunaMirror,
    Records,
    StudyLocation,
    check_writable,
    full_disk_explained,
    heartbeats,
    new_run,
    open_store,
    resolve_location,
    utc_now,
)

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import Evaluator
    from unetx_evaluators.tasks import Source, Task
    from unetx_search.executors.base import Executor
    from unetx_search.samplers.constrained_sampler import SamplerOf
    from unetx_studies.store import TrialRecord

SETTINGS = "config.json"
"""Name of the file in a study's folder that keeps what the study was begun with."""
REQUEST = "request.json"
"""Name of the file in a study's folder that keeps the last request of its search."""


@dataclass(frozen=True)
class Summary:
    """The outcome of a search."""

    study: str
    folder: Path
    database: str
    """The path of the study's file, or the server's URL without its password."""
    n_trials: int
    """The total that the user asked for."""
    evaluations: tuple[TrialRecord, ...]
    """Every finished trial, in order."""
    was_complete: bool
    """Whether there was nothing left to do."""
    was_stopped: bool
    """Whether the user ended the search before the total was reached."""
    ran_out_of_time: bool = False
    """Whether the time that the user gave was up before the total was reached."""
    warnings: tuple[str, ...] = ()
    """Sentences on what may make the scores look better than they are."""
    cheapest: Cheapest | None = None
    """The cheapest design that is as good as U-Net, or that none is; None without a score of U-Net."""

    @cached_property
    def ranking(self) -> Ranking:
        """The ranking of every design that has a score."""
        return Ranking(self.evaluations)

    @property
    def best(self) -> Ranked | None:
        """The best design; None before any has a score."""
        return self.ranking.best

    def preset(self, name: str) -> Ranked | None:
        """Return a preset as it is ranked; None where it has no score."""
        return self.ranking.get(preset_key(self.evaluations, name))


@dataclass(frozen=True, slots=True)
class _Overrides:
    """What takes the place of the trainer, the data and the sampler of a search; and what draws its study's figures."""

    evaluator: Evaluator | None
    source: Source | None
    sampler_of: SamplerOf | None
    plot: Callable[[Path], None]

    def evaluator_of(self, slots: Sequence[Slot]) -> Evaluator:
        return self.evaluator or proxy_evaluator(slots)


def search(
    config: SearchConfig,
    *,
    console: Console,
    probe: GpuProbe = usable_gpus,
    evaluator: Evaluator | None = None,
    source: Source | None = None,
    sampler_of: SamplerOf | None = None,
    plot: Callable[[Path], None] = lambda folder: None,
) -> Summary:
    """Run or continue the study of ``config``, and summarise it.

    ``source`` and ``sampler_of`` take the place of the data and the sampler that ``config`` names; ``probe`` and
    ``evaluator`` that of the machine and the trainer in tests. ``plot`` is called with the study's folder now and then,
    to draw its figures. Raises RequestError when the request cannot be met, and then has written nothing but finished
    cases into the cache; SearchFailed when more trials would fail as well.
    """
    overrides = _Overrides(evaluator, source, sampler_of, plot)
    with open_engine(config, probe=probe) as engine:
        slots = engine.slots[: config.deterministic]
        if evaluator is None:
            preflight(slots, console)
        check_request(config, config.folder / SETTINGS)
        location = resolve_location(config.folder, config.study_name, config.storage)
        check_writable(location)
        announce_location(location, config.study_name, console)
        began_at = utc_now()
        with no_empty_folders(config.cache_folder), full_disk_explained(config.folder):
            # A study that has begun is looked at before it is claimed, so that a refusal leaves no trace in it.
            resolved = None
            if (config.folder / SETTINGS).exists():
                _check_free(config, location)
                resolved = _resolved(config, engine, slots, console, overrides)
                resolved.settings.check(config.folder / SETTINGS)
            run = replace(new_run(location.study or config.study_name, n_trials=config.trials), started_at=began_at)
            with claimed(location, run, console) as claim:
                with heartbeats(claim.store.url, run):  # this may take long, and may refuse the request
                    resolved = resolved or _resolved(config, engine, slots, console, overrides)
                    resolved.settings.freeze(config.folder / SETTINGS)
                    write_request(config, config.folder / REQUEST)
                    write_split_and_task(config.folder, resolved.task)
                claim.is_settled = True
                return _Search(config, claim, resolved, engine, console, overrides).run(slots)


def _check_free(config: SearchConfig, location: StudyLocation) -> None:
    """Raises RequestError when another process runs the study."""
    with open_store(location.url, create=False, read_only=True) as store:
        Lease(store, location.study or config.study_name).check_free(utc_now())


def _resolved(
    config: SearchConfig, engine: Engine, slots: Sequence[Slot], console: Console, overrides: _Overrides
) -> ResolvedRequest:
    """The request, resolved by the settings of its study where that has begun."""

    def executor_of(task: Task) -> Executor:
        return engine.executor(overrides.evaluator_of(slots), task, slots)

    path = config.folder / SETTINGS
    stored = read_settings(path) if path.exists() else None
    source = overrides.source or source_of(config, console)
    resolved = resolve_request(config, source, slots[0].device, executor_of, console, stored)
    return with_audited_steps(config, resolved, console) if stored is None else resolved


def source_of(config: SearchConfig, console: Console) -> Source:
    """Open the dataset that a request names; where it names none, say so and return the built-in demo."""
    if config.data is None:
        console.print("no --data given: taking the built-in demo task (synthetic images)")
    return config.source()


class _Search:
    """A search whose study is claimed and whose request is resolved."""

    def __init__(
        self,
        config: SearchConfig,
        claim: Claim,
        resolved: ResolvedRequest,
        engine: Engine,
        console: Console,
        overrides: _Overrides,
    ) -> None:
        self._config = config
        self._claim = claim
        self._engine = engine
        self._console = console
        self._overrides = overrides
        self._task = task = resolved.task
        self._study = study = claim.lease.run.study
        self._setup = StudySetup(
            task.backbone(), task.patch, resolved.space, resolved.budget, config.seed, config.max_cost
        )
        self._records = records = Records(claim.store, study, claim.lease)
        self._pictures = StudyPictures(config.folder, study, task, records, partial(overrides.plot, config.folder))
        cost_of = CostOf(config.cheap_by, lambda key: training_memory(records.architecture(key), task.patch))
        reference = self._setup.u_net_key
        self._winners = WinnerFiles(
            config.folder, study, records, task, reference, config.cheap_by, config.margin, cost_of
        )

    def run(self, slots: Sequence[Slot]) -> Summary:
        """Train what is missing of the study's total, as far as user and time allow."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        store, pictures = self._claim.store, self._pictures
        mirror = OptunaMirror(store, self._study, self._records, self._setup.genes, attach=pictures.attach)
        with task_in_use(self._task), mirror:
            pictures.remove_unwanted(store.url)
            done = self._records.trials(finished_only=True)
            is_complete = len(done) >= self._config.trials
            coordinator = None if is_complete else self._train_missing(slots, done, mirror)
            trials = self._records.trials(finished_only=True)
            self._winners.finish(ranking := Ranking(trials))
            return Summary(
                study=self._study,
                folder=self._config.folder,
                database=self._claim.location.shown,
                n_trials=self._config.trials,
                evaluations=trials,
                was_complete=is_complete,
                was_stopped=coordinator is not None and coordinator.was_stopped,
                ran_out_of_time=coordinator is not None and coordinator.ran_out_of_time,
                warnings=split_warnings(self._task),
                cheapest=self._winners.cheapest(ranking),
            )

    def _train_missing(self, slots: Sequence[Slot], done: Sequence[TrialRecord], mirror: OptunaMirror) -> Coordinator:
        slots = self._worthwhile(slots, self._config.trials - len(done))
        # A trial that waits is for slots on GPUs: on a CPU it takes far longer than its proposal.
        ahead = len(slots) if slots[0].device == "cuda" else 0
        with self._engine.executor(self._overrides.evaluator_of(slots), self._task, slots) as executor:
            screen = self._screen(executor, done)
            coordinator = self._coordinator(executor, mirror, screen, ahead)
            run_to_end(coordinator, executor, screen, self._console)
            return coordinator

    def _worthwhile(self, slots: Sequence[Slot], n_missing: int) -> Sequence[Slot]:
        """The slots, as many on each GPU as pay where the user has not said how many."""
        if isinstance(self._config.workers_per_gpu, int):
            return slots
        with heartbeats(self._claim.store.url, self._claim.lease.run):
            return slots_that_pay(
                self._config, slots, self._overrides.evaluator_of, self._task, self._setup, n_missing, self._console
            )

    def _screen(self, executor: Executor, done: Sequence[TrialRecord]) -> LineReporter:
        best = Ranking(done).best
        progress = SearchProgress(
            study=self._study,
            n_trials=self._config.trials,
            n_steps=self._setup.budget.steps,
            n_slots=executor.n_slots,
            n_done=len(done),
            best=best.estimate if best else None,
            best_trial=best.number if best else None,
        )
        return display(progress, self._console, WorkersFile(self._config.folder / WORKERS))

    def _coordinator(self, executor: Executor, mirror: OptunaMirror, screen: LineReporter, ahead: int) -> Coordinator:
        config, setup = self._config, self._setup
        run, genes, n_hours = self._claim.lease.run, setup.genes, config.max_hours
        study = SamplerStudy(run.study, genes, PRUNERS[config.pruner](setup.budget))
        sampler_of = self._overrides.sampler_of or SAMPLERS[config.sampler]
        sampler = ConstrainedSampler(sampler_of, genes, setup.admitted, seed=config.seed)
        reseeding = Reseeding(config.reseed, config.margin)
        return Coordinator(
            records=self._records,
            study=study,
            proposals=SearchProposals(
                setup, self._records, study, sampler, config.trials, reseeding, self._winners.cost_of
            ),
            mirror=mirror,
            executor=executor,
            reporter=screen,
            options=RunOptions(
                lag=config.deterministic,
                ahead=ahead,
                ends_at=None if n_hours is None else run.started_at + timedelta(hours=n_hours),
                checkpoints=config.folder / CHECKPOINTS,
                diagnosis=config.diagnosis,
            ),
            on_ranked=self._winners.update,
            on_evaluated=self._pictures.keep,
        )
