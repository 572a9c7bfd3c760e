"""Each design's true mean as far as its scores tell it: the score pulled towards the mean of all designs.

The highest of many noisy scores is high by luck as well as by worth. The model takes both apart (a mixed model with
two crossed random effects; Searle, Casella and McCulloch, Variance Components, Wiley 1992, chapters 5 and 7)::

    y_ij = mu + a_i + b_j + e_ij        design i, trained with seed j

    a_i ~ N(0, rho s^2)           how far the design's true mean, mu + a_i, lies from that of all designs
    b_j ~ N(0, kappa s^2)         what the seed gives to every design alike, as all share initial values and batches
    e_ij ~ N(0, (1 - rho) s^2)    the rest of the seed's noise

so that rho is the reliability of a single score once what its seed gives to all is taken out. The estimate is the
posterior mean of mu + a_i. mu and s are integrated out in closed form, rho and kappa over a grid with a prior
(empirical Bayes with uncertain hyperparameters; Morris, Parametric Empirical Bayes Inference, Journal of the American
Statistical Association 78, 47-55, 1983). The prior decides where nothing is repeated, and gives way to the data from a
few repeats on. Which designs are repeated may depend on the scores, as long as all of them are given here: what decided
is then part of the likelihood (Rubin, Inference and Missing Data, Biometrika 63, 581-592, 1976). The method of moments
has no such excuse. ``benchmarks/reseeding.py`` compares it, the most likely rho and kappa, and
their whole distribution as here.

Search spaces hold a tail of bad designs, as the net without skips is one. They would make the spread of designs, and so
the estimates of the best, too large: whose plain mean is more than 2.5 median absolute deviations below the median
(Leys et al., Journal of Experimental Social Psychology 49(4), 764-766, 2013) *stands apart*. It says nothing about rho,
kappa and s, and its own estimate is not shrunken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri, softmax

from unetx_studies.spread import CONFIDENCE, Scored, Vector

DEFAULT_RELIABILITY = 0.4
"""The reliability of a score where nothing is repeated: designs' deviation 0.005 and seeds' 0.006 give 0.41."""
PRIOR_WEIGHT = 0.75
"""The sum of the parameters of rho's beta prior. So little favours "all is noise" and "nothing is" where the data do;
with 2, the best of 200 equal designs is overestimated by 0.15 of the seeds' deviation."""
COMMON_SCALE = 0.3
"""The scale of sqrt(kappa)'s prior, half of a t distribution with 4 degrees of freedom (Gelman, Bayesian Analysis 1(3),
515-534, 2006)."""
N_RELIABILITIES, N_COMMON = 24, 8
"""Nodes of the grid: quantiles of rho's prior, and kappa from 0.0016 to 26 in steps of four times."""
PROBABILITY = 0.95
"""The probability with which the cheapest design has to be as good as the reference within the margin. In
``benchmarks/reseeding.py`` 2 % of those named are not, against 5 % with 0.8, for hardly more cost."""
APART = 2.5 * 1.4826
"""Median absolute deviations below the median at which a design stands apart; 1.4826 of them estimate a normal standard
deviation."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate of one design's true mean."""

    design: str
    mean: float
    """The shrunken estimate."""
    standard_error: float
    """The posterior standard deviation of the true mean, the uncertainty of all variances included."""
    raw: float
    """The plain mean of the design's scores."""
    seeds: tuple[int, ...]
    """The seeds it was trained with, ascending."""


@dataclass(frozen=True, slots=True)
class Shrinkage:
    """The shrunken estimates of a study's designs, with the reliability of its scores and its two deviations."""

    estimates: tuple[Estimate, ...]
    """The best first; of equals, the one that was given first."""
    reliability: float
    """The reliability of a single score, beyond what its seed gives to all designs: rho, the posterior mean."""
    reliability_bounds: tuple[float, float]
    """95 % of rho's posterior lie between, both ends nodes of the grid."""
    design_deviation: float
    """Standard deviation of the designs' true means."""
    seed_deviation: float
    """Standard deviation of a design's score from seed to seed, beyond what a seed gives to all."""
    _posterior: _Posterior

    def __getitem__(self, design: str) -> Estimate:
        """The estimate of one design; a ``KeyError`` where it has no score."""
        for one in self.estimates:
            if one.design == design:
                return one
        raise KeyError(design)

    def difference(self, design: str, other: str) -> tuple[float, float]:
        """How far the first design's true mean is above the other's: estimate and standard error."""
        index = self._posterior.index
        leads, errors = self._posterior.leads(index[other])
        return float(leads[index[design]]), float(errors[index[design]])

    def cheapest(
        self, costs: Mapping[str, float], reference: str, margin: float, probability: float = PROBABILITY
    ) -> str | None:
        """The cheapest design that is as good as the reference; None where no cheaper one is.

        As good is one that is, with this probability, not worse by more than the margin.
        """
        index = self._posterior.index
        leads, errors = self._posterior.leads(index[reference])
        is_good = leads + margin >= np.maximum(float(ndtri(probability)) * errors, 0.0)
        good = [one.design for one in self.estimates if is_good[index[one.design]]]
        cheaper = (design for design in good if costs[design] < costs[reference])
        return min(cheaper, key=lambda design: costs[design], default=None)


@dataclass(frozen=True, slots=True)
class _Posterior:
    """The grid's nodes (axis n), each a normal distribution of all true means given its rho and kappa.

    ``pattern`` says of each design (axis i) which of the distinct sets of seeds (axis q) it has, those that stand apart
    by themselves; all but the design's own mean score depends on that alone.
    """

    index: dict[str, int]
    sets: npt.NDArray[np.bool_]
    """[q, seed]"""
    pattern: npt.NDArray[np.intp]
    centre: float
    means: Vector
    """The plain mean of each design's scores, above the centre."""
    weight: Vector
    """The posterior probability of each node."""
    square: Vector
    """s^2 of each node."""
    slope: Vector
    """[n, q]: the weight of a design's own mean."""
    own: Vector
    """[n, q]: the variance of a_i, in units of s^2, with mu and the b_j known."""
    leverage: Vector
    """[n, q, f]: how mu + a_i depends on mu and the b_j (axis f)."""
    effects: Vector
    """[n, f]: estimates of mu, above the centre, and the b_j."""
    spread: Vector
    """[n, f, f]: their covariance, in units of s^2."""

    def leads(self, reference: int) -> tuple[Vector, Vector]:
        """How far the true means of all designs are above that of one of them: means and standard errors."""
        r = self.pattern[reference]
        lever = self.leverage - self.leverage[:, [r]]
        shift = np.einsum("nqf,nf->nq", lever, self.effects)
        own = self.own + self.own[:, [r]]
        within = own + np.einsum("nqf,nfg,nqg->nq", lever, self.spread, lever, optimize=True)
        given = self.slope[:, self.pattern] * self.means - self.slope[:, [r]] * self.means[reference]
        given += shift[:, self.pattern]
        means = self.weight @ given
        variances = ((self.weight * self.square) @ within)[self.pattern] + self.weight @ (given - means) ** 2
        variances[reference] = 0.0
        return means, np.sqrt(np.maximum(variances, 0.0))

    def marginal(self) -> tuple[Vector, Vector]:
        """Means and variances of all designs' true means. In each node, the mean is slope times own mean plus shift."""
        shift = np.einsum("nqf,nf->nq", self.leverage, self.effects)
        slope_mean, shift_mean = self.weight @ self.slope, self.weight @ shift
        slopes, shifts = self.slope - slope_mean, shift - shift_mean
        within = self.own + np.einsum("nqf,nfg,nqg->nq", self.leverage, self.spread, self.leverage, optimize=True)
        known = (self.weight * self.square) @ within + self.weight @ shifts**2
        mixed, steep = self.weight @ (slopes * shifts), self.weight @ slopes**2
        q, y = self.pattern, self.means
        means = self.centre + slope_mean[q] * y + shift_mean[q]
        return means, np.maximum(known[q] + 2.0 * mixed[q] * y + steep[q] * y**2, 0.0)


def shrinkage(scores: Iterable[Scored]) -> Shrinkage | None:
    """The shrunken estimates of all designs that have a score; None where there is no score at all.

    One seed twice for one design is one evaluation, made twice: the first counts. Where all scores are equal, every
    estimate is that score, its standard error 0 and the reliability the prior's.
    """
    first: dict[tuple[str, int], float] = {}
    for design, seed, score in scores:
        first.setdefault((design, seed), score)
    if not first:
        return None
    index: dict[str, int] = {}
    rows = np.array([index.setdefault(design, len(index)) for design, _ in first])
    seeds, columns = np.unique([seed for _, seed in first], return_inverse=True)
    table = np.full((len(index), len(seeds)), np.nan)
    table[rows, columns] = list(first.values())
    posterior, rho = _posterior(table, index)
    means, variances = posterior.marginal()
    raw, errors = posterior.centre + posterior.means, np.sqrt(variances)
    used = [tuple(int(seed) for seed in seeds[has]) for has in posterior.sets]
    known = zip(index, means.tolist(), errors.tolist(), raw.tolist(), posterior.pattern.tolist(), strict=True)
    estimates = (Estimate(name, mean, error, plain, used[q]) for name, mean, error, plain, q in known)
    square = posterior.weight * posterior.square
    return Shrinkage(
        tuple(sorted(estimates, key=lambda one: -one.mean)),
        float(posterior.weight @ rho),
        _bounds(rho, posterior.weight),
        float(np.sqrt(square @ rho)),
        float(np.sqrt(square @ (1.0 - rho))),
        posterior,
    )


def _bounds(values: Vector, weights: Vector) -> tuple[float, float]:
    """The values between which 95 % of the weight lie."""
    order = np.argsort(values)
    ends = np.searchsorted(np.cumsum(weights[order]), [(1.0 - CONFIDENCE) / 2, (1.0 + CONFIDENCE) / 2])
    low, high = values[order][np.minimum(ends, len(values) - 1)]
    return float(low), float(high)


@lru_cache(maxsize=1)
def _grid() -> tuple[Vector, Vector, Vector]:
    """rho, kappa and the logarithm of the prior of every node."""
    a = PRIOR_WEIGHT * DEFAULT_RELIABILITY
    rho = betaincinv(a, PRIOR_WEIGHT - a, (np.arange(N_RELIABILITIES) + 0.5) / N_RELIABILITIES)
    kappa = 0.1 * 4.0 ** (np.arange(N_COMMON) - 3)
    density = np.sqrt(kappa) * (1.0 + kappa / (4.0 * COMMON_SCALE**2)) ** -2.5
    return np.repeat(rho, N_COMMON), np.tile(kappa, N_RELIABILITIES), np.tile(np.log(density), N_RELIABILITIES)


def _posterior(table: Vector, index: dict[str, int]) -> tuple[_Posterior, Vector]:
    """The posterior for a table of designs by seeds, NaN where a design was not trained; and rho of its nodes.

    With x_ij = (1, 1 for each seed j) and V the covariance of a_i + e_ij in units of s^2, which falls into one block
    for each design, mu and the b_j have the precision Q = X' V^-1 X + diag(0, 1 / kappa) and the estimate
    g = Q^-1 X' V^-1 y. A design of n seeds has V^-1 = (I - c 11') / (1 - rho) with c = rho / (1 - rho + n rho). The
    marginal likelihood is |V|^-1/2 |Q|^-1/2 kappa^-p/2 (y' V^-1 y - g' Q g)^-(N-1)/2 for N scores and p seeds (the
    restricted likelihood of Searle et al. 1992, section 6.6, with s^2 integrated out).
    """
    rho, kappa, log_prior = _grid()
    has, means = ~np.isnan(table), np.nanmean(table, axis=1)
    is_apart = _stand_apart(means)
    sets, pattern = np.unique(np.column_stack([has, is_apart]), axis=0, return_inverse=True)
    pattern = pattern.reshape(-1)
    sets, sets_apart = sets[:, :-1], sets[:, -1]

    has, y = has[~is_apart], table[~is_apart]
    centre = y[has].mean()
    y = np.where(has, y - centre, 0.0)
    sums, own_pattern = y.sum(1), pattern[~is_apart]
    n_sets, size = len(sets), sets.sum(1)
    n_designs = np.bincount(own_pattern, minlength=n_sets)
    N, p = int(has.sum()), table.shape[1]
    x = np.column_stack([size, sets])  # [q, f]: sums of x_ij over the seeds of a set
    c = rho[:, None] / (1.0 - rho[:, None] + size * rho[:, None])
    Q = _precision(has.sum(0), x, c * n_designs, rho, kappa)
    sums_of_set = np.bincount(own_pattern, sums, n_sets)
    moments = (np.append(y.sum(), y.sum(0)) - (c * sums_of_set) @ x) / (1.0 - rho)[:, None]
    spread = np.asarray(np.linalg.inv(Q), dtype=np.float64)
    effects = np.einsum("nfg,ng->nf", spread, moments)
    total = ((y**2).sum() - c @ np.bincount(own_pattern, sums**2, n_sets)) / (1.0 - rho)
    rest = total - np.einsum("nf,nf->n", effects, moments)
    log_weight = log_prior
    if N > 1 and np.ptp(y[has]) > 1e-12 * max(1.0, abs(centre)):
        log_v = np.log1p(-rho) * (N - n_designs.sum()) + np.log(1.0 - rho[:, None] + size * rho[:, None]) @ n_designs
        log_q = np.linalg.slogdet(Q)[1]
        log_weight = log_prior - 0.5 * (log_v + log_q + p * np.log(kappa) + (N - 1) * np.log(rest))
    else:
        rest = np.zeros_like(rest)
    weight = softmax(log_weight)
    slope = np.where(sets_apart, 1.0, size * c)
    leverage = -slope[:, :, None] * (x / size[:, None])
    leverage[:, :, 0] += 1.0
    own = np.where(sets_apart, 1.0 / size, c) * (1.0 - rho)[:, None]
    square = rest / max(N - 3, 1)
    nodes = weight, square, slope, own, leverage, effects, spread
    return _Posterior(index, sets, pattern, centre, means - centre, *nodes), rho


def _precision(n_scores: npt.NDArray[np.intp], x: Vector, c: Vector, rho: Vector, kappa: Vector) -> Vector:
    """Q of each node, [n, f, f], from the number of scores of each seed, x[q, f] and c[n, q] summed over designs."""
    crossed = np.diag(np.append(n_scores.sum(), n_scores)).astype(np.float64)  # X' X
    crossed[0, 1:] = crossed[1:, 0] = n_scores
    Q: Vector = (crossed - np.einsum("nq,qf,qg->nfg", c, x, x, optimize=True)) / (1.0 - rho)[:, None, None]
    seeds = np.arange(1, len(crossed))
    Q[:, seeds, seeds] += 1.0 / kappa[:, None]
    return Q


def _stand_apart(means: Vector) -> npt.NDArray[np.bool_]:
    """Which designs say nothing about the spread of the others, by the plain means of all."""
    median = np.median(means)
    reach = APART * np.median(abs(means - median))
    return (means < median - reach) & (reach > 0)
