"""What scores can tell apart: how far seeds move them, how far designs do, and how large a lead must be to count.

Numbers only; where they come from is told in ``evidence.py``. The model is the one-way layout with random effects
(Searle, Casella and McCulloch, Variance Components, Wiley 1992, chapter 3): k designs with n_i seeds each, N in all::

    y_ij = mu + a_i + e_ij,    a_i ~ N(0, s_a^2) of the design,    e_ij ~ N(0, s_e^2) of the seed

Scores of evaluations that were broken off are no y_ij: leave them out. As the pruner takes the worse designs, s_a is
then that of designs which come through, and less than that of the whole space. Evaluations on one seed share initial
values and batches, so that a part of e_ij is common to all designs and cancels out of their differences; it is counted
here as noise, which makes a lead that counts rather too large than too small, and the reliability too low.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri, fdtri, gammaincinv, ndtr, stdtrit

CONFIDENCE = 0.95
MIN_DF = 3
"""Below, the upper bound of the interval of s_e is more than four times the estimate (3.73 times with three)."""

N_NODES, Z_MAX = 128, 8.5
"""Of the integrals over the noise of estimate and reference: right to five digits."""

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
        """It rests on too few repeats to be taken for more than its order of magnitude."""
        return self.degrees_of_freedom < MIN_DF


@dataclass(frozen=True, slots=True)
class Reliability:
    """The share of the variance of a single score that designs make: 0 where all is noise, 1 where nothing is."""

    share: float
    low: float
    high: float
    """Bounds of the 95 % interval."""


def seed_spread(scores: Iterable[Scored]) -> SeedSpread | None:
    """s_e, pooled within designs; None where no design has two seeds.

    s_e^2 = MSE = sum (y_ij - mean_i)^2 / (N - k), and (N - k) MSE / s_e^2 follows a chi-square distribution of N - k
    degrees of freedom, which gives the interval (Searle et al. 1992, chapter 3). With one pair of seeds it
    reaches from 0.45 to 32 times the estimate.
    """
    designs = _by_design(scores)
    df = sum(map(len, designs)) - len(designs)
    if df == 0:
        return None
    square = _within(designs) / df
    tail = (1.0 - CONFIDENCE) / 2
    low, high = (float(np.sqrt(df * square / chdtri(df, upper))) for upper in (tail, 1.0 - tail))
    return SeedSpread(float(np.sqrt(square)), df, low, high)


def design_deviation(scores: Iterable[Scored]) -> float | None:
    """s_a, by the method of moments; None where seeds are unknown or there are fewer than two designs.

    s_a^2 = (MSA - MSE) / n_0 and no less than 0, with MSA = sum n_i (mean_i - mean)^2 / (k - 1) and
    n_0 = (N - sum n_i^2 / N) / (k - 1) (Searle et al. 1992, chapter 3, on unbalanced data).
    """
    designs = _by_design(scores)
    k, sizes = len(designs), _sizes(designs)
    n = sizes.sum()
    if k < 2 or n == k:
        return None
    n_0 = (n - (sizes**2).sum() / n) / (k - 1)
    between, within = _between(_means(designs), sizes) / (k - 1), _within(designs) / (n - k)
    return float(np.sqrt(max(0.0, between - within) / n_0))


def reliability(scores: Iterable[Scored]) -> Reliability | None:
    """The intraclass correlation of a single score, s_a^2 / (s_a^2 + s_e^2); None where s_a or s_e is unknown or s_e 0.

    It is ICC(1, 1) of Shrout and Fleiss (Psychological Bulletin 86(2), 420-428, 1979), with the moments' estimates.
    The interval is exact for any n_i (Wald, A Note on the Analysis of Variance with Unequal Class Frequencies, Annals
    of Mathematical Statistics 11(1), 96-100, 1940): with weights w_i = n_i / (1 + n_i s_a^2 / s_e^2), the ratio
    sum w_i (mean_i - weighted mean)^2 / (k - 1) / MSE follows F of k - 1 and N - k degrees of freedom, and falls with
    s_a / s_e; so its quantiles give the bounds.
    """
    scores = list(scores)
    designs, deviation, seeds = _by_design(scores), design_deviation(scores), seed_spread(scores)
    if deviation is None or seeds is None or seeds.deviation == 0.0:
        return None
    k, sizes, means, square = len(designs), _sizes(designs), _means(designs), seeds.deviation**2

    def ratio(share: float) -> float:
        weights = sizes * (1.0 - share) / (1.0 - share + sizes * share)
        return _between(means, weights) / (k - 1) / square

    def bound(probability: float) -> float:
        quantile = float(fdtri(k - 1, seeds.degrees_of_freedom, probability))
        return _crossing(lambda share: quantile - ratio(share), 0.0, 1.0)

    tail = (1.0 - CONFIDENCE) / 2
    return Reliability(deviation**2 / (deviation**2 + square), bound(1.0 - tail), bound(tail))


def lead_of_two(seeds: SeedSpread) -> float:
    """From where on a difference between two designs counts that were named beforehand, one seed each.

    t(97.5 %, df) sqrt(2) s_e: Fisher's least significant difference (The Design of Experiments, 1935), and
    with many degrees of freedom the repeatability limit 2.8 s of ISO 5725-6. Equal designs differ by more in one pair
    of twenty.
    """
    return float(stdtrit(seeds.degrees_of_freedom, (1.0 + CONFIDENCE) / 2) * np.sqrt(2.0) * seeds.deviation)


def lead_of_best(seeds: SeedSpread, n_designs: int) -> float:
    """From where on the lead of the best of so many designs over one reference counts, one seed each.

    The best was chosen for its score, noise included; this is the 95 % quantile of what noise alone gives it when all
    designs are equal: q s_e with P(max e_i - e_0 <= q s_e) = 0.95. It is sqrt(2) times the one-sided critical value of
    Dunnett (A Multiple Comparison Procedure for Comparing Several Treatments with a Control, Journal of the American
    Statistical Association 50, 1096-1121, 1955). Count as chosen from all that could have become the best, pruned ones
    too: that a part of them was left out early makes the maximum no larger. Dunnett wants an estimate of s_e that is
    independent of the scores compared. Where the reference is one of the only pair it rests on, noise exceeds the bound
    in 4.4 % of searches (1 design) to 5.1 % (50), as the tests simulate.
    """
    if n_designs < 1:
        raise ValueError(f"the best is one of at least 1 design, got {n_designs}")
    nodes, weights = np.polynomial.legendre.leggauss(N_NODES)
    df = seeds.degrees_of_freedom
    u = np.sqrt(2.0 * gammaincinv(df / 2, (nodes + 1.0) / 2) / df)
    z = Z_MAX * nodes
    density = Z_MAX * weights * np.exp(-(z**2) / 2) / np.sqrt(2.0 * np.pi)

    def probability(q: float) -> float:
        """P(max e_i - e_0 <= q s): the mean of Phi(z + q u)^n over the reference's z ~ N(0, 1) and over the estimate's
        u = s / s_e ~ chi(df) / sqrt(df), by Gauss and Legendre; u by its quantiles."""
        return float((weights / 2) @ (ndtr(z + q * u[:, None]) ** n_designs) @ density)

    high = 4.0
    while probability(high) < CONFIDENCE:
        high *= 2.0
    return seeds.deviation * _crossing(lambda q: probability(q) - CONFIDENCE, 0.0, high)


def _crossing(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises comes to 0; the nearer end where it does so outside."""
    if rising(low) >= 0:
        return low
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _by_design(scores: Iterable[Scored]) -> list[list[Scored]]:
    """Evaluations design by design. One seed twice is one evaluation, made twice: it counts once."""
    once = {(one.design, one.seed): one for one in reversed(list(scores))}
    return [list(group) for _, group in groupby(sorted(once.values()), key=lambda one: one.design)]


def _sizes(designs: list[list[Scored]]) -> Vector:
    return np.array([len(design) for design in designs], dtype=np.float64)


def _means(designs: list[list[Scored]]) -> Vector:
    return np.array([sum(one.score for one in design) / len(design) for design in designs])


def _within(designs: list[list[Scored]]) -> float:
    """Sum of squares around the designs' means."""
    means = _means(designs)
    return float(sum((one.score - mean) ** 2 for design, mean in zip(designs, means, strict=True) for one in design))


def _between(means: Vector, weights: Vector) -> float:
    """Weighted sum of squares of the designs' means around their weighted mean; 0 without any weight."""
    total = weights.sum()
    return float(weights @ (means - weights @ means / total) ** 2) if total > 0 else 0.0
