"""What the best of several is worth when the same scores chose it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from unetx_studies.spread import Vector

N_STEPS = 1000
"""Values of the winner's truth that are tried on each side of its mean."""
N_FOLDS = 5


def zoom(means: Vector, errors: Vector, df: Vector | float, below: float, above: float) -> tuple[float, float]:
    """The interval of the true value of whichever mean is the highest, for means that may depend on each other: the
    zoom correction (Zrnic and Fithian, A Flexible Defense Against the Winner's Curse, arXiv 2411.18569, 2024) with the
    union bound, on the side where choosing errs. The truth is below it with at most the first probability, above it
    with at most the second.

    Let i lie D_i below the highest truth. If no mean is too high by more than max(r, D_i / 2), and that of the truly
    best not too low by so much, then who lies more than 2 r below does not win, and the winner is too high by r at
    most. A value t of the winner's truth is in the interval unless the mean is further above it than the smallest r
    that makes this likely enough, with the D_i that fit the means and t best: (2 / 3) (t - mean_i), and 0 above t. One
    clear winner has the usual interval, k equal ones that of Bonferroni's correction. And a winner that is too low
    means that the truly best is too low, too: no choosing errs on that side.
    """
    best, tiny = int(np.argmax(means)), np.finfo(float).tiny
    df = np.broadcast_to(np.asarray(df, dtype=np.float64), means.shape)
    upper = float((stdtrit(df, 1.0 - above) * errors).max())
    widest = float((stdtrit(df, 1.0 - below / (len(means) + 1)) * errors).max())
    off = np.linspace(0.0, widest, N_STEPS + 1)
    half = np.maximum((means[best] - off[:, None] - means) / 3, 0.0)
    half[:, best] = 0.0
    probability = stdtr(df, -np.maximum(half, off[:, None]) / np.maximum(errors, tiny)).sum(1)
    out_of_reach = np.where(half > off[:, None], half, np.inf).min(1)
    probability += stdtr(df[best], -out_of_reach / max(errors[best], tiny))
    return float(means[best] - off[probability >= below].max()), float(means[best] + upper)


def cross_fitted(differences: Vector, groups: Sequence[str]) -> float:
    """The mean of whichever design is the best, without the favour of having chosen it, of [design, seed, case].

    Each seed's scores on each fifth of the groups count for the design that is the best on all other seeds and other
    groups, so that no score is in its own choice (cross-validation; Stone, Journal of the Royal Statistical Society B
    36(2), 111-147, 1974). It has no bias for what choosing with a little less data gives, and is the plain mean where
    one design is always the best. A single seed or group stays on both sides, and its favour with it.
    """
    _, S, N = differences.shape
    _, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    fold = member % min(N_FOLDS, member.max() + 1)
    total = 0.0
    for k in range(fold.max() + 1):
        inside = fold == k
        outside = ~inside if fold.max() > 0 else inside
        sums = differences[:, :, outside].sum(-1)
        rivals = sums.sum(1, keepdims=True) - sums if S > 1 else sums
        chosen = rivals.argmax(0)
        total += differences[chosen, np.arange(S)][:, inside].sum()
    return float(total / (S * N))
