"""Whether a trained model is better than another that was trained the same way, on the test cases of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from unetx_studies.verdict import Scores, Verdict, verdict

if TYPE_CHECKING:
    from unetx_studies.spread import Vector

METRIC = "original_dice"


def verdict_on(
    name: str, scores: Mapping[str, Any], against: str, others: Mapping[str, Any], groups: Mapping[str, str]
) -> Verdict:
    """Of two ``scores.json``. Folds stand for seeds: each is a training of its own, the same for both designs."""
    folds = sorted(scores["by_fold"])
    cases = sorted({one["case"] for one in scores["test"]["cases"]})
    values = np.stack([_table(one, folds, cases) for one in (scores, others)])
    table = Scores((name, against), tuple(map(int, folds)), tuple(groups[case] for case in cases), values)
    return verdict(table, [name], [against])


def verdict_json(found: Verdict) -> dict[str, Any]:
    """The conclusion, what it rests on, and what it cannot say."""
    comparisons = [
        {**asdict(one), "difference": {"mean": one.difference.mean, "by_group": list(one.difference.by_group)}}
        for one in found.comparisons
    ]
    finite = [
        {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in one.items()}
        for one in comparisons
    ]
    return {"metric": METRIC, "conclusion": found.conclusion, "limits": list(found.limits), "comparisons": finite}


def _table(scores: Mapping[str, Any], folds: list[str], cases: list[str]) -> Vector:
    """``[fold, case]``: the mean over the classes that have a value; NaN without any."""
    table = np.full((len(folds), len(cases)), np.nan)
    for row, fold in enumerate(folds):
        by_case: dict[str, list[float]] = {}
        for one in scores["by_fold"][fold]["cases"]:
            if one[METRIC] is not None:
                by_case.setdefault(one["case"], []).append(one[METRIC])
        for column, case in enumerate(cases):
            if case in by_case:
                table[row, column] = np.mean(by_case[case])
    return table
