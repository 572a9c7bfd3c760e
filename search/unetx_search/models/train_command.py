"""The command ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from unetx_search.converters import Json
from unetx_search.data_choices import DataChoices
from unetx_search.models.train_choices import TrainChoices

if TYPE_CHECKING:
    from unetx_search.models.full_training import Trained


def train(
    architecture: str,
    *,
    model: Annotated[Path, Parameter(name=("--model", "-o"))],
    choices: Annotated[DataChoices, Parameter(name="*")] = DataChoices(),  # noqa: B008 (frozen)
    how: Annotated[TrainChoices, Parameter(name="*")] = TrainChoices(),  # noqa: B008 (frozen)
    against: str | None = None,
    json: Json = False,
) -> None:
    """Train an architecture in full, into a folder that predict and export use; the same command again goes on.

    Parameters
    ----------
    architecture
        A JSON file such as runs/NAME/best.json, or the name of a preset such as u-net.
    model
        Folder for the trained model.
    against
        Also train this preset the same way, u-net say, and tell whether the architecture is better on the test cases.
    json
        Print the scores as JSON.
    """
    from unetx_search.models.full_training import train
    from unetx_search.progress import stderr_console

    trained = train(architecture, model, choices, how, console=stderr_console(), against=against)
    print(_json(trained) if json else _text(trained))


def _json(trained: Trained) -> str:
    from json import dumps

    from unetx_search.models.verdict import verdict_json

    told = {} if trained.verdict is None else {"verdict": verdict_json(trained.verdict)}
    return dumps({"model": str(trained.model.path), **trained.scores, **told}, indent=2)


def _text(trained: Trained) -> str:
    from unetx_search.models.scores import scores_text
    from unetx_space.errors import command

    path, n_folds = trained.model.path, len(trained.model.folds)
    head = f"{path}: {'was trained before' if trained.was_complete else 'trained'}"
    folds = "" if n_folds == 1 else f", {n_folds} folds averaged"
    test, weights = trained.scores["test"], trained.scores["weights"]
    return "\n".join(
        [
            f"{head}; {test['n_cases']} test cases with the {weights} weights{folds}:",
            "",
            *scores_text(test),
            "",
            *([] if trained.verdict is None else [trained.verdict.conclusion, *trained.verdict.limits, ""]),
            f"  predict    {command('unetx-search', 'predict', path, '-i', 'IMAGES', '-o', 'MASKS')}",
        ]
    )
