"""What a path to export stands for: an architecture's file, or a trained model with its weights."""

from __future__ import annotations

from pathlib import Path

from unetx_search.architectures import load_with_hint
from unetx_space.architecture import Architecture
from unetx_space.errors import RequestError
from unetx_studies.model_folder import PLAN, ModelFolder


def with_weights(path: Path, weights: Path | None) -> tuple[Architecture, Path | None]:
    """Return the architecture at ``path`` and the weights to export with it: those given, or a model's own.

    Raises RequestError where a model has several folds, each of which is a network of its own, or none yet.
    """
    if not (path / PLAN).is_file():
        return load_with_hint(path), weights
    model = ModelFolder.load(path)
    if weights is None:
        folds = model.folds
        if len(folds) != 1:
            has = f"folds {', '.join(map(str, folds))}" if folds else "no weights yet"
            raise RequestError(
                f"{path} has {has}, and one network is exported: name one's weights, such as --weights "
                f"{model.weights_file(folds[0] if folds else 0)}"
            )
        weights = model.weights_file(folds[0])
    return model.architecture, weights
