"""How far seeds move scores: by hand and by published tables."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from narrowing import there

from unetx_studies.spread import Scored, seed_spread


def scores(*designs: Sequence[float]) -> list[Scored]:
    """A design for each sequence, whose seeds count from 0."""
    return [Scored(f"d{i}", seed, score) for i, own in enumerate(designs) for seed, score in enumerate(own)]


UNEQUAL = scores((1, 3), (5,), (6, 8, 10))
"""Sums of squares within: 2 + 0 + 8, on 3 degrees of freedom."""


def test_seeds_are_pooled_within_designs_with_a_chi_square_interval() -> None:
    found = there(seed_spread(UNEQUAL))
    assert found.degrees_of_freedom == 3
    assert found.deviation == pytest.approx((10 / 3) ** 0.5)
    # Quantiles of chi-square with 3 degrees of freedom, as printed tables have them: 9.348 and 0.216.
    assert (found.low, found.high) == pytest.approx(((10 / 9.348) ** 0.5, (10 / 0.2158) ** 0.5), rel=1e-3)


@pytest.mark.parametrize(("n_seeds", "below", "above", "is_vague"), [(2, 0.446, 31.9, True), (4, 0.566, 3.73, False)])
def test_few_repeats_leave_the_seeds_nearly_unknown(n_seeds: int, below: float, above: float, is_vague: bool) -> None:
    """Quantiles of chi-square: 5.024 and 0.000982 with 1, 9.348 and 0.2158 with 3 degrees of freedom."""
    found = there(seed_spread(scores(range(n_seeds))))
    assert (found.low / found.deviation, found.high / found.deviation) == pytest.approx((below, above), rel=2e-3)
    assert found.is_vague is is_vague


def test_without_a_second_seed_nothing_is_known() -> None:
    assert seed_spread(scores((1,), (2,), (4,))) is None


def test_the_same_seed_twice_is_one_evaluation() -> None:
    assert seed_spread([Scored("a", 0, 1.0), Scored("a", 0, 1.0)]) is None
