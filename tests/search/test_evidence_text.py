"""What people and machines are told of noise."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from unetx_search.evidence_text import evidence_facts, evidence_lines, measured_lines, spread_lines
from unetx_studies.evidence import Evidence, Lead, Reliability
from unetx_studies.spread import SeedSpread

NOTHING = Evidence(0, 0, 0, None, None, None, None)
LEAD = Lead(7, 0.0145, -0.0021, 0.0311, 4, 2)
UNKNOWN = replace(NOTHING, n_complete=5, n_designs=5, lead=replace(LEAD, n_seeds=1, n_seeds_of_unet=1))
MEASURED = Evidence(
    n_complete=9,
    n_designs=6,
    n_pruned=5,
    seeds=SeedSpread(0.0031, 3, 0.0018, 0.0116),
    design_deviation=0.0049,
    reliability=Reliability(0.71, 0.02, 0.93),
    lead=LEAD,
)
VAGUE = replace(MEASURED, seeds=SeedSpread(0.0031, 1, 0.0031 * 0.446, 0.0031 * 31.9))


def words(evidence: Evidence) -> str:
    return " ".join(" ".join(evidence_lines(evidence)).split())


def test_all_that_was_measured_is_told_with_what_it_rests_on() -> None:
    told = "\n".join(measured_lines(MEASURED))
    for fact in (
        "9 complete evaluations of 6 designs; 5 pruned, which have no final score, are left out",
        "0.0031 between seeds of one design (95 %: 0.0018 to 0.0116)",
        "0.0049 between designs",
        "reliability 0.71 (95 %: 0.02 to 0.93)",
    ):
        assert fact in told
    assert "too few" not in told


def test_a_single_repeat_is_called_too_few_with_what_the_truth_may_be() -> None:
    assert "too few repeats (1) to say more: the true value may be 0.45 to 32 times that" in words(VAGUE)


def test_a_lead_whose_interval_holds_0_is_no_evidence_of_a_gain() -> None:
    told = words(MEASURED)
    assert "trial 7, is estimated at +0.0145 Dice from U-Net (95 %: -0.0021 to +0.0311, with 4 seeds against 2)" in told
    assert ": no evidence of a gain. Take it as a candidate." in told


def test_a_lead_above_it_is_more_than_noise_on_these_cases() -> None:
    told = words(replace(MEASURED, lead=replace(LEAD, low=0.0012)))
    assert "no evidence" not in told
    assert "+0.0012 to +0.0311, with 4 seeds against 2): more than noise" in told
    assert "on the cases that chose it" in told


def test_u_net_as_the_best_is_no_evidence_either() -> None:
    told = words(replace(MEASURED, lead=replace(LEAD, dice=-0.01)))
    assert "U-Net itself is the best design so far: no evidence of a gain" in told


def test_without_a_second_seed_the_caution_stays_and_says_how_noise_is_measured() -> None:
    told = words(UNKNOWN)
    assert "not known" in told
    assert "the last trials train designs again for that, unless --reseed is 0" in told
    assert "+0.0145 Dice from U-Net, on one seed each" in told
    assert "take it as a candidate" in told


def test_before_an_evaluation_is_complete_nothing_is_said_and_without_u_net_no_verdict() -> None:
    assert evidence_lines(NOTHING) == spread_lines(NOTHING) == []
    assert "U-Net:" not in words(replace(MEASURED, lead=None))


@pytest.mark.parametrize("evidence", [NOTHING, UNKNOWN, MEASURED, VAGUE])
def test_lines_fit_a_terminal_and_machines_get_the_same(evidence: Evidence) -> None:
    assert all(len(line) <= 100 for line in evidence_lines(evidence))
    facts = json.loads(json.dumps(evidence_facts(evidence), allow_nan=False))
    assert facts["is_gain"] is evidence.is_gain
    assert facts["lead"] == (asdict(evidence.lead) if evidence.lead else None)
    assert facts["seeds"] is None or facts["seeds"]["degrees_of_freedom"] in (1, 3)
