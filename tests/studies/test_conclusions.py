"""Verdicts: what is concluded, in which words, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

from unetx_studies.verdict import Scores, Verdict, verdict

DESIGNS = ("new", "small", "u-net", "no-top")
COSTS = {"new": 1.2, "small": 0.7, "u-net": 1.0, "no-top": 0.9}


def finals(
    gain: float, *, n_seeds: int = 5, groups: int | tuple[str, ...] = 30, noise: float = 0.002, asked: int | None = None
) -> Verdict:
    """Candidates "new", ahead of U-Net by the gain, and "small"; baselines U-Net and, far below, "no-top"."""
    groups = tuple(f"p{i}" for i in range(groups)) if isinstance(groups, int) else groups
    rng = np.random.default_rng(0)
    cases = rng.normal(0.8, 0.05, len(groups))
    values = (
        cases
        + np.array([gain, 0.0, 0.0, -0.05])[:, None, None]
        + noise * rng.standard_normal((4, n_seeds, len(groups)))
    )
    scores = Scores(DESIGNS, tuple(range(n_seeds)), groups, values)
    return verdict(scores, DESIGNS[:2], DESIGNS[2:], costs=COSTS, asked=asked)


@pytest.mark.parametrize(
    ("gain", "noise", "begin"),
    [
        (0.02, 0.002, "new is better than u-net by more than the margin of 0.005: +0.0"),
        (0.005, 0.004, "new is better than u-net: +0.0"),
        (0.0, 0.002, " are equivalent within the margin of 0.005: "),
        (0.0, 0.1, "No evidence that "),
    ],
)
def test_the_sentence_says_what_the_interval_does(gain: float, noise: float, begin: str) -> None:
    found = finals(gain, noise=noise)
    assert begin in found.conclusion
    assert "95 % interval" in found.conclusion
    assert ", corrected for choosing the best of 2" in found.conclusion
    assert found.conclusion.endswith(".")


def test_what_is_worse_is_said_to_be() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.001, (2, 5, 20)) - np.array([0.1, 0.0])[:, None, None]
    found = verdict(
        Scores(("new", "u-net"), tuple(range(5)), tuple("abcdefghijklmnopqrst"), values), ["new"], ["u-net"]
    )
    assert found.conclusion.startswith("new is worse than u-net: -0.")


@pytest.mark.parametrize(
    ("cost", "end"),
    [
        (1.2, "u-net is as good as far as this shows, and cheaper."),
        (None, "u-net is as good as far as this shows."),
        (0.8, "it has 80% of its cost."),
    ],
)
def test_without_evidence_the_cheaper_one_is_named(cost: float | None, end: str) -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, (2, 3, 4))
    scores = Scores(("new", "u-net"), (0, 1, 2), tuple("abcd"), values)
    costs = None if cost is None else {"new": cost, "u-net": 1.0}
    found = verdict(scores, ["new"], ["u-net"], costs=costs)
    assert found.conclusion.startswith("No evidence that new is better than u-net: ")
    assert found.conclusion.endswith(end)


def test_every_candidate_meets_every_baseline_and_holm_counts_all() -> None:
    found = finals(0.02)
    pairs = [(one.design, one.baseline) for one in found.comparisons]
    assert pairs == [("new", "u-net"), ("new", "no-top"), ("small", "u-net"), ("small", "no-top")]
    by_pair = dict(zip(pairs, found.comparisons, strict=True))
    ahead, equal = by_pair["new", "u-net"], by_pair["small", "u-net"]
    assert ahead.p_value < 0.001
    assert ahead.better is not None
    assert ahead.better > 0.99
    assert ahead.p_seeds == 0.0625, "five seeds, all of one sign"
    assert equal.p_value == equal.difference.p_value, "Holm multiplies the largest by 1"
    assert ahead.p_value == pytest.approx(2 * ahead.difference.p_value, rel=1.0)
    assert found.chosen is not None
    assert (found.chosen.design, found.chosen.n_rivals) == ("new", 2)


def test_the_cheapest_that_is_shown_not_to_be_worse_is_named() -> None:
    found = finals(0.02)
    assert found.cheapest is not None
    assert (found.cheapest.design, found.cheapest.cost) == ("small", 0.7)
    assert -0.005 < found.cheapest.low < 0.002
    assert finals(0.02, noise=0.1).cheapest is None


@pytest.mark.parametrize(
    ("options", "conclusion", "limit"),
    [
        ({"asked": 3}, "new is better", "Only 2 of the 3 designs asked for"),
        ({"n_seeds": 1}, "In these trainings alone, new is better", "One seed: "),
        ({"n_seeds": 3}, "new is better", "3 seeds can never reach 5 % by their signs alone (at best p = 0.25)"),
        ({"groups": ("p",) * 9}, "For this patient alone, new is better", "All cases are of one patient: "),
        ({"groups": 1}, "For this patient alone, new is better", "One case: "),
        ({"groups": 4}, "new is better", "4 patients can never reach 5 %"),
        ({"n_seeds": 1, "groups": 1}, "No conclusion: one seed and one patient", "One case: "),
    ],
)
def test_what_cannot_be_concluded_is_said(options: dict[str, object], conclusion: str, limit: str) -> None:
    found = finals(0.05, **options)  # type: ignore[arg-type]
    assert found.conclusion.startswith(conclusion)
    assert any(line.startswith(limit) for line in found.limits), found.limits


def test_enough_of_everything_has_no_limits() -> None:
    assert finals(0.0, n_seeds=6).limits == ()


def test_missing_scores_leave_what_is_common_and_say_so() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.001, (3, 6, 8))
    values[0, 5] = np.nan
    values[1, 0, 3] = np.nan
    values[2] = np.nan
    scores = Scores(("new", "u-net", "failed"), tuple(range(6)), tuple("abcdefgh"), values)
    found = verdict(scores, ["new", "failed", "absent"], ["u-net", "absent, too"], asked=2)
    assert [one.design for one in found.comparisons] == ["new"]
    assert found.chosen is not None
    assert (found.chosen.difference.n_seeds, found.chosen.difference.n_cases) == (5, 7)
    assert found.limits[0].startswith("Only 1 of the 2 designs")
    assert found.limits[-1] == "Where scores are missing, comparisons leave out cases (1) and seeds (1)."
    nothing = verdict(scores, ["failed"], ["u-net"])
    assert nothing.conclusion == "No conclusion: no design and baseline have scores on a common seed and case."
