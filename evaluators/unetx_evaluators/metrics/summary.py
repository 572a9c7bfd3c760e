"""Averages of the scores of many cases, by class and over classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unetx_evaluators.evaluation import OBJECTIVE, CaseScore
from unetx_evaluators.metrics.registry import METRICS


def objective(case_scores: Iterable[CaseScore], metric: str = OBJECTIVE) -> float:
    """The average over classes of a metric's average over cases; a class without any value is left out.

    Raises ValueError where no class has a value, because no case shows any foreground.
    """
    means = class_means(case_scores, metric)
    if not means:
        raise ValueError("an objective needs a case with foreground in its truth or prediction, and none has any")
    return METRICS[metric].average([*means.values()])


def class_means(case_scores: Iterable[CaseScore], metric: str = OBJECTIVE) -> dict[str, float]:
    """A metric's average over cases, for every class that has a value in some case."""
    by_class: dict[str, list[float]] = {}
    for score in case_scores:
        value = score.values.get(metric)
        if value is not None:
            by_class.setdefault(score.class_name, []).append(value)
    return {name: METRICS[metric].average(values) for name, values in by_class.items()}


def summarise(case_scores: Iterable[CaseScore]) -> dict[str, dict[str, Any]]:
    """Title, unit, direction and averages by class of every metric that was computed, by its name; JSON values.

    Metrics of an old study that are not in the registry any more are left out.
    """
    scores = tuple(case_scores)
    means = {name: class_means(scores, name) for name in METRICS}
    return {
        name: {
            "title": METRICS[name].title,
            "unit": METRICS[name].unit,
            "higher_is_better": METRICS[name].higher_is_better,
            "by_class": by_class,
        }
        for name, by_class in means.items()
        if by_class
    }
