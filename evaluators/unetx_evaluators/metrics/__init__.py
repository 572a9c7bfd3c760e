"""Scores as pure functions on arrays; no torch."""

from unetx_evaluators.metrics.class_metrics import ClassMetrics, Target
from unetx_evaluators.metrics.measure import case_metrics
from unetx_evaluators.metrics.overlap import dice_per_class, objective
from unetx_evaluators.metrics.summary import ClassSummary, recall_by_size, summarise

__all__ = [
    "ClassMetrics",
    "ClassSummary",
    "Target",
    "case_metrics",
    "dice_per_class",
    "objective",
    "recall_by_size",
    "summarise",
]
