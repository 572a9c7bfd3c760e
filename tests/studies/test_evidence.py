"""What the evaluations of a study tell: which of them count, and for what."""

from __future__ import annotations

import pytest
from narrowing import there
from trial_records import RANDOM, preset, record, repeated

from unetx_evaluators.evaluation import Outcome
from unetx_studies.evidence import evidence
from unetx_studies.shrinkage import shrinkage
from unetx_studies.spread import Scored

STUDY = [
    record(0, "u", 0.80, origin=preset("u-net")),
    record(1, "n", 0.50, origin=preset("no-skip")),
    record(2, "u", 0.82, seed=1, origin=repeated("u-net")),
    record(3, "a", 0.83),
    record(4, "b", 0.95, outcome=Outcome.PRUNED),
    record(5, "c", 0.79),
    record(6, "d", None, outcome=Outcome.CRASHED),
    record(7, "e", None, outcome=None),
]
KNOWN = shrinkage(Scored(e.key, e.seed, e.score or 0.0) for e in STUDY if e.outcome is Outcome.COMPLETE)


def test_complete_evaluations_are_measured_and_pruned_ones_counted() -> None:
    found = evidence(STUDY)
    assert (found.n_complete, found.n_designs, found.n_pruned) == (5, 4, 1)
    assert found.seeds is not None
    assert found.seeds.deviation == pytest.approx(0.02 / 2**0.5)  # of a pair: its difference by the root of 2
    assert found.seeds.degrees_of_freedom == 1
    assert KNOWN is not None
    assert found.design_deviation == KNOWN.design_deviation
    assert found.reliability is not None
    assert (found.reliability.share, found.reliability.low) == (KNOWN.reliability, KNOWN.reliability_bounds[0])
    assert found.reliability.low < found.reliability.share < found.reliability.high


def test_the_lead_is_the_difference_of_the_estimates_with_its_interval() -> None:
    lead = there(evidence(STUDY).lead)
    assert KNOWN is not None
    dice, error = KNOWN.difference("a", "u")
    assert (lead.trial, lead.dice, lead.n_seeds, lead.n_seeds_of_unet) == (3, dice, 1, 2)
    assert dice == pytest.approx(KNOWN["a"].mean - KNOWN["u"].mean)
    assert (lead.low, lead.high) == pytest.approx((dice - 1.96 * error, dice + 1.96 * error), rel=1e-3)
    assert lead.dice < 0.03, "less than the raw scores say: the best is partly lucky"
    assert evidence(STUDY).is_gain is False


def test_a_lead_of_many_seeds_that_is_more_than_noise_is_a_gain() -> None:
    quiet = [
        record(10 + 5 * n + seed, key, mean + 0.0005 * (-1) ** (seed + n), seed=seed, origin=RANDOM)
        for n, (key, mean) in enumerate((("u", 0.80), ("a", 0.83), ("c", 0.79)))
        for seed in range(1, 5)
    ]
    found = evidence([*STUDY[:2], *STUDY[3:], *quiet])
    assert found.lead is not None
    assert 0.0 < found.lead.low < 0.03 < found.lead.high
    assert (found.lead.n_seeds, found.lead.n_seeds_of_unet) == (5, 5)
    assert found.is_gain is True


def test_one_seed_each_tells_a_lead_and_not_what_it_is_worth() -> None:
    found = evidence([e for e in STUDY if e.seed == 0])
    assert (found.seeds, found.design_deviation, found.reliability) == (None,) * 3
    assert found.is_gain is None
    assert 0.0 < there(found.lead).dice < 0.03


def test_two_seeds_of_the_very_same_score_measure_nothing() -> None:
    found = evidence([record(0, "u", 0.0, origin=preset("u-net")), record(1, "u", 0.0, seed=1), record(2, "a", 0.1)])
    assert (found.seeds, found.reliability, found.is_gain) == (None, None, None)


def test_before_anything_is_complete_nothing_is_known() -> None:
    for evaluations in ([], [record(0, "u", None, origin=preset("u-net"), outcome=None)]):
        found = evidence(evaluations)
        assert (found.n_complete, found.lead, found.seeds) == (0, None, None)


def test_u_net_as_the_best_leads_by_less_than_nothing() -> None:
    lead = there(evidence(STUDY[:3]).lead)
    assert lead.trial == 1
    assert lead.dice < 0.0
