"""The metrics, each named here and nowhere else: what it is called, when and how it is computed, and how averaged.

Two conventions hold for all of them. A class that truth and prediction both lack has no value (None). One that only one
of them shows has the value of a miss, which is finite: so no mean drops a failure in silence. MONAI's DiceMetric with
its default ``ignore_empty`` gives NaN for a class that is absent from the truth, and so forgives every false positive.
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
    """One number for each class of each case."""

    name: str
    """By which it is stored."""
    title: str
    """For people."""
    unit: str
    """Empty for a share."""
    higher_is_better: bool
    compute: Callable[[Any], float]
    """Its value where truth and prediction both show the class: from a ClassComparison, or, if it is due at every rung,
    from ClassCounts."""
    miss: Callable[[Any], float] = lambda _: 0.0
    """Its value where only one of them does."""
    average: Callable[[Sequence[float]], float] = mean
    """Of the cases that have a value, and of such averages over classes."""
    at_every_rung: bool = False
    """Whether it is computed at every rung, too, from the counts alone; otherwise once the evaluation is complete."""
    on_original_voxels: bool = False
    """Whether it compares the label maps on the voxels the case came with, before any resampling."""

    def of(self, one: ClassCounts) -> float | None:
        """Its value for one class of a case."""
        if one.n_true and one.n_predicted:
            return self.compute(one)
        return self.miss(one) if one.n_true or one.n_predicted else None


def dice(one: ClassCounts) -> float:
    """2|T∩P| / (|T|+|P|)."""
    return 2 * one.n_both / (one.n_true + one.n_predicted)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(OBJECTIVE, "Dice", "", higher_is_better=True, compute=dice, at_every_rung=True),
        Metric(
            "hd95_mm",
            "HD95",
            "mm",
            higher_is_better=False,
            compute=lambda one: hd95(one.distances),
            miss=lambda one: one.case.diagonal_mm,
        ),
        Metric(
            "nsd",
            "surface Dice",
            "",
            higher_is_better=True,
            compute=lambda one: nsd(one.distances, one.case.tolerance_mm),
        ),
        Metric(
            "boundary_iou",
            "boundary IoU",
            "",
            higher_is_better=True,
            compute=lambda one: boundary_iou(one.masks[0], one.masks[1], one.case.band),
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
"""By name. The first is the one that a search maximises."""


def case_scores(
    case: str,
    class_names: Sequence[str],
    prepared: Sequence[ClassComparison],
    original: Sequence[ClassComparison],
) -> tuple[CaseScore, ...]:
    """One score for each foreground class of a case, with the values of every metric.

    ``original`` compares the case on its original voxels.
    """
    return tuple(
        CaseScore(case, name, {m.name: m.of(drawn if m.on_original_voxels else one) for m in METRICS.values()})
        for name, one, drawn in zip(class_names[1:], prepared, original, strict=True)
    )


def rung_scores(case: str, class_names: Sequence[str], counts: Sequence[ClassCounts]) -> tuple[CaseScore, ...]:
    """The same with what is due at every rung."""
    due = [metric for metric in METRICS.values() if metric.at_every_rung]
    return tuple(
        CaseScore(case, name, {metric.name: metric.of(one) for metric in due})
        for name, one in zip(class_names[1:], counts, strict=True)
    )
