"""Makes the table of scores that a verdict compares from the scores of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from unetx_evaluators.evaluation import OBJECTIVE
from unetx_studies.verdict.differences import Scores

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import CaseScore


def case_means(scores: Sequence[CaseScore], metric: str = OBJECTIVE) -> dict[str, float]:
    """The mean of a metric over the classes of each case, without those that neither reference nor prediction shows."""
    values: dict[str, list[float]] = {}
    for one in scores:
        value = one.values.get(metric)
        if value is not None:
            values.setdefault(one.case, []).append(value)
    return {case: fmean(of_classes) for case, of_classes in values.items()}


def scores_table(
    trainings: Mapping[tuple[str, int], Sequence[CaseScore]], groups: Mapping[str, str], metric: str = OBJECTIVE
) -> Scores:
    """The table of the scores of trainings, given by design and seed; a case without a group is one of its own."""
    found = {place: case_means(scores, metric) for place, scores in trainings.items()}
    designs = tuple(dict.fromkeys(design for design, _ in found))
    seeds = tuple(sorted({seed for _, seed in found}))
    cases = tuple(sorted({case for means in found.values() for case in means}))
    values = np.full((len(designs), len(seeds), len(cases)), np.nan)
    for (design, seed), means in found.items():
        row = values[designs.index(design), seeds.index(seed)]
        row[:] = [means.get(case, np.nan) for case in cases]
    return Scores(designs, seeds, tuple(groups.get(case, case) for case in cases), values)
