"""What the scores of a study can carry, in words for people and as facts for machines."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from unetx_search.config import REPEATED_FROM

if TYPE_CHECKING:
    from unetx_studies.evidence import Evidence

WIDTH = 88


def caution(evidence: Evidence) -> list[str]:
    """The end of a summary: what was measured, and whether the best design's lead over U-Net is more than noise."""
    if not evidence.n_complete:
        return []
    verdict = textwrap.wrap(_verdict(evidence), WIDTH)
    return ["", *measured_lines(evidence), *(["", *verdict] if verdict else [])]


def measured_lines(evidence: Evidence) -> list[str]:
    """The spread of seeds and designs, the reliability of a score and the lead that counts, and what they rest on."""
    left_out = f"; {evidence.n_pruned} pruned, which have no final score, are left out" if evidence.n_pruned else ""
    evaluations = _counted(evidence.n_complete, "complete evaluation")
    return [
        f"Measured on {evaluations} of {_counted(evidence.n_designs, 'design')}{left_out}:",
        *spread_lines(evidence),
    ]


def spread_lines(evidence: Evidence) -> list[str]:
    """The measured numbers alone, each under its label; nothing before an evaluation is complete."""
    if not evidence.n_complete:
        return []
    seeds, deviation, score = evidence.seeds, evidence.design_deviation, evidence.reliability
    if seeds is None:
        return [
            "  seeds      not known, and so nor is what a lead is worth: no design has different scores",
            f"             from two seeds (a search of {REPEATED_FROM} trials or more evaluates U-Net twice for that)",
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
        beyond = f"{deviation:.4f} between designs beyond that" if deviation > 0 else "between designs: not beyond that"
        lines.append(f"  designs    standard deviation {beyond}")
    if score is not None:
        lines.append(
            f"  one score  reliability {score.share:.2f} (95 %: {score.low:.2f} to {score.high:.2f}): "
            "0 is noise alone, 1 no noise"
        )
    lead = f"  a lead     counts above {_dice(evidence.lead_of_two)} between two designs"
    if evidence.lead_of_best is not None:
        lead += f", above {_dice(evidence.lead_of_best)} for the best of {evidence.n_rivals} over U-Net"
    return [*lines, lead]


def _verdict(evidence: Evidence) -> str:
    """What the lead over U-Net is worth; empty where there is nothing to compare."""
    lead, needed = evidence.lead, evidence.lead_of_best
    if lead is None:
        return ""
    if lead <= 0:
        return "U-Net itself is the best design so far: no evidence of a gain from other skips."
    begin = f"The best design is {lead:+.4f} Dice from U-Net"
    if needed is None:
        return (
            f"{begin}, on one seed each and on the cases that chose it. Seed noise is often as large: take it as a "
            "candidate, not as a proven gain."
        )
    noise = f"noise alone puts the best of {evidence.n_rivals} equal designs ahead by up to {_dice(needed)} (95 %)"
    if not evidence.is_gain:
        return f"{begin}: no evidence of a gain, as {noise}. Take it as a candidate."
    return f"{begin}: more than noise, as {noise}. That is on the cases that chose it; new cases may tell otherwise."


def evidence_facts(evidence: Evidence) -> dict[str, Any]:
    """The same for machines."""
    return {**asdict(evidence), "is_gain": evidence.is_gain}


def _dice(lead: float | None) -> str:
    """Dice ends at 1, whatever little knowledge of the noise would ask for."""
    return f"{min(lead or 0.0, 1.0):.4f}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
