"""The spread of a design's scores over seeds.

Numbers only; where they come from is told in ``evidence.py``. The model is the one-way layout with random effects
(Searle, Casella and McCulloch, Variance Components, Wiley 1992, chapter 3): k designs with n_i seeds each, N in all::

    y_ij = mu + a_i + e_ij,    a_i of the design,    e_ij ~ N(0, s_e^2) of the seed

Scores of evaluations that were broken off are no y_ij: leave them out. Evaluations on one seed share initial values and
batches, so that a part of e_ij is common to all designs; ``shrinkage.py`` tells it apart, and what designs differ by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri, ndtri

CONFIDENCE = 0.95
"""The confidence of all intervals that people are shown."""
REACH = float(ndtri((1.0 + CONFIDENCE) / 2))
"""Standard errors to either side of an estimate that make such an interval where errors are normal: 1.96."""
MIN_DF = 3
"""Degrees of freedom. Below, the upper bound of the interval of s_e is more than four times the estimate (with three it
is 3.73 times)."""

Vector = npt.NDArray[np.float64]


class Scored(NamedTuple):
    """A complete evaluation: which design, under which seed, with what score."""

    design: str
    seed: int
    score: float


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """How far apart the scores of one design lie under different seeds: s_e, as estimated."""

    deviation: float
    """Standard deviation."""
    degrees_of_freedom: int
    low: float
    high: float
    """Bounds of the 95 % interval."""

    @property
    def is_vague(self) -> bool:
        """Whether it rests on too few repeats to be taken for more than its order of magnitude."""
        return self.degrees_of_freedom < MIN_DF


def seed_spread(scores: Iterable[Scored]) -> SeedSpread | None:
    """The estimate of s_e, pooled within designs; None where no design has two seeds.

    s_e^2 = MSE = sum (y_ij - mean_i)^2 / (N - k), and (N - k) MSE / s_e^2 follows a chi-square distribution of N - k
    degrees of freedom, which gives the interval (Searle et al. 1992, chapter 3). With one pair of seeds it
    reaches from 0.45 to 32 times the estimate.
    """
    once = {(one.design, one.seed): one.score for one in reversed(list(scores))}  # one seed twice counts once
    designs: defaultdict[str, list[float]] = defaultdict(list)
    for (design, _), score in once.items():
        designs[design].append(score)
    df = len(once) - len(designs)
    if df == 0:
        return None
    square = sum((score - fmean(own)) ** 2 for own in designs.values() for score in own) / df
    tail = (1.0 - CONFIDENCE) / 2
    low, high = (float(np.sqrt(df * square / chdtri(df, upper))) for upper in (tail, 1.0 - tail))
    return SeedSpread(float(np.sqrt(square)), df, low, high)
