"""A whole search, from a settled configuration to a summary: what the CLI's main command calls."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import optuna

from unetx_evaluators.tasks.cache import using
from unetx_search.best import save_best, whereabouts
from unetx_search.book import Book, lease, new_run, open_book, showing_life, utc_now
from unetx_search.config import SearchConfig, check_stated, read_begun
from unetx_search.coordinator import Coordinator, Terms
from unetx_search.executors.engines import CHECKPOINTS, Engine, check_torch, open_engine, proxy_evaluator
from unetx_search.executors.gpus import GpuProbe, usable_gpus
from unetx_search.executors.slots import Slot
from unetx_search.ground import Ground
from unetx_search.preparing import keep_beside, no_empty_folders, split_warnings
from unetx_search.progress import WORKERS, Standing, WorkersFile, display
from unetx_search.pruners import PRUNERS
from unetx_search.samplers.guard import Guard, SamplerOf
from unetx_search.settling import Asked, asked
from unetx_search.sharing.measurement import slots_that_pay
from unetx_space.design_space import DesignSpace
from unetx_space.errors import RequestError
from unetx_studies.artifacts import attach_drawing
from unetx_studies.ranking import preset_key, ranking
from unetx_studies.store import (
    DATABASE,
    Ledger,
    Patience,
    Place,
    Records,
    RunRecord,
    Store,
    again,
    check_writable,
    full_disk_explained,
    is_begun,
    keep_place,
    open_store,
    settle_place,
)

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import Budget, Evaluator
    from unetx_evaluators.tasks import Source, Task
    from unetx_search.executors.base import Executor
    from unetx_studies.store import EvaluationRecord

CLOSE_WITHIN_S = 3.0
"""For workers to leave by themselves, before they are killed."""


WAIT_S = 120.0
"""For a database server that has gone away; as long as another machine waits before it takes the study over."""

SETTINGS = "config.json"
"""Beside a study: what it was begun with."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a search came to."""

    study: str
    folder: Path
    database: str
    """The study's file, or a server's URL without its password."""
    n_trials: int
    """The total that was asked for."""
    evaluations: tuple[EvaluationRecord, ...]
    """Every finished evaluation, in order of trial number."""
    was_complete: bool
    """There was nothing left to do."""
    was_stopped: bool
    """The user asked for an end before the total was reached."""
    ran_out_of_time: bool = False
    """The time that the user gave was up before the total was reached."""
    original_dice: Mapping[int, float] = field(default_factory=dict)
    """Scores on the cases' original voxels, by trial."""
    warnings: tuple[str, ...] = ()
    """What may make the numbers look better than they are."""

    @property
    def best(self) -> EvaluationRecord | None:
        """The first of the ranking."""
        return next(iter(self.ranking), None)

    @property
    def ranking(self) -> tuple[EvaluationRecord, ...]:
        """Every design once, by its first complete evaluation, best first."""
        return ranking(self.evaluations)

    def preset(self, name: str) -> EvaluationRecord | None:
        """The evaluation by which a preset is ranked, where it is complete."""
        key = preset_key(self.evaluations, name)
        return next((e for e in self.ranking if e.key == key), None)


@dataclass(frozen=True, slots=True)
class _Given:
    """What takes the place of the trainer and of the data in tests."""

    evaluator: Evaluator | None
    source: Source | None


def search(
    config: SearchConfig,
    *,
    console: Console,
    probe: GpuProbe = usable_gpus,
    evaluator: Evaluator | None = None,
    source: Source | None = None,
) -> Summary:
    """Run or continue the study of ``config`` and say what it came to.

    ``probe``, ``evaluator`` and ``source`` replace the machine, the trainer and the data in tests. Raises
    RequestError when the request cannot be met, and then has written nothing but finished cases into the cache;
    SearchFailed when the work is hopeless.
    """
    with open_engine(config, probe=probe) as engine:
        slots = engine.slots[: config.deterministic]
        if evaluator is None:
            check_torch(slots)
        check_stated(config, config.folder / SETTINGS)
        place = settle_place(config.folder, config.study_name, config.storage)
        check_writable(place)
        _tell_of(place, config.study_name, console)
        began_at = utc_now()
        with no_empty_folders(config.cache_folder), full_disk_explained(config.folder):
            # A study that has begun is looked at before it is claimed, so that a refusal leaves no trace in it.
            has_begun = (config.folder / SETTINGS).exists()
            given = _Given(evaluator, source)
            found = _agreed(config, place, engine, slots, console, given) if has_begun else None
            run = new_run(place.study or config.study_name, n_trials=config.trials, n_slots=len(slots))
            with _claimed(place, replace(run, started_at=began_at), console) as claim:
                with _settling(claim):
                    found = found or _asked(config, engine, slots, console, given)
                    found.settled.freeze(config.folder / SETTINGS)
                    keep_beside(config.folder, found.task)
                return _search(config, claim, found, engine, slots, console, evaluator)


def _asked(config: SearchConfig, engine: Engine, slots: Sequence[Slot], console: Console, given: _Given) -> Asked:
    """What the request comes to; where the study has begun, by what it was begun with."""

    def executor_of(task: Task) -> Executor:
        return engine.executor(given.evaluator or proxy_evaluator(config, slots), task, slots)

    settings = config.folder / SETTINGS
    begun = read_begun(settings) if settings.exists() else None
    return asked(config, given.source or _source(config, console), slots[0].device, executor_of, console, begun)


def _agreed(
    config: SearchConfig, place: Place, engine: Engine, slots: Sequence[Slot], console: Console, given: _Given
) -> Asked:
    """The same where a study has begun; RequestError, and nothing is written, when it is at work or was otherwise."""
    with open_store(place.url, create=False, read_only=True) as store:
        Ledger(store, place.study or config.study_name).check_free(utc_now())
    found = _asked(config, engine, slots, console, given)
    found.settled.check(config.folder / SETTINGS)
    return found


def _tell_of(place: Place, asked_for: str, console: Console) -> None:
    if place.study != asked_for:
        told = f"{place.folder} holds the study {place.study!r}, which goes on under its own name"
        console.print(told, markup=False, soft_wrap=True)
    elif not place.is_on_server and (place.folder / DATABASE).exists() and not is_begun(place):
        told = f"{place.folder / DATABASE} is empty, as a start that was killed leaves it; the study begins in it"
        console.print(told, markup=False, soft_wrap=True)


def _search(
    config: SearchConfig,
    claim: Claim,
    found: Asked,
    engine: Engine,
    slots: Sequence[Slot],
    console: Console,
    evaluator: Evaluator | None,
) -> Summary:
    task, space, budget = found.task, found.space, found.budget
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = PRUNERS[config.pruner](budget)
    with using(task), open_book(claim.store, claim.run, pruner=pruner, identity=claim.place.id) as book:
        n_missing = config.trials - len(book.records.evaluations(finished_only=True))
        was_stopped = ran_out_of_time = False
        if n_missing > 0:
            if config.workers_per_gpu == "auto":
                ground = _ground(config, task, space, budget)
                measured_with = evaluator or proxy_evaluator(config, slots)
                with showing_life(claim.store.url, claim.run):
                    slots = slots_that_pay(config, slots, measured_with, task, ground, n_missing, console)
                n_slots = len(slots)
                book.write(lambda: book.ledger.seat(claim.run, n_slots))
            chosen = evaluator or proxy_evaluator(config, slots)
            with engine.executor(chosen, task, slots) as executor:
                coordinator = _run(config, book, task, space, budget, executor, console)
                was_stopped, ran_out_of_time = coordinator.was_stopped, coordinator.ran_out_of_time
                executor.close(timeout_s=CLOSE_WITHIN_S)
        again(lambda: save_best(book.records, book.study, task, config.folder))
        return Summary(
            study=claim.run.study,
            folder=config.folder,
            database=claim.place.shown,
            n_trials=config.trials,
            evaluations=again(lambda: book.records.evaluations(finished_only=True)),
            was_complete=n_missing <= 0,
            was_stopped=was_stopped,
            ran_out_of_time=ran_out_of_time,
            original_dice=again(book.records.original_dice),
            warnings=split_warnings(task),
        )


def _ground(config: SearchConfig, task: Task, space: DesignSpace, budget: Budget) -> Ground:
    return Ground(task.backbone(), task.patch, space, budget, config.seed, config.max_cost)


@dataclass(slots=True)
class Claim:
    """A study whose lease this process holds."""

    store: Store
    run: RunRecord
    place: Place
    is_settled: bool = False
    """The study is there to stay, whatever happens from now on."""


@contextmanager
def _claimed(place: Place, run: RunRecord, console: Console) -> Iterator[Claim]:
    """Hold the study; remove the folders that this made, when it ends in an error before the study was settled."""
    folder, claim = place.folder, None
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    patience = Patience(WAIT_S, tell=lambda words: console.print(words, markup=False, soft_wrap=True))
    try:
        with open_store(place.url, create=True, patience=patience) as store, lease(store, run) as died:
            claim = Claim(store, run, place)
            _note_place(claim)
            if died is not None:
                console.print(f"continuing after {died.process}, which died: its last sign of life {died.seen_at:%c}")
            yield claim
    except BaseException:
        if made and claim is not None and not claim.is_settled:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # somebody else has put something there meanwhile
                for parent in made[1:]:
                    parent.rmdir()
        raise


def _note_place(claim: Claim) -> None:
    """Note where the study is. Raises RequestError when its server has one of this name from another folder."""
    place, run = claim.place, claim.run
    if place.is_new and Records(claim.store, run.study).evaluations():
        raise RequestError(
            f"{place.shown} has a study {run.study!r} already, and {place.folder} is not its folder; take another "
            "--study NAME, or run the command where that folder is"
        )
    if place.is_new:
        keep_place(place)


@contextmanager
def _settling(claim: Claim) -> Iterator[None]:
    """What is done inside may take long, and may refuse the request; afterwards the study stays."""
    with showing_life(claim.store.url, claim.run):
        yield
    claim.is_settled = True


def _source(config: SearchConfig, console: Console) -> Source:
    if config.data is None:
        console.print("no --data given: searching on the built-in demo task (synthetic images)")
    return config.source()


def _run(
    config: SearchConfig,
    book: Book,
    task: Task,
    space: DesignSpace,
    budget: Budget,
    executor: Executor,
    console: Console,
) -> Coordinator:
    """Bring the study to its total, as far as user and time allow."""
    ground = _ground(config, task, space, budget)
    workers_file = WorkersFile(config.folder / WORKERS)
    screen = display(_standing(config, budget, book, executor.n_slots), console, workers_file)
    coordinator = Coordinator(
        book=book,
        executor=executor,
        ground=ground,
        reporter=screen,
        terms=Terms(
            config.trials,
            lag=config.deterministic,
            ends_at=book.run.started_at + timedelta(hours=config.max_hours) if config.max_hours is not None else None,
            checkpoints=config.folder / CHECKPOINTS,
            diagnosis=config.diagnosis,
        ),
        on_best=lambda trial: save_best(book.records, book.study, task, config.folder),
        on_dispatch=lambda trial, architecture: attach_drawing(
            trial, replace(architecture, provenance=whereabouts(book.study, trial.number, task)), config.folder
        ),
    )
    book.study.sampler = Guard(
        SAMPLERS[config.sampler],
        ground.space,
        is_admissible=ground.admission(),
        is_new=coordinator.is_new,
        seed=config.seed,
    )
    with screen, _orderly_stop(coordinator, executor, console):
        coordinator.run()
    return coordinator


SAMPLERS: Mapping[str, SamplerOf] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def _standing(config: SearchConfig, budget: Budget, book: Book, n_slots: int) -> Standing:
    done, best = book.records.evaluations(finished_only=True), book.records.best()
    return Standing(
        study=book.run.study,
        n_trials=config.trials,
        n_steps=budget.steps,
        n_slots=n_slots,
        n_done=len(done),
        best=best.score if best else None,
        best_trial=best.trial_number if best else None,
    )


@contextmanager
def _orderly_stop(coordinator: Coordinator, executor: Executor, console: Console) -> Iterator[None]:
    """Ctrl-C or SIGTERM once: the running trials stop at their next step. Twice: everything stops now."""

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if coordinator.was_stopped:
            executor.close(timeout_s=0.0)
            raise KeyboardInterrupt
        coordinator.stop()
        console.print(f"{signal.Signals(number).name}: stopping the running trials; again to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
