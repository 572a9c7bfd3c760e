"""What the evaluations of a study can tell apart: the spread of its seeds and designs, and what the lead is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Outcome
from unetx_studies.ranking import Ranking, complete, preset_key
from unetx_studies.spread import REACH, Scored, SeedSpread, seed_spread

if TYPE_CHECKING:
    from unetx_studies.store import TrialRecord


@dataclass(frozen=True, slots=True)
class Reliability:
    """The share of the variance of a single score that designs make: 0 where all is noise, 1 where nothing is."""

    share: float
    low: float
    high: float
    """Bounds of the 95 % interval."""


@dataclass(frozen=True, slots=True)
class Lead:
    """How far the best design other than U-Net is above it, by the shrunken estimates."""

    trial: int
    """The first trial of the design."""
    dice: float
    """The difference of Dice, below 0 where U-Net is the best."""
    low: float
    high: float
    """Bounds of the 95 % interval. Where no design has two seeds they rest on an assumption on the noise."""
    n_seeds: int
    n_seeds_of_unet: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the evaluations of a study tell so far; a field is None where they do not tell it yet."""

    n_complete: int
    """Evaluations with a final score, on which all of this rests."""
    n_designs: int
    """Designs that these evaluations are of."""
    n_pruned: int
    """Evaluations that were stopped early: their final scores are missing, so they are left out."""
    seeds: SeedSpread | None
    """How far another seed moves the score of a design; None also where two seeds give the very same score, as where
    nothing is learned at all."""
    design_deviation: float | None
    """Standard deviation of the designs' true means, those far below the others left out, as the net without skips."""
    reliability: Reliability | None
    """The reliability of a single score, for the same designs."""
    lead: Lead | None
    """The lead of the best design over U-Net."""

    @property
    def is_gain(self) -> bool | None:
        """Whether the lead is more than noise, its interval being above 0; None where that cannot be told."""
        return None if self.lead is None or self.seeds is None else self.lead.low > 0.0


def evidence(evaluations: Sequence[TrialRecord]) -> Evidence:
    """The evidence in the evaluations of a study, which all have its budget; those that run or failed tell nothing."""
    done = complete(evaluations)
    seeds = seed_spread(Scored(e.key, e.seed, e.score or 0.0) for e in done)
    if seeds is not None and seeds.deviation == 0.0:
        seeds = None
    ranking = Ranking(done)
    known = ranking.shrinkage if seeds else None
    return Evidence(
        n_complete=len(done),
        n_designs=len(ranking.designs),
        n_pruned=sum(e.outcome is Outcome.PRUNED for e in evaluations),
        seeds=seeds,
        design_deviation=known.design_deviation if known else None,
        reliability=Reliability(known.reliability, *known.reliability_bounds) if known else None,
        lead=_lead(ranking, preset_key(evaluations, "u-net")),
    )


def _lead(ranking: Ranking, reference: str | None) -> Lead | None:
    """The lead of the best design over the reference; None where one of the two has no score."""
    unet = ranking.get(reference)
    best = next((one for one in ranking.designs if one.key != reference), None)
    if ranking.shrinkage is None or unet is None or best is None:
        return None
    dice, error = ranking.shrinkage.difference(best.key, unet.key)
    reach = REACH * error
    return Lead(best.number, dice, dice - reach, dice + reach, len(best.seeds), len(unet.seeds))
