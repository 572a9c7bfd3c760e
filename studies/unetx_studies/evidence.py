"""What the evaluations of a study can tell apart: the spread of its seeds and designs, and what a lead is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Outcome
from unetx_studies.ranking import complete, preset_key, ranking
from unetx_studies.spread import (
    Reliability,
    Scored,
    SeedSpread,
    design_deviation,
    lead_of_best,
    lead_of_two,
    reliability,
    seed_spread,
)

if TYPE_CHECKING:
    from unetx_studies.store import TrialRecord


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured so far; None is what the evaluations do not tell yet."""

    n_complete: int
    """Evaluations with a final score, on which all of this rests."""
    n_designs: int
    """How many designs these are of."""
    n_pruned: int
    """Evaluations that were stopped early: their final scores are missing, so they are left out."""
    seeds: SeedSpread | None
    """How far another seed moves the score of a design. That two seeds give the very same score, as where nothing is
    learned at all, measures nothing."""
    design_deviation: float | None
    """How far designs lie apart beyond that, the net without skips left out: it is there to be bad."""
    reliability: Reliability | None
    """Of a single score, for the same designs."""
    lead_of_two: float | None
    """From where on the difference of two designs that were named beforehand counts."""
    n_rivals: int
    """Designs other than U-Net that could have become the best, pruned ones among them."""
    lead_of_best: float | None
    """From where on the lead of the best of these over U-Net counts."""
    lead: float | None
    """What the best of them is ahead of U-Net, on the same seed; below 0 where U-Net is the best."""

    @property
    def is_gain(self) -> bool | None:
        """The lead counts; None where that cannot be told."""
        return None if self.lead is None or self.lead_of_best is None else self.lead > self.lead_of_best


def evidence(evaluations: Sequence[TrialRecord]) -> Evidence:
    """What these evaluations of one study tell. All have its budget; those that run or failed tell nothing."""
    done = complete(evaluations)
    scores = [Scored(e.key, e.seed, e.score) for e in done if e.score is not None]
    unet, no_skip = (preset_key(evaluations, name) for name in ("u-net", "no-skip"))
    candidates = [one for one in scores if one.design != no_skip]
    seeds = seed_spread(scores)
    if seeds is not None and seeds.deviation == 0.0:
        seeds = None
    judged = {e.key for e in evaluations if e.outcome in (Outcome.COMPLETE, Outcome.PRUNED)}
    n_rivals = len(judged - {unet})
    by_design = {e.key: e.score or 0.0 for e in ranking(evaluations)}
    reference = by_design.pop(unet, None) if unet is not None else None
    return Evidence(
        n_complete=len(done),
        n_designs=len({e.key for e in done}),
        n_pruned=sum(e.outcome is Outcome.PRUNED for e in evaluations),
        seeds=seeds,
        design_deviation=design_deviation(candidates) if seeds else None,
        reliability=reliability(candidates),
        lead_of_two=lead_of_two(seeds) if seeds else None,
        n_rivals=n_rivals,
        lead_of_best=lead_of_best(seeds, n_rivals) if seeds and n_rivals else None,
        lead=max(by_design.values()) - reference if by_design and reference is not None else None,
    )
