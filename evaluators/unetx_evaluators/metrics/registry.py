"""The registry of metrics: how each is called, when and how it is computed, and how averaged.

Two conventions hold for all of them. A class that truth and prediction both lack has no value (None). One that only one
of them shows has the value of a miss, which is finite, so that no mean silently drops a failure. MONAI's DiceMetric
with its default ``ignore_empty`` gives NaN for a class that is absent from the truth, and so ignores false positives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unetx_evaluators.evaluation import OBJECTIVE, CaseScore
from unetx_evaluators.metrics.boundary import boundary_iou
from unetx_evaluators.metrics.comparison import ClassComparison, ClassCounts
from unetx_evaluators.metrics.surface import hd95, nsd


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, as NumPy sums it."""
    return float(np.mean(values))


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, which has one value for each class of each case."""

    name: str
    """Name under which its values are stored."""
    title: str
    """Name for people."""
    unit: str
    """Unit of its values; empty for a share."""
    higher_is_better: bool
    compute: Callable[[Any], float]
    """Computes the value where truth and prediction both show the class: from a ClassComparison, or from ClassCounts if
    it is computed at every rung."""
    miss: Callable[[Any], float] = lambda _: 0.0
    """Computes the value where only one of them shows the class."""
    average: Callable[[Sequence[float]], float] = mean
    """Averages the values of the cases that have one, and these averages over classes."""
    at_every_rung: bool = False
    """Whether it is computed at every rung, from the counts alone; otherwise once the evaluation is complete."""
    on_original_voxels: bool = False
    """Whether it compares the label maps on the original voxels of the case, before any resampling."""

    def of(self, comparison: ClassCounts) -> float | None:
        """The metric's value for one class of a case."""
        if comparison.n_true and comparison.n_predicted:
            return self.compute(comparison)
        return self.miss(comparison) if comparison.n_true or comparison.n_predicted else None


def dice(counts: ClassCounts) -> float:
    """The Dice coefficient 2|T∩P| / (|T|+|P|)."""
    return 2 * counts.n_both / (counts.n_true + counts.n_predicted)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(OBJECTIVE, "Dice", "", higher_is_better=True, compute=dice, at_every_rung=True),
        Metric(
            "hd95_mm",
            "HD95",
            "mm",
            higher_is_better=False,
            compute=lambda comparison: hd95(comparison.distances),
            miss=lambda comparison: comparison.case.diagonal_mm,
        ),
        Metric(
            "nsd",
            "surface Dice",
            "",
            higher_is_better=True,
            compute=lambda comparison: nsd(comparison.distances, comparison.case.tolerance_mm),
        ),
        Metric(
            "boundary_iou",
            "boundary IoU",
            "",
            higher_is_better=True,
            compute=lambda comparison: boundary_iou(comparison.masks[0], comparison.masks[1], comparison.case.band),
        ),
        Metric(
            "original_dice",
            "Dice on the original voxels",
            "",
            higher_is_better=True,
            compute=dice,
            on_original_voxels=True,
        ),
    )
}
"""All metrics by name; a search maximises the first."""


def case_scores(
    case: str,
    class_names: Sequence[str],
    prepared: Sequence[ClassComparison],
    original: Sequence[ClassComparison],
) -> tuple[CaseScore, ...]:
    """The values of all metrics for each foreground class of a case, compared on its prepared and original voxels."""
    return tuple(
        CaseScore(case, name, {m.name: m.of(restored if m.on_original_voxels else one) for m in METRICS.values()})
        for name, one, restored in zip(class_names[1:], prepared, original, strict=True)
    )


def rung_scores(case: str, class_names: Sequence[str], counts: Sequence[ClassCounts]) -> tuple[CaseScore, ...]:
    """The values of the metrics that are computed at every rung, for each foreground class of a case."""
    metrics = [metric for metric in METRICS.values() if metric.at_every_rung]
    return tuple(
        CaseScore(case, name, {metric.name: metric.of(one) for metric in metrics})
        for name, one in zip(class_names[1:], counts, strict=True)
    )
