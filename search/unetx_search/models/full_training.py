"""From an architecture and a dataset to a trained model: prepared by the full plan, trained fold by fold, scored.

A model's folder says what it was begun with. The same command goes on where it was broken off, by the checkpoint that
the trainer keeps; asked for something else, it is refused. Scores on the test cases come last, from the last weights.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from unetx_evaluators.budgets import check_rankable
from unetx_evaluators.evaluation import Budget, Outcome
from unetx_evaluators.predicting.model_plan import ModelPlan
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import prepare, task_in_use
from unetx_evaluators.tasks.cache import Manifest
from unetx_evaluators.tasks.examination import Request
from unetx_evaluators.tasks.prepare import with_splits
from unetx_evaluators.training.recipe import Recipe
from unetx_search.architectures import named_architecture
from unetx_search.executors.base import Job
from unetx_search.executors.engines import check_torch
from unetx_search.executors.slots import Slot, make_slots
from unetx_search.models.fold_training import FoldTraining, train_folds
from unetx_search.models.scores import score_on_tests
from unetx_search.models.training_progress import TrainingBars
from unetx_search.models.verdict import verdict_json, verdict_on
from unetx_search.preparing import PreparationBars, case_groups, no_empty_folders
from unetx_search.winner_files import task_facts
from unetx_space.architecture import Architecture
from unetx_space.canonical import key
from unetx_space.errors import RequestError, UnetxError, unknown_name
from unetx_space.presets import PRESETS
from unetx_studies.disk_full import full_disk_explained
from unetx_studies.model_folder import SCORES, TRAINING, VERDICT, ModelFolder, read_json, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import CurvePoint, Evaluation
    from unetx_evaluators.tasks import Source, Task
    from unetx_search.data_choices import DataChoices
    from unetx_search.models.train_choices import TrainChoices
    from unetx_studies.verdict import Verdict

FULL_BATCH = {2: 8, 3: 2}
"""Patches of a training step by default, by dimensions."""
CHECKPOINTS = "checkpoints"
"""Name of the folder of checkpoints in a model's, which is removed once the model is complete."""


class TrainingFailed(UnetxError):
    """A training ended before its last step. CLI exit code 1."""


@dataclass(frozen=True)
class Trained:
    """A complete model with its scores."""

    model: ModelFolder
    scores: Mapping[str, Any]
    """The scores, as in ``scores.json``."""
    was_complete: bool
    """Whether there was nothing left to train."""
    verdict: Verdict | None = None
    """The comparison with a preset that was trained the same way; None without one."""


@dataclass(frozen=True)
class PreparedData:
    """A dataset prepared by its full plan, and what it is trained on."""

    source: Source
    """The source, with the case names that the task uses."""
    folds: tuple[Task, ...]
    """The task with each fold's split; one where there are no folds."""
    slots: tuple[Slot, ...]
    """Slots in which folds train at the same time, each in several processes where there are more slots than folds.
    Without any, folds train in this process, one after the other."""
    machine: str
    n_threads: int
    batch_size: int
    groups: Mapping[str, str]
    """The group of each test case, such as its patient; each case is its own group where the user names none."""

    @property
    def task(self) -> Task:
        return self.folds[0]


def train(
    name: str,
    path: Path,
    choices: DataChoices,
    how: TrainChoices,
    *,
    console: Console,
    against: str | None = None,
    source: Source | None = None,
) -> Trained:
    """Train the architecture ``name``, a file or a preset, into the folder ``path``, or continue its training.

    ``against`` names a preset that is trained the same way, on the same backbone, into a folder in ``path``;
    ``source`` takes the place of the data that the choices name. Raises RequestError where the request does not fit the
    data or what the folder was begun with, and TrainingFailed.
    """
    if against is not None and (against not in PRESETS or against == name):
        raise RequestError(
            f"--against names another preset to compare with; {unknown_name('preset', against, PRESETS)}"
        )
    if choices.fold:
        raise RequestError(
            "--fold says which fold a search validates on; train trains all of --folds: leave --fold out"
        )
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / TRAINING).exists()):
        raise RequestError(f"{path}: holds something else than a model; name a new folder with -o")
    found = None if name in PRESETS else named_architecture(name)
    source = source or choices.source()
    if found is not None:
        check_fit(found, source, choices.dims)
    with no_empty_folders(path, choices.cache_folder), full_disk_explained(path), locked(path):
        data = prepare_data(found, source, choices, how, console)
        done = train_on(data, name, found, path, how, console, searched_recipe(found))
        if against is None:
            return done
        backbone = done.model.architecture.backbone
        rival = Architecture(backbone, PRESETS[against].genome(backbone.n_levels))
        console.print(f"training {against} the same way", markup=False, soft_wrap=True)
        same = replace(how, width_factor=1.0)
        other = train_on(data, against, rival, path / f"against-{against}", same, console, searched_recipe(found))
    own = Path(name).stem if Path(name).stem != against else name
    verdict = verdict_on(own, done.scores, against, other.scores, data.groups)
    write_json(path / VERDICT, verdict_json(verdict))
    return replace(done, verdict=verdict)


def check_fit(architecture: Architecture, source: Source, dims: int | None) -> None:
    """Check that an architecture fits the images and classes of a source. Raises RequestError where it does not."""
    backbone = architecture.backbone
    for what, has, needs in (
        ("dimensions", backbone.dims, dims or source.dims),
        ("input channels", backbone.in_channels, len(source.channels)),
        ("classes with the background", backbone.out_channels, len(source.classes)),
    ):
        if has != needs:
            slices = "; --dims 2 trains on slices" if (what, has) == ("dimensions", 2) else ""
            raise RequestError(
                f"the architecture has {has} {what}, {source.origin} needs {needs}; train a preset, or a design that "
                f"was searched on such data{slices}"
            )


def prepare_data(
    found: Architecture | None, source: Source, choices: DataChoices, how: TrainChoices, console: Console
) -> PreparedData:
    """Prepare the data by the full plan, with as many levels as the architecture has. Raises DataError."""
    from unetx_evaluators.device import best_device

    slots = () if how.gpus is None else make_slots(how.gpus)
    check_torch(slots)
    machine = slots[0].device if slots else best_device() if how.device == "auto" else how.device
    options = choices.task_options("cpu" if machine == "cpu" else "cuda")
    batch_size = how.batch_size or FULL_BATCH[options.dims or source.dims]
    levels = options.levels or (None if found is None else found.backbone.n_levels)
    options = replace(options, seconds=options.seconds or math.inf, batch_size=batch_size, levels=levels)
    with PreparationBars(source.name, console) as bars:
        task = prepare(source, choices.cache_folder, options, watcher=bars)
    of_folds = [Request.of(source, replace(options, fold=fold)).splits for fold in range(options.folds or 1)]
    folds = tuple(with_splits(task, splits) for splits in of_folds if splits is not None)
    named = Request.of(source, options).source
    groups = case_groups(source, choices)
    of_tests = {name: groups.get(name, name) for name in task.splits.test}
    n_threads = slots[0].n_threads if slots else how.n_threads
    return PreparedData(named, folds, slots, machine, n_threads, batch_size, of_tests)


def train_on(
    data: PreparedData,
    name: str,
    found: Architecture | None,
    path: Path,
    how: TrainChoices,
    console: Console,
    searched: Recipe | None,
) -> Trained:
    """Train on prepared data, in a folder that this process has locked. ``searched`` is the search's recipe."""
    task = data.task
    architecture = trained_architecture(name, found, task, how)
    budget = full_budget(task, data.batch_size, how.recipe(task.dims, searched), how)
    check_rankable(task, budget)
    n_processes = processes_of_a_fold(data, architecture, console)
    record = _TrainingFile(path, {**_settings(data, architecture, budget, how), "processes": n_processes})
    manifest = Manifest.read(task.folder)
    assert manifest is not None
    plan = ModelPlan.of(task, data.source, manifest.basis.preparation, budget.recipe.mirror)
    model = ModelFolder.write(path, plan, architecture)
    was_complete = (path / SCORES).exists()
    with task_in_use(task):
        _train_missing(model, budget, data, how, n_processes, record, console)
        if not was_complete:
            weights = "moving average" if how.averaging else "last"
            score_on_tests(model, data.source, task, data.machine, data.n_threads, weights, console)
    shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
    return Trained(model, read_json(path / SCORES, {"test": dict}), was_complete)


def trained_architecture(name: str, found: Architecture | None, task: Task, how: TrainChoices) -> Architecture:
    """Return the architecture that is trained: the one that was found, or a preset by the task's plan, at its width."""
    if found is None:
        genome = PRESETS[name].genome(len(task.strides))
        found = Architecture(task.backbone(), genome, provenance={"preset": PRESETS[name].title})
    backbone = replace(found.backbone.scaled(how.width_factor), deep_supervision=how.deep_supervision)
    provenance = {**found.provenance, "task": task_facts(task), "width_factor": how.width_factor}
    return replace(found, backbone=backbone, score={}, provenance=provenance)


def searched_recipe(found: Architecture | None) -> Recipe | None:
    """Return the recipe of the search that found an architecture; None where its document does not tell it."""
    try:
        return None if found is None else Budget.from_json(found.score["budget"]).recipe
    except (KeyError, TypeError, ValueError):
        return None


def full_budget(task: Task, batch_size: int, recipe: Recipe, how: TrainChoices) -> Budget:
    """Return the budget of the whole training of one fold."""
    n = min(how.validations, how.steps)
    rungs = tuple(round(how.steps * number / n) for number in range(1, n + 1))
    n_cases = len(task.splits.validation)
    return Budget(how.steps, batch_size, 1.0, rungs, n_cases, max_seconds=math.inf, recipe=recipe)


def _settings(data: PreparedData, architecture: Architecture, budget: Budget, how: TrainChoices) -> dict[str, Any]:
    """Return all that decides the trained weights, as JSON values."""
    told = {**asdict(budget), "max_seconds": None, "data": data.task.digest, "architecture": key(architecture)}
    return {**told, "seed": how.seed, "folds": len(data.folds), "device": data.machine, "threads": data.n_threads}


def processes_of_a_fold(data: PreparedData, architecture: Architecture, console: Console) -> int:
    """Return how many processes share the batches of a fold; say so where there are slots for more."""
    wanted = max(1, len(data.slots) // len(data.folds))
    n, why = min(wanted, data.batch_size), f"a batch has {data.batch_size} patches (--batch-size)"
    if architecture.backbone.norm == "batch":
        n, why = 1, "its batch norm needs the whole batch in one"
    if n < wanted:
        console.print(f"each fold trains in {n} of {wanted} processes: {why}", markup=False, soft_wrap=True)
    return n


def _train_missing(
    model: ModelFolder,
    budget: Budget,
    data: PreparedData,
    how: TrainChoices,
    n_processes: int,
    record: _TrainingFile,
    console: Console,
) -> None:
    """Train the folds that have no weights yet."""
    from safetensors.torch import load_file

    place = model.path / CHECKPOINTS

    def weights(fold: int) -> Path:
        return place / f"fold{fold}.safetensors"

    def end(one: FoldTraining, answer: Evaluation) -> None:
        fold = one.job.trial
        if answer.outcome is not Outcome.COMPLETE:
            raise _failure(fold, answer)
        one.bar.on_point(answer.curve[-1])
        record.finish(fold, answer, one.task)
        model.add_weights(fold, load_file(weights(fold)))

    with TrainingBars(console) as bars:
        trainings = []
        for fold in (fold for fold in range(len(data.folds)) if fold not in model.folds):
            checkpoint = place / f"fold{fold}.checkpoint"
            told = (weights(fold), math.inf)
            job = Job(fold, model.architecture, budget, how.seed + fold, checkpoint, *told)
            bar = bars.begin(f"fold {fold}", budget.steps, partial(record.note, fold))
            trainings.append(FoldTraining(data.folds[fold], job, bar, n_processes))
        slots = data.slots if len(trainings) * n_processes > 1 else ()
        train_folds(trainings, ProxyEvaluator(data.machine, data.n_threads), slots, end)


def _failure(fold: int, answer: Evaluation) -> UnetxError:
    told = f"fold {fold} ended as {answer.outcome}: {answer.reason}"
    if answer.outcome is Outcome.INFEASIBLE:
        return RequestError(told)
    if answer.outcome is Outcome.OUT_OF_MEMORY:
        return TrainingFailed(f"{told}; ask for less with --batch-size, --memory-gib or --width-factor")
    if answer.outcome is Outcome.DIVERGED:
        return TrainingFailed(f"{told}; try a lower --learning-rate")
    return TrainingFailed(told)


class _TrainingFile:
    """The file ``training.json`` of a model: what it was begun with, and the curves of its trainings."""

    def __init__(self, path: Path, begun: Mapping[str, Any]) -> None:
        """Raises RequestError where the folder was begun with something else."""
        from unetx_evaluators.device import versions

        self._file = path / TRAINING
        self._data: dict[str, Any] = {"begun": json.loads(json.dumps(begun)), "versions": versions(), "folds": {}}
        if self._file.exists():
            self._data["folds"] = read_json(self._file, {"begun": dict, "folds": dict})["folds"]
            self._check(read_json(self._file, {})["begun"])
        path.mkdir(parents=True, exist_ok=True)
        self._write()

    def note(self, fold: int, point: CurvePoint) -> None:
        """Add a point to a fold's curve, in place of points that a resumed training reaches again."""
        curve = self._data["folds"].setdefault(str(fold), {}).setdefault("curve", [])
        curve[:] = [one for one in curve if one["step"] < point.step]
        told = {"step": point.step, "loss": point.loss, "validation_dice": point.score, "seconds": point.seconds}
        curve.append(told)
        self._write()

    def finish(self, fold: int, answer: Evaluation, task: Task) -> None:
        """Note the result of a complete training."""
        self._data["folds"][str(fold)] |= {
            "validation_dice": answer.score,
            "n_parameters": answer.n_parameters,
            "seconds": answer.seconds,
            "peak_mem_mib": answer.peak_mem_mib,
            "device": answer.device,
            "splits": asdict(task.splits),
        }
        self._write()

    def _check(self, before: Mapping[str, Any]) -> None:
        for name, now in self._data["begun"].items():
            if before.get(name) != now:
                what, was, is_now = name, before.get(name), now
                if isinstance(now, dict) and isinstance(was, dict):
                    part = next((part for part in now if was.get(part) != now[part]), "fields")
                    what, was, is_now = f"{name}.{part}", was.get(part), now[part]
                raise RequestError(
                    f"{self._file.parent}: was begun with {what} {was}, now it is {is_now}; give the same options to "
                    "go on, or name another folder with -o"
                )

    def _write(self) -> None:
        write_json(self._file, self._data)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a model's folder against other trainings. Raises RequestError where another process has the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RequestError(f"{path}: another process trains this model; wait for it, or stop it") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
