"""A whole search, from a settled configuration to a summary: what the CLI's main command calls."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import optuna

from unetx_evaluators.budgets import default_budget
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks.cache import using
from unetx_search.best import save_best, whereabouts
from unetx_search.config import SearchConfig, Settled, check_stated
from unetx_search.coordinator import Coordinator, Ground
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.slots import GpuProbe, Slot, make_slots, nvidia_smi_probe
from unetx_search.preparing import keep_beside, no_empty_folders, prepared_task
from unetx_search.progress import Standing, display
from unetx_search.samplers.guard import Guard
from unetx_space.design_space import DesignSpace
from unetx_space.errors import RequestError
from unetx_studies.artifacts import attach_drawing
from unetx_studies.store import Records, open_store, optuna_storage, study_url

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import Budget, Evaluator
    from unetx_evaluators.tasks import Source, Task
    from unetx_search.executors.base import Executor
    from unetx_studies.store import EvaluationRecord


SETTINGS = "config.json"
"""Beside a study: what it was begun with."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a search came to."""

    study: str
    folder: Path
    n_trials: int
    """The total that was asked for."""
    evaluations: tuple[EvaluationRecord, ...]
    """Every finished evaluation, in order of trial number."""
    was_complete: bool
    """There was nothing left to do."""
    was_stopped: bool
    """The user asked for an end before the total was reached."""

    @property
    def best(self) -> EvaluationRecord | None:
        """The complete evaluation of the highest score; the earliest of equals."""
        return next(iter(self.ranking), None)

    @property
    def ranking(self) -> tuple[EvaluationRecord, ...]:
        """Complete evaluations, best first."""
        complete = [e for e in self.evaluations if e.outcome == "complete" and e.score is not None]
        return tuple(sorted(complete, key=lambda e: (-(e.score or 0.0), e.trial_number)))

    def preset(self, name: str) -> EvaluationRecord | None:
        """The evaluation of a preset, where it is finished."""
        return next((e for e in self.evaluations if e.origin.removesuffix(", adapted") == f"preset {name}"), None)


def search(
    config: SearchConfig,
    *,
    console: Console,
    probe: GpuProbe = nvidia_smi_probe,
    evaluator: Evaluator | None = None,
    source: Source | None = None,
) -> Summary:
    """Run or continue the study of ``config`` and say what it came to.

    ``probe``, ``evaluator`` and ``source`` replace the machine, the trainer and the data in tests. Raises
    RequestError when the request cannot be met, and then has written nothing but finished cases into the cache;
    SearchFailed when the work is hopeless.
    """
    slots = make_slots(config.gpus, workers_per_gpu=config.workers_per_gpu, cpu_workers=config.cpu_workers, probe=probe)
    if evaluator is None:
        _check_torch(slots)
    with no_empty_folders(config.folder, config.cache_folder):
        check_stated(config, config.folder / SETTINGS)
        options = config.task_options(slots[0].device)
        task = prepared_task(config.folder, source or _source(config, console), config.cache_folder, options, console)
        space = config.design_space(len(task.strides))
        budget = settle_budget(config, task)
        settled = Settled.of(config, task, space, budget)
        keep_beside(config.folder, task)
        settled.freeze(config.folder / SETTINGS)
    with using(task), open_store(study_url(config.folder), create=True) as store:
        study = _open_study(config)
        records = Records(store, config.study_name)
        n_missing = config.trials - len(records.evaluations(finished_only=True))
        was_stopped = False
        if n_missing > 0:
            chosen = evaluator or ProxyEvaluator(device=slots[0].device, n_threads=slots[0].n_threads)
            with LocalExecutor(chosen, task, slots, log_folder=config.folder / "logs") as executor:
                was_stopped = _run(config, study, records, task, space, budget, executor, console)
        save_best(records, study, task, config.folder)
        return Summary(
            study=config.study_name,
            folder=config.folder,
            n_trials=config.trials,
            evaluations=records.evaluations(finished_only=True),
            was_complete=n_missing <= 0,
            was_stopped=was_stopped,
        )


def _check_torch(slots: Sequence[Slot]) -> None:
    """GPU workers need a torch that was built for them; its version tells without the seconds of an import."""
    if any(slot.device != "cpu" for slot in slots) and version("torch").endswith("+cpu"):
        raise RequestError(
            f"{len(slots)} GPU worker(s) were asked for, but the installed torch {version('torch')} was built for CPUs "
            "only; install a CUDA build of torch, or use --gpus 0 for CPU workers"
        )


def settle_budget(config: SearchConfig, task: Task) -> Budget:
    """The task's default budget with what the user set; new ``steps`` move the rungs along."""
    budget = default_budget(task)
    if config.steps is not None:
        rungs = {max(1, round(rung * config.steps / budget.steps)) for rung in budget.rungs}
        budget = replace(budget, steps=config.steps, rungs=tuple(sorted(rungs)))
    return replace(
        budget,
        batch_size=config.batch_size or budget.batch_size,
        width_factor=config.width_factor or budget.width_factor,
        selection_cases=config.selection_cases or budget.selection_cases,
    )


def _source(config: SearchConfig, console: Console) -> Source:
    if config.data is None:
        console.print("no --data given: searching on the built-in demo task (synthetic images)")
    return config.source()


def _open_study(config: SearchConfig) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=optuna_storage(study_url(config.folder)),
        study_name=config.study_name,
        direction="maximize",
        pruner=PRUNERS[config.pruner](),
        load_if_exists=True,
    )


def _run(
    config: SearchConfig,
    study: optuna.Study,
    records: Records,
    task: Task,
    space: DesignSpace,
    budget: Budget,
    executor: Executor,
    console: Console,
) -> bool:
    """Bring the study to its total; True when the user asked for an earlier end."""
    ground = Ground(task.backbone(), task.patch, space, budget, config.seed, config.max_cost)
    screen = display(_standing(config, budget, records, executor.n_slots), console)
    coordinator = Coordinator(
        study=study,
        records=records,
        executor=executor,
        ground=ground,
        reporter=screen,
        n_trials=config.trials,
        on_best=lambda trial: save_best(records, study, task, config.folder),
        on_dispatch=lambda trial, architecture: attach_drawing(
            trial, replace(architecture, provenance=whereabouts(study, trial.number, task)), config.folder
        ),
    )
    study.sampler = Guard(
        SAMPLERS[config.sampler](_sampler_seed(config.seed, len(study.get_trials(deepcopy=False)))),
        ground.space,
        is_admissible=ground.admission(),
        is_new=coordinator.is_new,
        seed=config.seed,
    )
    with screen, _orderly_stop(coordinator, executor, console):
        coordinator.run()
    return coordinator.was_stopped


SAMPLERS: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}

PRUNERS: Mapping[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5),
    "none": optuna.pruners.NopPruner,
}


def _sampler_seed(seed: int, n_trials: int) -> int:
    """Another seed after every restart, or a continued study would draw its first numbers again."""
    digest = hashlib.blake2b(f"{seed}:{n_trials}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def _standing(config: SearchConfig, budget: Budget, records: Records, n_slots: int) -> Standing:
    done, best = records.evaluations(finished_only=True), records.best()
    return Standing(
        study=config.study_name,
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
