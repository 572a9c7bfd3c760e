"""Dice per class and case from label maps, and the objective made of it. Pure functions, no torch.

The convention for a class that is absent from a case's truth: left out (None) when the prediction is empty too,
otherwise 0. MONAI's DiceMetric with its default ``ignore_empty`` gives NaN for both, and so forgives every false
positive on a case without the class.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import CaseScore
from unetx_evaluators.tasks.task import IGNORED

LabelMap = npt.NDArray[np.integer[Any]]

COUNTED_TOGETHER = 2**18
"""Voxels: their pairs of labels take 2 MiB, which caches hold, however large the volume."""


def dice_per_class(truth: LabelMap, prediction: LabelMap, n_classes: int) -> tuple[float | None, ...]:
    """2|T∩P| / (|T|+|P|) of classes 1 to ``n_classes`` - 1, for two label maps of one shape.

    Labels lie in 0..n_classes-1; 0 is the background and has no score. Raises ValueError when they do not, or when the
    shapes differ.
    """
    n_true, n_predicted, n_both = _voxel_counts(truth, prediction, n_classes)
    return tuple(
        _dice(int(t), int(p), int(both)) for t, p, both in zip(n_true[1:], n_predicted[1:], n_both[1:], strict=True)
    )


def without_ignored(truth: LabelMap, prediction: LabelMap) -> tuple[LabelMap, LabelMap]:
    """Both with the background where the truth is IGNORED, so that those voxels count in no class.

    The maps themselves where nothing is ignored. Raises ValueError when their shapes differ.
    """
    _check_shapes(truth, prediction)
    ignored = truth == IGNORED
    if not ignored.any():
        return truth, prediction
    return np.where(ignored, 0, truth), np.where(ignored, 0, prediction)


def objective(case_scores: Iterable[CaseScore]) -> float:
    """Mean over classes of the mean over cases; a class that is None everywhere is left out.

    Raises ValueError when that leaves nothing, which means that no case shows any foreground.
    """
    means = class_means(case_scores)
    if not means:
        raise ValueError("an objective needs a case with foreground in its truth or prediction, and none has any")
    return float(np.mean([*means.values()]))


def class_means(case_scores: Iterable[CaseScore]) -> dict[str, float]:
    """The mean Dice over cases of every class that is not None everywhere."""
    by_class: dict[str, list[float]] = {}
    for score in case_scores:
        if score.dice is not None:
            by_class.setdefault(score.class_name, []).append(score.dice)
    return {name: float(np.mean(values)) for name, values in by_class.items()}


def _voxel_counts(
    truth: LabelMap, prediction: LabelMap, n_classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Voxels of every class in the truth, in the prediction and in both."""
    _check_shapes(truth, prediction)
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.size and not 0 <= labels.min() <= labels.max() < n_classes:
            raise ValueError(f"labels of the {name} lie in 0..{n_classes - 1}, got {labels.min()}..{labels.max()}")
    confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
    flat_truth, flat_prediction = truth.reshape(-1), prediction.reshape(-1)
    for first in range(0, truth.size, COUNTED_TOGETHER):
        part = slice(first, first + COUNTED_TOGETHER)
        pairs = flat_truth[part].astype(np.int64) * n_classes + flat_prediction[part]
        confusion += np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)
    return confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()


def _check_shapes(truth: LabelMap, prediction: LabelMap) -> None:
    if truth.shape != prediction.shape:
        raise ValueError(f"truth and prediction have one shape, got {truth.shape} and {prediction.shape}")


def _dice(n_true: int, n_predicted: int, n_both: int) -> float | None:
    if n_true == 0:
        return None if n_predicted == 0 else 0.0
    return 2 * n_both / (n_true + n_predicted)
