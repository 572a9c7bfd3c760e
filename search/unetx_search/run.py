"""A whole search, from a settled configuration to a summary: what the CLI's main command calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from unetx_evaluators.tasks.cache import using
from unetx_search.best import WinnerFiles
from unetx_search.cheapest import Cheapest, CostOf
from unetx_search.config import SearchConfig, check_stated, keep_request, read_begun
from unetx_search.coordinator import Coordinator, RunOptions
from unetx_search.executors.engines import CHECKPOINTS, Engine, open_engine, proxy_evaluator
from unetx_search.executors.gpus import GpuProbe, usable_gpus
from unetx_search.executors.slots import Slot
from unetx_search.gpu_check import preflight
from unetx_search.preparing import keep_beside, no_empty_folders, split_warnings
from unetx_search.progress import WORKERS, Standing, WorkersFile, display
from unetx_search.proposals import Reseeding, SearchProposals
from unetx_search.pruners import PRUNERS
from unetx_search.sampler_study import SamplerStudy
from unetx_search.samplers.constrained_sampler import ConstrainedSampler
from unetx_search.samplers.registry import SAMPLERS
from unetx_search.settling import Asked, asked, audited
from unetx_search.sharing.measurement import slots_that_pay
from unetx_search.study_pictures import StudyPictures
from unetx_search.study_session import Claim, claimed, graceful_shutdown, tell_of
from unetx_search.study_setup import StudySetup
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

CLOSE_WITHIN_S = 3.0
"""For workers to leave by themselves, before they are killed."""

SETTINGS = "config.json"
"""Beside a study: what it was begun with."""
REQUEST = "request.json"
"""Beside a study: what its search was told last."""


@dataclass(frozen=True)
class Summary:
    """What a search came to."""

    study: str
    folder: Path
    database: str
    """The study's file, or a server's URL without its password."""
    n_trials: int
    """The total that was asked for."""
    evaluations: tuple[TrialRecord, ...]
    """Every finished trial, in order."""
    was_complete: bool
    """There was nothing left to do."""
    was_stopped: bool
    """The user asked for an end before the total was reached."""
    ran_out_of_time: bool = False
    """The time that the user gave was up before the total was reached."""
    warnings: tuple[str, ...] = ()
    """What may make the numbers look better than they are."""
    cheapest: Cheapest | None = None
    """The cheapest design that is as good as U-Net, or that none is; None without a score of U-Net."""

    @cached_property
    def ranking(self) -> Ranking:
        """Of every design that has a score."""
        return Ranking(self.evaluations)

    @property
    def best(self) -> Ranked | None:
        """The first of the ranking."""
        return self.ranking.best

    def preset(self, name: str) -> Ranked | None:
        """A preset as it is ranked, where it has a score."""
        return self.ranking.get(preset_key(self.evaluations, name))


@dataclass(frozen=True, slots=True)
class _Given:
    """What takes the place of the trainer, of the data and of the sampler; and who draws the study's figures."""

    evaluator: Evaluator | None
    source: Source | None
    sampler_of: SamplerOf | None
    plot: Callable[[Path], None]


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
    """Run or continue the study of ``config`` and say what it came to.

    ``source`` and ``sampler_of`` take the place of the data and the sampler that ``config`` names; ``probe`` and
    ``evaluator`` that of the machine and the trainer in tests. ``plot`` is called with the study's folder now and then,
    to draw its figures. Raises RequestError when the request cannot be met, and
    then has written nothing but finished cases into the cache; SearchFailed when the work is hopeless.
    """
    with open_engine(config, probe=probe) as engine:
        slots = engine.slots[: config.deterministic]
        if evaluator is None:
            preflight(slots, console)
        check_stated(config, config.folder / SETTINGS)
        location = resolve_location(config.folder, config.study_name, config.storage)
        check_writable(location)
        tell_of(location, config.study_name, console)
        began_at = utc_now()
        with no_empty_folders(config.cache_folder), full_disk_explained(config.folder):
            # A study that has begun is looked at before it is claimed, so that a refusal leaves no trace in it.
            has_begun = (config.folder / SETTINGS).exists()
            given = _Given(evaluator, source, sampler_of, plot)
            found = _agreed(config, location, engine, slots, console, given) if has_begun else None
            run = replace(new_run(location.study or config.study_name, n_trials=config.trials), started_at=began_at)
            with claimed(location, run, console) as claim:
                with heartbeats(claim.store.url, run):  # this may take long, and may refuse the request
                    found = found or _asked(config, engine, slots, console, given)
                    found.settled.freeze(config.folder / SETTINGS)
                    keep_request(config, config.folder / REQUEST)
                    keep_beside(config.folder, found.task)
                claim.is_settled = True
                return _search(config, claim, found, engine, slots, console, given)


def _asked(config: SearchConfig, engine: Engine, slots: Sequence[Slot], console: Console, given: _Given) -> Asked:
    """What the request comes to; where the study has begun, by what it was begun with."""

    def executor_of(task: Task) -> Executor:
        return engine.executor(given.evaluator or proxy_evaluator(slots), task, slots)

    settings = config.folder / SETTINGS
    begun = read_begun(settings) if settings.exists() else None
    source = given.source or source_of(config, console)
    found = asked(config, source, slots[0].device, executor_of, console, begun)
    return audited(config, found, console) if begun is None else found


def _agreed(
    config: SearchConfig,
    location: StudyLocation,
    engine: Engine,
    slots: Sequence[Slot],
    console: Console,
    given: _Given,
) -> Asked:
    """The same where a study has begun; RequestError, and nothing is written, when it is at work or was otherwise."""
    with open_store(location.url, create=False, read_only=True) as store:
        Lease(store, location.study or config.study_name).check_free(utc_now())
    found = _asked(config, engine, slots, console, given)
    found.settled.check(config.folder / SETTINGS)
    return found


def _search(
    config: SearchConfig,
    claim: Claim,
    found: Asked,
    engine: Engine,
    slots: Sequence[Slot],
    console: Console,
    given: _Given,
) -> Summary:
    task, name = found.task, claim.lease.run.study
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    setup = StudySetup(task.backbone(), task.patch, found.space, found.budget, config.seed, config.max_cost)
    records = Records(claim.store, name, claim.lease)

    pictures = StudyPictures(config.folder, name, task, records, partial(given.plot, config.folder))
    cost_of = CostOf(config.cheap_by, lambda key: training_memory(records.architecture(key), task.patch))
    reference = setup.u_net_key
    winners = WinnerFiles(config.folder, name, records, task, reference, config.cheap_by, config.margin, cost_of)

    with using(task), OptunaMirror(claim.store, name, records, setup.genes, attach=pictures.attach) as mirror:
        pictures.hide(claim.store.url)
        done = records.trials(finished_only=True)
        n_missing = config.trials - len(done)
        was_stopped = ran_out_of_time = False
        if n_missing > 0:

            def evaluator_of(slots: Sequence[Slot]) -> Evaluator:
                return given.evaluator or proxy_evaluator(slots)

            if not isinstance(config.workers_per_gpu, int):
                with heartbeats(claim.store.url, claim.lease.run):
                    slots = slots_that_pay(config, slots, evaluator_of, task, setup, n_missing, console)
            # A trial that waits is for slots on GPUs: on a CPU it takes far longer than its proposal.
            ahead = len(slots) if slots[0].device == "cuda" else 0
            with engine.executor(evaluator_of(slots), task, slots) as executor:
                coordinator = _coordinated(
                    config,
                    claim,
                    setup,
                    records,
                    done,
                    mirror,
                    executor,
                    winners,
                    pictures,
                    console,
                    given.sampler_of,
                    ahead,
                )
                was_stopped, ran_out_of_time = coordinator.was_stopped, coordinator.ran_out_of_time
                executor.close(timeout_s=CLOSE_WITHIN_S)
        trials = records.trials(finished_only=True)
        winners.finish(ranking := Ranking(trials))
        return Summary(
            study=name,
            folder=config.folder,
            database=claim.location.shown,
            n_trials=config.trials,
            evaluations=trials,
            was_complete=n_missing <= 0,
            was_stopped=was_stopped,
            ran_out_of_time=ran_out_of_time,
            warnings=split_warnings(task),
            cheapest=winners.cheapest(ranking),
        )


def source_of(config: SearchConfig, console: Console) -> Source:
    """The data of a request; it is said where these are the built-in ones."""
    if config.data is None:
        console.print("no --data given: taking the built-in demo task (synthetic images)")
    return config.source()


def _coordinated(
    config: SearchConfig,
    claim: Claim,
    setup: StudySetup,
    records: Records,
    done: Sequence[TrialRecord],
    mirror: OptunaMirror,
    executor: Executor,
    winners: WinnerFiles,
    pictures: StudyPictures,
    console: Console,
    sampler_of: SamplerOf | None,
    ahead: int,
) -> Coordinator:
    """Bring the study to its total, as far as user and time allow."""
    run = claim.lease.run
    best = Ranking(done).best
    standing = Standing(
        study=run.study,
        n_trials=config.trials,
        n_steps=setup.budget.steps,
        n_slots=executor.n_slots,
        n_done=len(done),
        best=best.estimate if best else None,
        best_trial=best.number if best else None,
    )
    screen = display(standing, console, WorkersFile(config.folder / WORKERS))
    study = SamplerStudy(run.study, setup.genes, PRUNERS[config.pruner](setup.budget))
    sampler = ConstrainedSampler(sampler_of or SAMPLERS[config.sampler], setup.genes, setup.admitted, seed=config.seed)
    coordinator = Coordinator(
        records=records,
        study=study,
        proposals=SearchProposals(
            setup, records, study, sampler, config.trials, Reseeding(config.reseed, config.margin), winners.cost_of
        ),
        mirror=mirror,
        executor=executor,
        reporter=screen,
        options=RunOptions(
            lag=config.deterministic,
            ahead=ahead,
            ends_at=run.started_at + timedelta(hours=config.max_hours) if config.max_hours is not None else None,
            checkpoints=config.folder / CHECKPOINTS,
            diagnosis=config.diagnosis,
        ),
        on_ranked=winners.follow,
        on_evaluated=pictures.keep,
    )
    with screen, graceful_shutdown(coordinator, executor, console):
        coordinator.run()
    return coordinator
