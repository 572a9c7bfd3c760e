"""What the best of several is worth when the same scores chose it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from unetx_studies.spread import CONFIDENCE, Vector

N_STEPS = 1000
"""Values of the winner's truth that are tried on each side of its mean."""
N_FOLDS = 5


def zoom(means: Vector, errors: Vector, df: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of the true value of whichever mean is the highest: the zoom correction (Zrnic and Fithian, A
    Flexible Defense Against the Winner's Curse, arXiv 2411.18569, 2024), with the union bound, so for means that
    depend on each other in any way.

    With D_i what the truth of i lies below the highest truth, it holds with the confidence that no error exceeds
    max(r, D_i / 2), for the smallest such r. Then who is further than 2 r below cannot win, and the winner's error is
    at most r. A value t of the winner's truth is in the interval unless the winner's mean is further from it than the r of
    the D_i that fit the means and t best: D_i = (2 / 3) (t - mean_i), and 0 above t. One clear winner has the usual
    interval, k equal ones that of Bonferroni's correction.
    """
    best, level = int(np.argmax(means)), 1.0 - confidence
    widest = float(stdtrit(df, 1.0 - level / (2 * len(means)))) * float(errors.max())
    off = np.linspace(-widest, widest, 2 * N_STEPS + 1)
    reach = np.maximum((means[best] + off[:, None] - means) / 3, abs(off)[:, None])
    reach[:, best] = abs(off)
    probability = 2.0 * stdtr(df, -reach / np.maximum(errors, np.finfo(float).tiny)).sum(1)
    kept = off[probability >= level]
    return float(means[best] + kept.min()), float(means[best] + kept.max())


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
