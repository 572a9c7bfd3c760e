"""What people and machines are told of noise."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from unetx_search.caution import caution, evidence_facts, measured_lines, spread_lines
from unetx_studies.evidence import Evidence
from unetx_studies.spread import Reliability, SeedSpread

NOTHING = Evidence(0, 0, 0, None, None, None, None, 0, None, None)
UNKNOWN = replace(NOTHING, n_complete=5, n_designs=5, n_rivals=4, lead=0.0145)
MEASURED = Evidence(
    n_complete=9,
    n_designs=6,
    n_pruned=5,
    seeds=SeedSpread(0.0031, 3, 0.0018, 0.0116),
    design_deviation=0.0049,
    reliability=Reliability(0.71, 0.0, 0.93),
    lead_of_two=0.014,
    n_rivals=10,
    lead_of_best=0.0187,
    lead=0.0145,
)
VAGUE = replace(MEASURED, seeds=SeedSpread(0.0031, 1, 0.0031 * 0.446, 0.0031 * 31.9))


def words(evidence: Evidence) -> str:
    return " ".join(" ".join(caution(evidence)).split())


def test_all_that_was_measured_is_told_with_what_it_rests_on() -> None:
    told = "\n".join(measured_lines(MEASURED))
    for fact in (
        "9 complete evaluations of 6 designs; 5 pruned, which have no final score, are left out",
        "0.0031 between seeds of one design (95 %: 0.0018 to 0.0116)",
        "0.0049 between designs",
        "reliability 0.71 (95 %: 0.00 to 0.93)",
        "a lead     counts above 0.0140 between two designs, above 0.0187 for the best of 10 over U-Net",
    ):
        assert fact in told
    assert "too few" not in told


def test_a_single_repeat_is_called_too_few_with_what_the_truth_may_be() -> None:
    assert "too few repeats (1) to say more: the true value may be 0.45 to 32 times that" in words(VAGUE)


def test_a_lead_below_the_one_that_counts_is_no_evidence_of_a_gain() -> None:
    told = words(MEASURED)
    assert "+0.0145 Dice from U-Net: no evidence of a gain" in told
    assert "noise alone puts the best of 10 equal designs ahead by up to 0.0187" in told


def test_no_lead_is_asked_for_beyond_the_scale_of_dice() -> None:
    told = words(replace(VAGUE, lead_of_two=1.08, lead_of_best=1.81))
    assert "above 1.0000 between two designs, above 1.0000 for the best of 10" in told
    assert "ahead by up to 1.0000" in told


def test_a_lead_above_it_is_more_than_noise_on_these_cases() -> None:
    told = words(replace(MEASURED, lead=0.03))
    assert "no evidence" not in told
    assert "+0.0300 Dice from U-Net: more than noise" in told
    assert "on the cases that chose it" in told


def test_u_net_as_the_best_is_no_evidence_either() -> None:
    assert "U-Net itself is the best design so far: no evidence of a gain" in words(replace(MEASURED, lead=-0.01))


def test_without_a_second_seed_the_caution_stays_and_says_how_noise_is_measured() -> None:
    told = words(UNKNOWN)
    assert "not known" in told
    assert "10 trials or more evaluates U-Net twice" in told
    assert "+0.0145 Dice from U-Net, on one seed each" in told
    assert "take it as a candidate" in told


def test_designs_that_differ_by_no_more_than_seeds_are_called_so() -> None:
    assert "between designs: not beyond that" in words(replace(MEASURED, design_deviation=0.0))


def test_before_an_evaluation_is_complete_nothing_is_said_and_without_u_net_no_verdict() -> None:
    assert caution(NOTHING) == spread_lines(NOTHING) == []
    assert "U-Net:" not in words(replace(MEASURED, lead=None, lead_of_best=None))


@pytest.mark.parametrize("evidence", [NOTHING, UNKNOWN, MEASURED, VAGUE])
def test_lines_fit_a_terminal_and_machines_get_the_same(evidence: Evidence) -> None:
    assert all(len(line) <= 100 for line in caution(evidence))
    facts = json.loads(json.dumps(evidence_facts(evidence), allow_nan=False))
    assert facts["is_gain"] is evidence.is_gain
    assert (facts["lead"], facts["lead_of_best"]) == (evidence.lead, evidence.lead_of_best)
    assert facts["seeds"] is None or facts["seeds"]["degrees_of_freedom"] in (1, 3)
