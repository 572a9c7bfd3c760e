"""Tests of signs and ranks: closed forms, and SciPy's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from unetx_studies.verdict.paired_tests import holm, sign_flip, signed_rank, smallest_p


def test_sign_flips_are_all_counted_where_they_are_few() -> None:
    values = np.random.default_rng(0).normal(0.5, 1.0, 9)
    means = [abs(np.mean(values * signs)) for signs in itertools.product((1, -1), repeat=9)]
    expected = np.mean(np.array(means) >= abs(values.mean()) - 1e-12)
    assert sign_flip(values.tolist()) == pytest.approx(expected)


def test_many_sign_flips_are_drawn_and_the_same_again() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, 40).tolist()
    assert sign_flip(values) == sign_flip(values)
    assert sign_flip(values) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=0.02)


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_few_signs_never_come_to_5_percent(n: int, p: float) -> None:
    assert smallest_p(n) == p
    assert sign_flip([0.1 + 0.01 * i for i in range(n)]) == p
    assert signed_rank([0.1 + 0.01 * i for i in range(n)]) == p


def test_no_difference_at_all_is_no_evidence() -> None:
    assert (sign_flip([0.0] * 8), signed_rank([0.0] * 8), sign_flip([]), signed_rank([])) == (1.0, 1.0, 1.0, 1.0)


def test_ranks_are_wilcoxon_s() -> None:
    """Of eight, the ranks 1 and 2 are negative. Five sets of ranks sum to at most 3: none, 1, 2, 3, and 1 with 2."""
    values = [16.0, 20, 6, 8, -3, -1, 25, 30]
    assert signed_rank(values) == pytest.approx(2 * 5 / 2**8)
    assert signed_rank(values) == stats.wilcoxon(values).pvalue


def test_holm_by_hand() -> None:
    """Sorted 0.005 0.01 0.03 0.04, times 4 3 2 1: 0.02 0.03 0.06 0.04, and none below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0
