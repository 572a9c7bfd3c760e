"""What the scores of a study can carry, in words for people and as facts for machines."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unetx_studies.evidence import Evidence

WIDTH = 88


def evidence_lines(evidence: Evidence) -> list[str]:
    """Return lines on what was measured, and whether the best design's lead over U-Net is more than noise."""
    if not evidence.n_complete:
        return []
    verdict = textwrap.wrap(_verdict(evidence), WIDTH)
    return ["", *measured_lines(evidence), *(["", *verdict] if verdict else [])]


def measured_lines(evidence: Evidence) -> list[str]:
    """Return lines on the spread of seeds and designs and the reliability of a score, and what they rest on."""
    left_out = f"; {evidence.n_pruned} pruned, which have no final score, are left out" if evidence.n_pruned else ""
    evaluations = _counted(evidence.n_complete, "complete evaluation")
    return [
        f"Measured on {evaluations} of {_counted(evidence.n_designs, 'design')}{left_out}:",
        *spread_lines(evidence),
    ]


def spread_lines(evidence: Evidence) -> list[str]:
    """Return a line for each measured number; none before an evaluation is complete."""
    if not evidence.n_complete:
        return []
    seeds, deviation, score = evidence.seeds, evidence.design_deviation, evidence.reliability
    if seeds is None:
        return [
            "  seeds      not known, and so nor is what a lead is worth: no design has different scores",
            "             from two seeds (the last trials train designs again for that, unless --reseed is 0)",
        ]
    lines = [
        f"  seeds      standard deviation {seeds.deviation:.4f} between seeds of one design "
        f"(95 %: {seeds.low:.4f} to {seeds.high:.4f})"
    ]
    if seeds.is_vague:
        below, above = seeds.low / seeds.deviation, seeds.high / seeds.deviation
        few = f"too few repeats ({seeds.degrees_of_freedom}) to say more"
        lines.append(f"             {few}: the true value may be {below:.2f} to {above:.2g} times that")
    if deviation is not None:
        lines.append(f"  designs    standard deviation {deviation:.4f} between designs beyond that")
    if score is not None:
        lines.append(
            f"  one score  reliability {score.share:.2f} (95 %: {score.low:.2f} to {score.high:.2f}): "
            "0 is noise alone, 1 no noise"
        )
    return lines


def _verdict(evidence: Evidence) -> str:
    """What the lead over U-Net is worth; empty where there is nothing to compare."""
    lead = evidence.lead
    if lead is None:
        return ""
    if lead.dice <= 0:
        return "U-Net itself is the best design so far: no evidence of a gain from other skips."
    begin = f"The best design, trial {lead.trial}, is estimated at {lead.dice:+.4f} Dice from U-Net"
    if evidence.is_gain is None:
        return (
            f"{begin}, on one seed each and on the cases that chose it. Seed noise is often as large: take it as a "
            "candidate, not as a proven gain."
        )
    seeds = f"with {_counted(lead.n_seeds, 'seed')} against {lead.n_seeds_of_unet}"
    begin = f"{begin} (95 %: {lead.low:+.4f} to {lead.high:+.4f}, {seeds})"
    if not evidence.is_gain:
        return f"{begin}: no evidence of a gain. Take it as a candidate."
    return f"{begin}: more than noise. That is on the cases that chose it; new cases may tell otherwise."


def evidence_facts(evidence: Evidence) -> dict[str, Any]:
    """Return a study's evidence for JSON."""
    return {**asdict(evidence), "is_gain": evidence.is_gain}


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
