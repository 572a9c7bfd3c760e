"""What scores can tell apart: by hand, by published tables, and by simulation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from unetx_studies.spread import (
    Scored,
    SeedSpread,
    design_deviation,
    lead_of_best,
    lead_of_two,
    reliability,
    seed_spread,
)


def scores(*designs: Sequence[float]) -> list[Scored]:
    """A design for each sequence, whose seeds count from 0."""
    return [Scored(f"d{i}", seed, score) for i, own in enumerate(designs) for seed, score in enumerate(own)]


UNEQUAL = scores((1, 3), (5,), (6, 8, 10))
"""Sums of squares within: 2 + 0 + 8, on 3 degrees of freedom. Means 2, 5, 8 and 5.5 of all; between:
2 * 3.5^2 + 0.5^2 + 3 * 2.5^2 = 43.5, on 2; n_0 = (6 - 14 / 6) / 2 = 11 / 6."""

SHROUT_AND_FLEISS = scores((9, 2, 5, 8), (6, 1, 3, 2), (8, 4, 6, 8), (7, 1, 2, 6), (10, 5, 6, 9), (6, 2, 4, 7))
"""Their table 2, read as six designs with four seeds each."""


def unit(df: int) -> SeedSpread:
    return SeedSpread(1.0, df, 0.0, 0.0)


def test_seeds_are_pooled_within_designs_with_a_chi_square_interval() -> None:
    found = seed_spread(UNEQUAL)
    assert found is not None
    assert found.degrees_of_freedom == 3
    assert found.deviation == pytest.approx((10 / 3) ** 0.5)
    # Quantiles of chi-square with 3 degrees of freedom, as printed tables have them: 9.348 and 0.216.
    assert (found.low, found.high) == pytest.approx(((10 / 9.348) ** 0.5, (10 / 0.2158) ** 0.5), rel=1e-3)


@pytest.mark.parametrize(("n_seeds", "below", "above", "is_vague"), [(2, 0.446, 31.9, True), (4, 0.566, 3.73, False)])
def test_few_repeats_leave_the_seeds_nearly_unknown(n_seeds: int, below: float, above: float, is_vague: bool) -> None:
    """Quantiles of chi-square: 5.024 and 0.000982 with 1, 9.348 and 0.2158 with 3 degrees of freedom."""
    found = seed_spread(scores(range(n_seeds)))
    assert found is not None
    assert (found.low / found.deviation, found.high / found.deviation) == pytest.approx((below, above), rel=2e-3)
    assert found.is_vague is is_vague


def test_without_a_second_seed_nothing_is_known() -> None:
    single = scores((1,), (2,), (4,))
    assert (seed_spread(single), design_deviation(single), reliability(single)) == (None, None, None)
    assert design_deviation(scores((1, 2))) is None, "nor are designs, where there is one"


def test_the_same_seed_twice_is_one_evaluation() -> None:
    assert seed_spread([Scored("a", 0, 1.0), Scored("a", 0, 1.0)]) is None


def test_designs_are_estimated_by_the_method_of_moments_from_groups_of_any_size() -> None:
    assert design_deviation(UNEQUAL) == pytest.approx(((43.5 / 2 - 10 / 3) / (11 / 6)) ** 0.5)


def test_designs_closer_than_their_seeds_differ_by_nothing() -> None:
    close = scores((0, 4), (1, 3))
    assert design_deviation(close) == 0.0
    found = reliability(close)
    assert found is not None
    assert (found.share, found.low) == (0.0, 0.0)


def test_reliability_is_the_published_one_with_its_published_interval() -> None:
    """Shrout and Fleiss 1979: ICC(1, 1) is 0.17, from -0.13, which is none, to 0.72."""
    found = reliability(SHROUT_AND_FLEISS)
    assert found is not None
    assert (found.share, found.low, found.high) == pytest.approx((0.17, 0.0, 0.72), abs=0.005)


def test_for_groups_of_one_size_the_interval_is_the_textbooks() -> None:
    """(F / F_quantile - 1) / (F / F_quantile + n - 1), as in Shrout and Fleiss 1979."""
    table = np.random.default_rng(0).normal(size=(9, 3)) + 2 * np.random.default_rng(1).normal(size=(9, 1))
    found = reliability(scores(*table))
    ratio = 3 * table.mean(1).var(ddof=1) / table.var(1, ddof=1).mean()
    expected = [(ratio / q - 1) / (ratio / q + 2) for q in stats.f.ppf((0.975, 0.025), 8, 18)]
    assert found is not None
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-6)


def test_the_interval_of_reliability_covers_as_it_says_with_one_pair_and_with_unequal_groups() -> None:
    rng = np.random.default_rng(0)
    for sizes in ((2, 1, 1, 1, 1, 1), (4, 2, 1, 3, 1)):
        hits, n_draws = 0, 300
        for _ in range(n_draws):
            found = reliability(scores(*((rng.normal() + 0.8 * rng.normal(size=n)).tolist() for n in sizes)))
            assert found is not None
            hits += found.low <= 1 / (1 + 0.8**2) <= found.high
        # Three standard errors of a share of 0.95 in 300 draws are 0.038.
        assert hits / n_draws == pytest.approx(0.95, abs=0.038)


def test_two_designs_need_students_quantile_and_with_many_repeats_the_repeatability_limit() -> None:
    assert lead_of_two(unit(5)) == pytest.approx(2.571 * 2**0.5, rel=1e-3)  # t of 97.5 % with 5 degrees of freedom
    assert lead_of_two(unit(100_000)) == pytest.approx(2.77, abs=0.005)  # ISO 5725-6 rounds to 2.8


@pytest.mark.parametrize(
    ("df", "n_designs", "value"),
    [
        (1, 1, 6.314),  # Student's t
        (5, 2, 2.44), (5, 9, 3.30), (5, 20, 3.72), (10, 9, 2.81), (30, 15, 2.70), (120, 20, 2.68),
        (10**6, 4, 2.16), (10**6, 20, 2.64),
    ],
)  # fmt: skip
def test_the_best_of_several_needs_dunnetts_critical_value(df: int, n_designs: int, value: float) -> None:
    """Table 1a of Dunnett 1955, one-sided at 95 %, of differences in units of sqrt(2) s; rounded to two digits."""
    assert lead_of_best(unit(df), n_designs) / 2**0.5 == pytest.approx(value, abs=0.006)


@pytest.mark.parametrize("n_designs", [1, 10, 50])
def test_equal_designs_lead_by_more_in_one_search_of_twenty(n_designs: int) -> None:
    """As a search does it: the reference is one of the only pair from which the seeds are estimated."""
    rng, n_searches = np.random.default_rng(n_designs), 100_000
    best = rng.standard_normal((n_searches, n_designs)).max(1)
    reference, again = rng.standard_normal((2, n_searches))
    deviation = np.abs(reference - again) / 2**0.5
    share = (best - reference > lead_of_best(unit(1), n_designs) * deviation).mean()
    assert 0.042 < share < 0.053


def test_with_four_independent_repeats_the_share_is_exact() -> None:
    rng, n_searches = np.random.default_rng(0), 100_000
    lead = rng.standard_normal((n_searches, 12)).max(1) - rng.standard_normal(n_searches)
    deviation = np.sqrt(rng.chisquare(4, n_searches) / 4)
    # Three standard errors of a share of 0.05 in 100,000 searches are 0.0021.
    assert (lead > lead_of_best(unit(4), 12) * deviation).mean() == pytest.approx(0.05, abs=0.0021)


def test_the_best_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 design, got 0"):
        lead_of_best(unit(3), 0)
