"""The command ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from unetx_search.converters import Json
from unetx_search.models.predict_choices import PredictChoices

if TYPE_CHECKING:
    from unetx_search.models.predicting import Predicted


def predict(
    model: Path,
    *,
    images: Annotated[Path, Parameter(name=("--images", "-i"))],
    out: Annotated[Path, Parameter(name=("--out", "-o"))],
    how: Annotated[PredictChoices, Parameter(name="*")] = PredictChoices(),  # noqa: B008 (frozen)
    json: Json = False,
) -> None:
    """Predict masks with a trained model, on the images' own grids.

    Parameters
    ----------
    model
        The folder that train wrote.
    images
        An image or a folder of images, in any format that is read; channels as files CASE_0000, CASE_0001, ...
    out
        Folder for the masks, called like the images.
    json
        Print what was done as JSON.
    """
    from unetx_search.models.predicting import predict
    from unetx_search.progress import stderr_console

    done = predict(model, images, out, how, console=stderr_console())
    print(_json(done) if json else _text(done, out))


def _json(done: Predicted) -> str:
    from json import dumps

    written = [str(file) for file in done.written]
    told = {"written": written, "n_kept": done.n_kept, "statistics": done.statistics, "scores": done.scores_json}
    return dumps(told, indent=2)


def _text(done: Predicted, out: Path) -> str:
    from unetx_search.models.scores import scores_text

    kept = f", {done.n_kept} were there" if done.n_kept else ""
    lines = [f"{out}: {len(done.written)} masks written{kept}"]
    scores = done.scores_json
    return "\n".join(lines if scores is None else [*lines, "", *scores_text(scores)])
