"""Whether a trained model is better than another that was trained the same way, on the test cases of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from unetx_evaluators.evaluation import CaseScore
from unetx_space.files import finite
from unetx_studies.verdict import Verdict, scores_table, verdict

METRIC = "original_dice"


def verdict_on(
    name: str, scores: Mapping[str, Any], against: str, others: Mapping[str, Any], groups: Mapping[str, str]
) -> Verdict:
    """Compare two models by their ``scores.json``. Folds stand for seeds, as each is a training of its own."""
    trainings = {
        (design, int(fold)): [CaseScore(one["case"], one["class"], {METRIC: one[METRIC]}) for one in of_fold["cases"]]
        for design, told in ((name, scores), (against, others))
        for fold, of_fold in told["by_fold"].items()
    }
    return verdict(scores_table(trainings, groups, METRIC), [name], [against])


def verdict_json(found: Verdict) -> dict[str, Any]:
    """Return the verdict for JSON: the conclusion, what it rests on, and its limits."""
    comparisons = [
        {**asdict(one), "difference": {"mean": one.difference.mean, "by_group": list(one.difference.by_group)}}
        for one in found.comparisons
    ]
    told = {"conclusion": found.conclusion, "limits": list(found.limits), "comparisons": finite(comparisons)}
    return {"metric": METRIC, **told}
