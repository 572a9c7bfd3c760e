"""Scores of many cases in a few numbers per class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from unetx_evaluators.insight import SizeRecall
from unetx_evaluators.metrics.class_metrics import ClassMetrics, Target


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """One class over all cases. Means are over the cases that have the score, None where none has."""

    class_name: str
    n_cases: int
    """That show the class in their truth."""
    n_missed: int
    """Of these, the ones in which nothing was predicted as the class."""
    n_false_alarms: int
    """Cases without the class in which it was predicted."""
    dice: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None
    boundary_iou: float | None
    recalls: tuple[SizeRecall, SizeRecall, SizeRecall]
    """Of small, medium and large targets."""


def summarise(cases: Iterable[Sequence[ClassMetrics]]) -> tuple[ClassSummary, ...]:
    """One summary for each class, in the order of the first case."""
    by_class: dict[str, list[ClassMetrics]] = {}
    for case in cases:
        for metrics in case:
            by_class.setdefault(metrics.class_name, []).append(metrics)
    return tuple(_summary(name, metrics) for name, metrics in by_class.items())


def recall_by_size(targets: Iterable[Target]) -> tuple[SizeRecall, SizeRecall, SizeRecall]:
    """Recall of the small, medium and large third of one class's targets over all cases.

    The thirds are of the truth alone, so that they are the same for every network. Targets of equal size share a third,
    the smaller one: of equal targets, all are small.
    """
    ordered = sorted(targets, key=lambda target: target.n_voxels)
    n = len(ordered)
    small, medium = (ordered[-(-n * third // 3) - 1].n_voxels if n else 0 for third in (1, 2))
    return (
        _recall("small", [t for t in ordered if t.n_voxels <= small]),
        _recall("medium", [t for t in ordered if small < t.n_voxels <= medium]),
        _recall("large", [t for t in ordered if t.n_voxels > medium]),
    )


def _recall(size: Literal["small", "medium", "large"], targets: Sequence[Target]) -> SizeRecall:
    return SizeRecall(size, len(targets), sum(t.hit for t in targets), max((t.n_voxels for t in targets), default=None))


def _summary(name: str, metrics: Sequence[ClassMetrics]) -> ClassSummary:
    return ClassSummary(
        class_name=name,
        n_cases=sum(m.in_truth for m in metrics),
        n_missed=sum(m.missed for m in metrics),
        n_false_alarms=sum(m.false_alarm for m in metrics),
        dice=_mean(m.dice for m in metrics),
        hd95_mm=_mean(m.hd95_mm for m in metrics),
        assd_mm=_mean(m.assd_mm for m in metrics),
        nsd=_mean(m.nsd for m in metrics),
        boundary_iou=_mean(m.boundary_iou for m in metrics),
        recalls=recall_by_size(target for m in metrics for target in m.targets),
    )


def _mean(scores: Iterable[float | None]) -> float | None:
    present = [score for score in scores if score is not None]
    return fmean(present) if present else None
