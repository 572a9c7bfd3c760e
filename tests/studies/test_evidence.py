"""What the evaluations of a study tell: which of them count, and for what."""

from __future__ import annotations

import pytest
from trial_records import RANDOM, preset, record, repeated

from unetx_evaluators.evaluation import Outcome
from unetx_studies.evidence import evidence
from unetx_studies.spread import Scored, design_deviation, lead_of_best, lead_of_two, reliability

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


def test_complete_evaluations_are_measured_and_pruned_ones_counted_as_rivals_only() -> None:
    found = evidence(STUDY)
    assert (found.n_complete, found.n_designs, found.n_pruned, found.n_rivals) == (5, 4, 1, 4)
    assert found.seeds is not None
    assert found.seeds.deviation == pytest.approx(0.02 / 2**0.5)  # of a pair: its difference by the root of 2
    assert found.seeds.degrees_of_freedom == 1
    assert found.lead_of_two == lead_of_two(found.seeds)
    assert found.lead_of_best == lead_of_best(found.seeds, 4)
    assert found.lead == pytest.approx(0.03), "over U-Net on the same seed"
    assert found.is_gain is False


def test_the_net_without_skips_does_not_stretch_the_spread_of_designs() -> None:
    found = evidence(STUDY)
    candidates = [Scored("u", 0, 0.80), Scored("u", 1, 0.82), Scored("a", 0, 0.83), Scored("c", 0, 0.79)]
    assert found.design_deviation == design_deviation(candidates)
    assert found.reliability == reliability(candidates)


def test_a_lead_beyond_what_noise_gives_the_best_of_so_many_counts() -> None:
    quiet = [record(8 + seed, "u", 0.80 + 0.0001 * seed, seed=seed, origin=RANDOM) for seed in range(2, 6)]
    found = evidence([STUDY[0], *STUDY[3:], *quiet])
    assert found.lead_of_best is not None
    assert found.lead_of_best < 0.003 < 0.03
    assert found.is_gain is True


def test_one_seed_each_tells_a_lead_and_not_what_it_is_worth() -> None:
    found = evidence([e for e in STUDY if e.seed == 0])
    unknown = (found.seeds, found.design_deviation, found.reliability, found.lead_of_two, found.lead_of_best)
    assert unknown == (None,) * 5
    assert found.is_gain is None
    assert found.lead == pytest.approx(0.03)


def test_two_seeds_of_the_very_same_score_measure_nothing() -> None:
    found = evidence([record(0, "u", 0.0, origin=preset("u-net")), record(1, "u", 0.0, seed=1), record(2, "a", 0.1)])
    assert (found.seeds, found.lead_of_best, found.is_gain) == (None, None, None)


def test_before_anything_is_complete_nothing_is_known() -> None:
    for evaluations in ([], [record(0, "u", None, origin=preset("u-net"), outcome=None)]):
        found = evidence(evaluations)
        assert (found.n_complete, found.n_rivals) == (0, 0)
        assert (found.lead, found.seeds) == (None, None)


def test_u_net_as_the_best_leads_by_less_than_nothing() -> None:
    assert evidence(STUDY[:3]).lead == pytest.approx(-0.3)
