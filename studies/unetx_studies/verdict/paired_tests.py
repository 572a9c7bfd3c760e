"""Tests of paired differences without a model of the noise: of their signs, and of their ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from unetx_studies.spread import Vector

N_RESAMPLES = 9_999


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
    """The two-sided p-value of "the differences are as likely of either sign", for their mean.

    It takes all 2^n signs where they are at most 9,999, else as many random ones (Fisher, The Design of Experiments,
    1935, chapter 3).
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or not values.any():
        return 1.0
    found = stats.permutation_test(
        (values,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=N_RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def smallest_p(n: int) -> float:
    """The smallest two-sided p-value that n signs or ranks can give: 0.25 with 3, 0.0625 with 5, 0.031 with 6."""
    return min(1.0, 2.0 ** (1 - n))


def signed_rank(differences: Sequence[float]) -> float:
    """Wilcoxon's two-sided p-value (Biometrics Bulletin 1(6), 80-83, 1945): exact for few differences without ties."""
    values = np.asarray(differences, dtype=np.float64)
    return float(stats.wilcoxon(values).pvalue) if len(values) > 1 and values.any() else 1.0


def holm(p_values: Sequence[float]) -> Vector:
    """The p-values that hold for all tests together (Holm, Scandinavian Journal of Statistics 6(2), 65-70, 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))))
    return adjusted
