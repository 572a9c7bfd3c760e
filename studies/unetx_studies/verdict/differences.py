"""The mean difference of two designs over seeds and cases, and how far it may be from the truth.

Scores are a table of seeds by cases for each design; cases come in groups, as several of one patient do. A difference
is taken case by case and seed by seed: seeds are crossed with designs, as one seed gives all designs the batches and
the initial values of what they share. Pairing by seed is right also where that makes nothing alike, and costs degrees
of freedom only; seeds taken as nested would be wrong where it does. Of the differences::

    d_sg = delta + u_g + v_s + w_sg        seed s, group g

all three parts count, as the question is about other patients and other trainings. The interval is that of the mean of
a two-way layout with random effects, with Satterthwaite's degrees of freedom (Biometrics Bulletin 2(6), 110-114, 1946;
Searle, Casella and McCulloch, Variance Components, Wiley 1992, chapter 4). In ``benchmarks/verdict.py`` it holds the
truth in 94 to 96 % of studies. The two-way ("pigeonhole") bootstrap of seeds and groups (Owen, Annals of Applied
Statistics 1(2), 386-411, 2007) takes too little from three or five seeds: 84 to 95 % by percentiles, 92 to 95 %
studentised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from unetx_studies.spread import CONFIDENCE, Vector


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of a few designs on the same seeds and cases."""

    designs: tuple[str, ...]
    seeds: tuple[int, ...]
    groups: tuple[str, ...]
    """The group of each case; all different where every case is of another patient."""
    values: Vector
    """[design, seed, case]; NaN where there is no score."""

    def __post_init__(self) -> None:
        expected = (len(self.designs), len(self.seeds), len(self.groups))
        if self.values.shape != expected:
            raise ValueError(
                f"scores are a table of designs, seeds and cases: {expected} expected, got {self.values.shape}"
            )

    def mean(self, design: str) -> float:
        """The mean score of a design over all its seeds and cases."""
        return float(np.nanmean(self.values[self.designs.index(design)]))

    def paired(self, design: str, other: str) -> tuple[Vector, list[str]]:
        """The differences of two designs, [seed, case] on the seeds and cases that both have, and the cases' groups."""
        first, second = (self.values[self.designs.index(name)] for name in (design, other))
        values = first - second
        values = values[~np.isnan(values).all(axis=1)]
        has_all = ~np.isnan(values).any(axis=0) if len(values) else np.zeros(values.shape[1], bool)
        groups = [group for group, has in zip(self.groups, has_all, strict=True) if has]
        return values[:, has_all], groups

    def difference(self, design: str, other: str) -> Difference:
        """How far the first design is above the other, on the seeds and cases that both have."""
        return difference(*self.paired(design, other))


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference with its standard error and degrees of freedom, as for Student's t."""

    mean: float
    standard_error: float | None
    """The standard error; None where one seed and one group of cases, or none, tell nothing of the noise."""
    degrees_of_freedom: float
    n_seeds: int
    n_groups: int
    n_cases: int
    by_group: tuple[float, ...]
    """The mean of each group, over all seeds."""
    by_seed: tuple[float, ...]
    """The mean of each seed, over all cases."""

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """The bounds of the two-sided interval; infinite where the noise is unknown."""
        if self.standard_error is None:
            return -np.inf, np.inf
        reach = float(stdtrit(self.degrees_of_freedom, (1.0 + confidence) / 2)) * self.standard_error
        return self.mean - reach, self.mean + reach

    def probability_above(self, bound: float) -> float | None:
        """The probability that the true difference is above the bound; None where the noise is unknown.

        It is one minus the one-sided p-value of "not above the bound", and the posterior probability under the prior
        that is flat in the difference and in the logarithms of the variances.
        """
        if self.standard_error is None:
            return None
        if self.standard_error == 0.0:
            return float(self.mean > bound) if self.mean != bound else 0.5
        return float(stdtr(self.degrees_of_freedom, (self.mean - bound) / self.standard_error))

    @property
    def p_value(self) -> float:
        """The two-sided p-value of "no difference"; 1 where the noise is unknown."""
        above = self.probability_above(0.0)
        return 1.0 if above is None else 2.0 * min(above, 1.0 - above)


@dataclass(frozen=True, slots=True)
class MeanSquares:
    """The mean squares of the two-way layout of seeds and groups, of any number of tables at once."""

    mean: Vector
    seeds: Vector
    """Mean square of the seeds; like the other two it is 0 for what has one level only."""
    groups: Vector
    """Mean square of the groups."""
    rest: Vector
    """Mean square of what neither seeds nor groups explain."""
    n_seeds: int
    n_groups: int
    df_groups: float
    """Degrees of freedom of the groups: their number less one, and fewer where few groups hold most cases."""

    def variance(self) -> tuple[Vector, Vector]:
        """The variance of the mean, and Satterthwaite's degrees of freedom.

        (seeds + groups - rest) / (S G) estimates the variance without bias. Where the rest happens to be larger than
        one of the others, the larger of them is the estimate, with its own degrees of freedom.
        """
        df_seeds, df_groups = max(self.n_seeds - 1.0, 1e-9), max(self.df_groups, 1e-9)
        total = self.seeds + self.groups - self.rest
        larger = np.maximum(self.seeds, self.groups)
        spread = self.seeds**2 / df_seeds + self.groups**2 / df_groups + self.rest**2 / (df_seeds * df_groups)
        own = np.where(self.seeds > self.groups, df_seeds, df_groups)
        with np.errstate(divide="ignore", invalid="ignore"):
            df = np.where((total > larger) & (spread > 0), total**2 / spread, own)
        return np.maximum(total, larger) / (self.n_seeds * self.n_groups), np.maximum(df, 1.0)


def mean_squares(values: Vector, groups: Sequence[object]) -> MeanSquares:
    """The mean squares of tables [..., seed, case]. Every case weighs alike, so that a group weighs by its cases.

    What a group adds to the sum of all is one observation of a seed, as in Taylor's linearisation of a ratio (Cochran,
    Sampling Techniques, Wiley 1977, chapter 6); its square is divided by one less its share of the cases (Bell and
    McCaffrey, Survey Methodology 28(2), 169-181, 2002). With groups of one size this is the usual analysis.
    """
    _, member, sizes = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    S, (G, N) = values.shape[-2], (len(sizes), len(groups))
    mean = values.mean((-2, -1))
    sums = values @ np.eye(G)[member]
    added = (sums - sizes * mean[..., None, None]) * (G / N)
    of_seed, of_group = added.mean(-1), added.mean(-2)
    rest = added - of_seed[..., :, None] - of_group[..., None, :]
    few = (1.0 - 1.0 / G) / (1.0 - sizes / N) if G > 1 else np.zeros(1)
    n_effective = N**2 / (sizes**2).sum()
    return MeanSquares(
        mean,
        G * (of_seed**2).sum(-1) / max(S - 1, 1),
        S * (of_group**2 * few).sum(-1) / max(G - 1, 1),
        (rest**2 * few).sum((-2, -1)) / max((S - 1) * (G - 1), 1),
        S,
        G,
        n_effective - 1.0,
    )


def difference(values: Vector, groups: Sequence[str]) -> Difference:
    """The mean difference, with its uncertainty, of one table of differences, [seed, case] without a hole.

    With one seed the interval is about other cases and this very training, with one group about other trainings and
    this very patient: ``conclusions.py`` says so.
    """
    S, N = values.shape
    if S == 0 or N == 0:
        return Difference(float("nan"), None, 0.0, S, 0, N, (), ())
    squares = mean_squares(values, groups)
    variance, df = squares.variance()
    names: npt.NDArray[np.str_] = np.asarray(groups, dtype=str)
    by_group = tuple(float(values[:, names == name].mean()) for name in dict.fromkeys(groups))
    known = S > 1 or squares.n_groups > 1
    return Difference(
        float(squares.mean),
        float(np.sqrt(variance)) if known else None,
        float(df),
        S,
        squares.n_groups,
        N,
        by_group,
        tuple(values.mean(1).tolist()),
    )
