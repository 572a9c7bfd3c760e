"""How well cheap scores of designs predict expensive ones: whether they rank alike, what is lost by choosing by them.

Numbers only. A *proxy* is what designs are ranked by, a *reference* what they are to be ranked by. Both come as tables
``[designs, seeds]``; a design with a missing score is to be left out before. High is good throughout.

Intervals are percentiles over resampled designs, each with all of its scores (Efron and Tibshirani, An Introduction to
the Bootstrap, Chapman and Hall 1993, chapter 13): what seeds do to a design is resampled along with it, and what a seed
does to all designs alike moves no rank. Seeds themselves are not drawn again: the mean of two seeds would then often be
one seed twice, which agrees less than the mean that was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import fdtri

from unetx_studies.spread import CONFIDENCE, Vector

TOP = 3
"""How many of the best designs a proxy should find."""
N_DRAWS = 2000
FEWEST_DESIGNS = 4
"""Designs from which on a rank correlation is given: of three there are six orders in all."""

Draws = npt.NDArray[np.intp]
"""``[draws, designs]``: which designs each draw holds."""


class Bounded(NamedTuple):
    """An estimate with the bounds of its 95 % interval; NaN where there is none, as for scores that are all equal."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a proxy agrees with the reference on the same designs."""

    n_designs: int
    spearman: Bounded
    kendall: Bounded
    recall: Bounded
    """The share of the reference's best designs (three of them) that are among the proxy's."""
    regret: Bounded
    """How much the truly best design is worth above the one that the proxy puts first."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The rank correlations that a proxy without any noise would have with a reference that has some."""

    spearman: Bounded
    kendall: Bounded


def bootstrap_draws(n_designs: int, n_draws: int = N_DRAWS, seed: int = 0) -> Draws:
    """Bootstrap samples: in each, as many designs as there are, drawn with replacement."""
    return np.random.default_rng(seed).integers(0, n_designs, (n_draws, n_designs))


def agreement(proxy: Vector, reference: Vector, truth: Vector, draws: Draws | None = None) -> Agreement:
    """How one seed of the proxy agrees with the reference's mean over seeds, averaged over the proxy's seeds.

    ``truth[designs]`` is the best estimate of what each design is worth, from which the regret is computed.
    """
    expected = reference.mean(1)
    draws = bootstrap_draws(len(expected)) if draws is None else draws
    both = [np.arange(len(expected))[None], draws]
    correlations = [[rank_correlations(column, expected, of) for column in proxy.T] for of in both]
    means = [np.mean(seeds, axis=0) for seeds in correlations]  # [2, draws]
    recalls = [np.mean([_recalls(column, expected, of) for column in proxy.T], axis=0) for of in both]
    return Agreement(
        len(expected),
        _bounded(means[0][0], means[1][0]),
        _bounded(means[0][1], means[1][1]),
        _bounded(*recalls),
        _bounded(*(_regrets(proxy, truth, of) for of in both)),
    )


def excess_regret(proxy: Vector, other: Vector, truth: Vector, draws: Draws | None = None) -> Bounded:
    """How much more is lost by choosing by a proxy than by another one of the same designs."""
    draws = bootstrap_draws(len(truth)) if draws is None else draws
    both = (np.arange(len(truth))[None], draws)
    return _bounded(*(_regrets(proxy, truth, of) - _regrets(other, truth, of) for of in both))


def rank_correlations(x: Vector, y: Vector, draws: Draws) -> Vector:
    """``[2, draws]``: Spearman's rho and Kendall's tau-b of the designs in each draw.

    Both from the signs of all differences: their sums are the ranks, with ties in their middle, as the mean rank is
    taken off; their products count the pairs in the same order and in the opposite one.
    """
    a, b = (np.sign(values[draws][:, :, None] - values[draws][:, None, :]) for values in (x, y))  # [draws, n, n]
    p, q = a.sum(2), b.sum(2)  # [draws, n]: twice the ranks
    with np.errstate(invalid="ignore"):
        rho = (p * q).sum(1) / np.sqrt((p**2).sum(1) * (q**2).sum(1))
        tau = (a * b).sum((1, 2)) / np.sqrt((a**2).sum((1, 2)) * (b**2).sum((1, 2)))
    return np.stack([rho, tau])


def _recalls(proxy: Vector, expected: Vector, draws: Draws) -> Vector:
    """The share of the best designs that the proxy finds: ``[draws]``."""
    k = min(TOP, draws.shape[1])
    best, found = (np.argsort(-values[draws], axis=1, kind="stable")[:, :k] for values in (expected, proxy))
    shared: Vector = (best[:, :, None] == found[:, None, :]).sum((1, 2)) / k
    return shared


def _regrets(proxy: Vector, truth: Vector, draws: Draws) -> Vector:
    """What is lost by the proxy's first choice, averaged over its seeds: ``[draws]``."""
    worth = truth[draws]
    chosen = [np.take_along_axis(worth, column[draws].argmax(1)[:, None], 1)[:, 0] for column in proxy.T]
    lost: Vector = worth.max(1) - np.mean(chosen, axis=0)
    return lost


def percentiles(values: Vector, low: float, high: float) -> tuple[float, float]:
    """Two percentiles of the values that are numbers; NaN where none is."""
    values = values[np.isfinite(values)]
    if not values.size:
        return np.nan, np.nan
    ends = np.percentile(values, (low, high))
    return float(ends[0]), float(ends[1])


def _bounded(value: Vector, draws: Vector) -> Bounded:
    tail = 50.0 * (1.0 - CONFIDENCE)
    return Bounded(float(value[0]), *percentiles(draws, tail, 100.0 - tail))


# What noise allows


def design_mean_squares(scores: Vector) -> tuple[float, float]:
    """Mean squares of designs and of the error, in the two-way layout without repeats of ``scores[designs, seeds]``."""
    n, k = scores.shape
    residual = scores - scores.mean(1, keepdims=True) - scores.mean(0, keepdims=True) + scores.mean()
    between = k * ((scores.mean(1) - scores.mean()) ** 2).sum() / (n - 1)
    return float(between), float((residual**2).sum() / ((n - 1) * (k - 1)))


def reliability(scores: Vector) -> Bounded:
    """The reliability of the designs' means over seeds, no less than 0, with the interval of the F distribution.

    It is ICC(3,k) = 1 - MS_error / MS_designs of Shrout and Fleiss (Psychological Bulletin 86(2), 420-428, 1979), and
    NaN with one seed, and where all scores are equal.
    """
    n, k = scores.shape
    if k < 2 or n < 2:
        return Bounded(np.nan, np.nan, np.nan)
    between, error = design_mean_squares(scores)
    if between == 0.0:
        return Bounded(np.nan, np.nan, np.nan)
    tail, df = (1.0 - CONFIDENCE) / 2, (n - 1, (n - 1) * (k - 1))
    quotient = error / between
    shares = (1.0, fdtri(*df, 1.0 - tail), fdtri(*df, tail))
    return Bounded(*(max(0.0, float(1.0 - quotient * share)) for share in shares))


def ceiling(reference: Vector) -> Ceiling:
    """The ceiling by the reliability of the designs' ranks, seed by seed, which no single far design decides.

    The correlation of a mean with what it estimates is the root of its reliability (Lord and Novick, Statistical
    Theories of Mental Test Scores, 1968, chapter 3). For normal scores of correlation r, Spearman's rho is
    6/pi asin(r/2) and Kendall's tau 2/pi asin(r) (Kruskal, JASA 53, 814-861, 1958), which turns the one into the other.
    """
    ranks = np.sign(reference[:, None, :] - reference[None, :, :]).sum(1)
    spearman = Bounded(*(float(np.sqrt(bound)) for bound in reliability(ranks)))
    kendall = Bounded(*(float(2 / np.pi * np.arcsin(2 * np.sin(np.pi / 6 * bound))) for bound in spearman))
    return Ceiling(spearman, kendall)
