"""``unetx-search explain``: a design and its twin without skips are trained on a dataset and examined."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unetx_evaluators.budgets import check_rankable
from unetx_evaluators.evaluation import Budget
from unetx_evaluators.pilot import with_steps
from unetx_evaluators.tasks import task_in_use
from unetx_search.architectures import named_architecture, preset_on
from unetx_search.config import MARGIN, SearchConfig, differing_data, read_request, read_settings
from unetx_search.data_choices import DataChoices, at_least, check_rules
from unetx_search.executors.engines import check_torch
from unetx_search.executors.slots import make_slots
from unetx_search.explain import EXPLAIN
from unetx_search.explain.parts import Work, gradient_steps
from unetx_search.explain.trained_model import examine_model
from unetx_search.preparing import case_groups, no_empty_folders, prepared_task
from unetx_search.progress import StageDisplay
from unetx_search.resolving import piloted_spacing, stored_pilot, stored_spacing, unpiloted_budget
from unetx_search.run import REQUEST, SETTINGS
from unetx_search.status import read_status
from unetx_space import Architecture, RequestError
from unetx_space.canonical import key
from unetx_space.files import write_whole
from unetx_space.presets import PRESETS
from unetx_studies.explanation import Explanation, explanation_svg, make_explanation
from unetx_studies.model_folder import PLAN, ModelFolder
from unetx_studies.store import Records, check_study, find_location, full_disk_explained, open_store

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.tasks import Source, Task

FORMAT, VERSION = "unetx.explanation", 1
_TRIAL = re.compile(r"(.+):(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Explained:
    """An explanation, with the folder that has it as ``explain.json`` and ``explain.svg``."""

    architecture: Architecture
    findings: Explanation
    folder: Path


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is to be explained, as far as it is known before any data are read."""

    name: str
    """The name of its folder."""
    architecture: Architecture | None
    """The architecture; None for a preset, which gets the backbone of the data."""
    study: Path | None = None
    budget: Budget | None = None
    seed: int = 0


def explain(
    what: str,
    choices: DataChoices,
    *,
    console: Console,
    folder: Path | None = None,
    seeds: int = 1,
    steps: int | None = None,
    validation_cases: int | None = None,
    gpus: Literal["all"] | int = "all",
) -> Explained:
    """Examine a trained model as it is, or a study's best design, FOLDER:TRIAL, an architecture file or a preset after
    trainings for the purpose.

    Raises RequestError when the request cannot be met; UnetxError where a training ends without a result.
    """
    check_rules(at_least(1, seeds=seeds, steps=steps, validation_cases=validation_cases))
    if what not in PRESETS and (Path(what) / PLAN).is_file():
        if seeds != 1 or steps is not None:
            raise RequestError(f"{what} is trained already: leave --seeds and --steps out")
        return _explain_model(Path(what), choices, folder, validation_cases, gpus, console)
    subject = _subject(what)
    choices = choices if subject.study is None else _with_study_choices(subject.study, choices)
    slot = make_slots(gpus)[0]
    check_torch([slot])
    if choices.data is None and subject.study is None:
        console.print("no --data given: explaining on the built-in demo task (synthetic images)")
    source = choices.source()
    home = subject.study / EXPLAIN if subject.study is not None else choices.out / EXPLAIN
    target = _checked_target(folder or home / subject.name)
    with no_empty_folders(choices.cache_folder, target), full_disk_explained(target):
        task, budget = _task_and_budget(subject, choices, source, slot.device, console)
        budget = replace(budget, validation_cases=validation_cases or len(task.splits.validation))
        budget = budget if steps is None else with_steps(budget, steps)
        check_rankable(task, budget)
        architecture = subject.architecture or preset_on(task.backbone(), what, task.patch)
        with task_in_use(task), StageDisplay(console) as progress:
            work = Work(
                architecture, task, budget, case_groups(source, choices), slot.device, slot.n_threads, target, progress
            )
            looks = [work.look(subject.seed + number) for number in range(seeds)]
        early, midway = gradient_steps(budget.steps)
        margin = choices.margin if isinstance(choices, SearchConfig) else MARGIN
        findings = make_explanation(looks, early=early, midway=midway, groups=work.groups, margin=margin)
        return _written(Explained(architecture, findings, target), task, budget)


def _explain_model(
    path: Path,
    choices: DataChoices,
    folder: Path | None,
    validation_cases: int | None,
    gpus: Literal["all"] | int,
    console: Console,
) -> Explained:
    model = ModelFolder.load(path)
    slot = make_slots(gpus)[0]
    check_torch([slot])
    source = choices.source()
    target = _checked_target(folder or path / EXPLAIN / f"fold-{choices.fold}")
    with no_empty_folders(choices.cache_folder, target), full_disk_explained(target):
        findings, task, budget = examine_model(
            model, choices, source, slot, target, validation_cases=validation_cases, console=console
        )
        return _written(Explained(model.architecture, findings, target), task, budget)


def _checked_target(target: Path) -> Path:
    if target.exists() and not target.is_dir():
        raise RequestError(f"-o names a folder for the explanation, and {target} is a file; name another")
    return target


def _written(done: Explained, task: Task, budget: Budget) -> Explained:
    write_whole(done.folder / "explain.json", explanation_json(done, task, budget))
    write_whole(done.folder / "explain.svg", explanation_svg(done.architecture, done.findings))
    return done


# What is explained


def _subject(what: str) -> _Subject:
    match = _TRIAL.fullmatch(what)
    path = Path(match[1] if match else what)
    if match or (path.is_dir() and what not in PRESETS):
        check_study(path)
        return _of_study(path, int(match[2]) if match else None)
    architecture = named_architecture(what)
    if what in PRESETS:
        return _Subject(what, None)
    return _Subject(f"{path.stem}-{key(architecture)[:12]}", architecture)


def _of_study(folder: Path, number: int | None) -> _Subject:
    status = read_status(folder)
    best = status.best
    if number is None and best is None:
        raise RequestError(f"{folder} has no complete trial yet; name one that it has begun as {folder}:NUMBER")
    by_number = {trial.number: trial for trial in status.trials}
    trial = best.first if number is None and best is not None else by_number.get(number or 0)
    if trial is None:
        known = f"{min(by_number)} to {max(by_number)}" if by_number else "none"
        raise RequestError(f"{folder} has no trial {number}; it has {known}")
    with open_store(find_location(folder).url, create=False, read_only=True) as store:
        design = Records(store, status.study).architecture(trial.key)
    provenance = {"study": status.study, "trial": trial.number}
    return _Subject(f"trial-{trial.number}", replace(design, provenance=provenance), folder, trial.budget, trial.seed)


def _with_study_choices(study: Path, choices: DataChoices) -> DataChoices:
    """What a study's search was told of its data, where that is kept; what is said now wins."""
    if not (study / REQUEST).exists():
        return choices
    said = {one.name: getattr(choices, one.name) for one in fields(DataChoices)}
    told = {name: value for name, value in said.items() if value != getattr(DataChoices(), name)}
    return replace(read_request(study / REQUEST), **told)


def _task_and_budget(
    subject: _Subject, choices: DataChoices, source: Source, device: Literal["cpu", "cuda"], console: Console
) -> tuple[Task, Budget]:
    """The data as the study has them, with its budget; else as a search would, with a pilot's answer where one is kept.

    An architecture file that tells its budget, and was scored on these very data, is trained by that.
    """
    options = choices.task_options(device)

    def prepared(spacing: tuple[float, ...] | None) -> Task:
        wanted = options if spacing is None else replace(options, spacing=spacing)
        return prepared_task(subject.study or choices.out / EXPLAIN, source, choices.cache_folder, wanted, console)

    if subject.study is not None and subject.budget is not None:
        settings = subject.study / SETTINGS
        task = prepared(stored_spacing(choices, read_settings(settings)))
        if differences := differing_data(settings, task):
            raise RequestError(
                f"the design was trained on other data by the study in {subject.study}:\n"
                + "\n".join(differences)
                + "\n"
                "name its dataset with --data PATH, and the options about data that it was begun with; or explain the "
                "design's file, which goes with any data"
            )
        return task, subject.budget
    config = SearchConfig.on(choices)
    task = prepared(None)
    pilot = stored_pilot(config, task)
    spacing = None if pilot is None else piloted_spacing(task, pilot)
    task = task if spacing is None else prepared(spacing)
    own = None if subject.architecture is None else _own_budget(subject.architecture, task)
    return task, own or (unpiloted_budget(config, task) if pilot is None else pilot.budget)


def _own_budget(architecture: Architecture, task: Task) -> Budget | None:
    where = architecture.provenance.get("task")
    if not isinstance(where, Mapping) or where.get("digest") != task.digest:
        return None
    try:
        return Budget.from_json(architecture.score["budget"])
    except (KeyError, TypeError, ValueError, AttributeError):  # a stranger's file may say anything
        return None


def explanation_json(done: Explained, task: Task, budget: Budget) -> str:
    """Return all numbers as JSON, with the design, the data and the training that they belong to."""
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "key": key(done.architecture),
        "architecture": done.architecture.to_json(),
        "task": {"name": task.name, "digest": task.digest, "classes": list(task.classes)},
        "budget": {**asdict(budget), "max_seconds": budget.max_seconds if isfinite(budget.max_seconds) else None},
        **asdict(done.findings),
    }
    return json.dumps(facts, indent=2, allow_nan=False) + "\n"
