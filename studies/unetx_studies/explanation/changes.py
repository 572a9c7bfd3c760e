"""Changes of scores with their intervals, paired by case and by seed.

Intervals are those of the verdict (``verdict/differences.py``): over groups of cases, and over seeds where there are
several. A change is that of a case's metric, the mean over its classes. A class that only one of two predictions shows,
and the reference does not, counts 1 where it is not predicted: nothing was to be found and nothing was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

from unetx_evaluators.evaluation import CaseScore
from unetx_studies.explanation.facts import Change
from unetx_studies.verdict import difference

CaseScores = Sequence[CaseScore]
Table = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def change_of_scores(
    pairs: Sequence[tuple[CaseScores, CaseScores]],
    metric: str,
    groups: Mapping[str, str],
    class_name: str | None = None,
) -> Change | None:
    """The change of a metric over the cases that every seed has, for one class or the mean over all; None without any.

    ``pairs`` are the scores before and after, a pair for each seed.
    """

    def wanted(scores: CaseScores) -> CaseScores:
        return [score for score in scores if class_name in (None, score.class_name)]

    by_seed = [_changes_by_case(wanted(before), wanted(after), metric) for before, after in pairs]
    cases = [case for case in by_seed[0] if all(case in row for row in by_seed)]
    if not cases:
        return None
    values = np.array([[row[case] for case in cases] for row in by_seed])
    return change_of_table(values, [groups.get(case, case) for case in cases])


def change_of_table(values: Table, groups: Sequence[str]) -> Change:
    """The change in a table ``[seed, case]`` of differences, with the groups of its cases."""
    found = difference(values, groups)
    low, high = (bound if math.isfinite(bound) else None for bound in found.interval())
    return Change(found.mean, low, high, found.n_cases)


def _changes_by_case(before: CaseScores, after: CaseScores, metric: str) -> dict[str, float]:
    """The change of a metric that lies in 0..1 for each case that shows any class, the mean over its classes."""
    ends = {(score.case, score.class_name): score.values.get(metric) for score in after}
    changes: dict[str, list[float]] = {}
    for score in before:
        start, end = score.values.get(metric), ends.get((score.case, score.class_name))
        if start is not None or end is not None:
            apart = (1.0 if end is None else end) - (1.0 if start is None else start)
            changes.setdefault(score.case, []).append(apart)
    return {case: fmean(values) for case, values in changes.items()}
