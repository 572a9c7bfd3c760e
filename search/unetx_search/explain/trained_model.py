"""Explains a trained model with the weights that it has, on the validation cases of one of its folds."""

from __future__ import annotations

import hashlib
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetx_evaluators.evaluation import Budget
from unetx_evaluators.tasks import task_in_use
from unetx_search.config import MARGIN
from unetx_search.explain.parts import Work
from unetx_search.models.full_training import PreparedData, prepare_data
from unetx_search.models.train_choices import TrainChoices
from unetx_search.preparing import case_groups
from unetx_search.progress import StageDisplay
from unetx_space.errors import RequestError
from unetx_studies.explanation import Explanation, make_explanation
from unetx_studies.model_folder import TRAINING, ModelFolder, read_json

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.tasks import Source, Task
    from unetx_search.data_choices import DataChoices
    from unetx_search.executors.slots import Slot


def examine_model(
    model: ModelFolder,
    choices: DataChoices,
    source: Source,
    slot: Slot,
    target: Path,
    *,
    validation_cases: int | None,
    console: Console,
) -> tuple[Explanation, Task, Budget]:
    """Examine the network of fold ``--fold``; its parts are kept in ``target``.

    Raises RequestError where the fold has no weights, or the model was trained on other data.
    """
    begun = read_json(model.path / TRAINING, {"begun": dict})["begun"]
    fold = choices.fold
    [network] = model.networks([fold])
    folds = begun["folds"] if begun["folds"] > 1 else None
    data = _training_data(model, begun, replace(choices, folds=folds, fold=0), source, console)
    task = data.folds[fold]
    told: dict[str, Any] = {one.name: begun[one.name] for one in fields(Budget)}
    n_cases = validation_cases or len(task.splits.validation)
    budget = replace(Budget.from_json(told), max_seconds=math.inf, validation_cases=n_cases)
    weights = hashlib.sha256(model.weights_file(fold).read_bytes()).hexdigest()
    groups = case_groups(data.source, choices)
    with task_in_use(task), StageDisplay(console) as progress:
        work = Work(
            model.architecture, task, budget, groups, slot.device, slot.n_threads, target, progress, weights=weights
        )
        observed = work.observe(network, fold)
    return make_explanation([observed], early=(), midway=(), groups=groups, margin=MARGIN), task, budget


def _training_data(
    model: ModelFolder, begun: dict[str, Any], choices: DataChoices, source: Source, console: Console
) -> PreparedData:
    """The data as the model's training prepared them."""
    how = TrainChoices(batch_size=begun["batch_size"], device=begun["device"])
    data = prepare_data(model.architecture, source, choices, how, console)
    if data.task.digest != begun["data"]:
        raise RequestError(
            f"{model.path} was trained on other data, or on the same ones prepared otherwise; give --data and the "
            "options about data that its training had"
        )
    return data
