"""Agreement of cheap scores with expensive ones: SciPy's numbers, right where the truth is known, and its ceiling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import f, kendalltau, spearmanr

from unetx_studies.proxy_agreement import (
    TOP,
    agreement,
    bootstrap_draws,
    ceiling,
    excess_regret,
    rank_correlations,
    reliability,
)
from unetx_studies.spread import Vector

N_DESIGNS = 12


def scores(truth: Vector, noise: float, n_seeds: int, seed: int) -> Vector:
    """``[designs, seeds]``, with what a seed gives to all designs alike on top."""
    rng = np.random.default_rng(seed)
    own = noise * rng.normal(size=(len(truth), n_seeds))
    return truth[:, None] + own + 0.05 * rng.normal(size=n_seeds)


@pytest.fixture
def truth() -> Vector:
    values: Vector = np.random.default_rng(0).normal(0.8, 0.01, N_DESIGNS)
    return values


@pytest.mark.parametrize("n_values", [3, 100])
def test_rank_correlations_are_scipys_with_ties_and_without(n_values: int) -> None:
    rng = np.random.default_rng(n_values)
    x, y = rng.integers(0, n_values, (2, 15)).astype(float)
    draws = np.vstack([np.arange(15), bootstrap_draws(15, 20, seed=1)])
    rho, tau = rank_correlations(x, y, draws)
    for of, found in zip(draws, zip(rho, tau, strict=True), strict=True):
        assert found[0] == pytest.approx(spearmanr(x[of], y[of]).statistic)
        assert found[1] == pytest.approx(kendalltau(x[of], y[of]).statistic)


def test_a_proxy_that_is_the_truth_agrees_wholly_and_loses_nothing(truth: Vector) -> None:
    found = agreement(scores(truth, 0.0, 2, 1), scores(truth, 0.0, 2, 2), truth)
    for one in (found.spearman, found.kendall, found.recall):
        assert one == pytest.approx((1.0, 1.0, 1.0))
    assert found.regret == (0.0, 0.0, 0.0)
    turned = agreement(-scores(truth, 0.0, 1, 1), scores(truth, 0.0, 2, 2), truth)
    assert turned.kendall.value == pytest.approx(-1.0)
    assert turned.recall.value == 0.0
    assert turned.regret.value == pytest.approx(truth.max() - truth.min())


def test_pure_noise_agrees_with_nothing_and_its_intervals_say_so() -> None:
    """Over many data sets: on average 0 (recall 3 of 12), and 0 in 95 % of intervals, of which percentiles of twelve
    resampled designs keep a few less."""
    rng, inside, values, recalls = np.random.default_rng(3), 0, [], []
    for seed in range(200):
        truth: Vector = rng.normal(0.8, 0.01, N_DESIGNS)
        noise = rng.normal(size=(N_DESIGNS, 1))
        found = agreement(noise, truth[:, None], truth, bootstrap_draws(N_DESIGNS, 300, seed))
        inside += found.kendall.low <= 0.0 <= found.kendall.high
        values.append(found.kendall.value)
        recalls.append(found.recall.value)
    assert abs(np.mean(values)) < 0.05
    assert np.mean(recalls) == pytest.approx(TOP / N_DESIGNS, abs=0.05)
    assert 0.9 <= inside / 200 <= 0.99


def test_one_seed_is_averaged_over_the_seeds_and_their_mean_is_a_proxy_of_its_own(truth: Vector) -> None:
    proxy, reference = scores(truth, 0.01, 3, 4), scores(truth, 0.005, 2, 5)
    apart = [agreement(proxy[:, [seed]], reference, truth) for seed in range(3)]
    found = agreement(proxy, reference, truth)
    assert found.spearman.value == pytest.approx(np.mean([one.spearman.value for one in apart]))
    assert found.regret.value == pytest.approx(np.mean([one.regret.value for one in apart]))
    assert agreement(proxy.mean(1, keepdims=True), reference, truth).spearman.value > found.spearman.value


def test_scores_that_are_all_equal_have_no_correlation(truth: Vector) -> None:
    found = agreement(np.full((N_DESIGNS, 1), 0.5), truth[:, None], truth)
    assert all(math.isnan(number) for number in (*found.spearman, *found.kendall))
    assert found.regret.value == pytest.approx(truth.max() - truth[0])


def test_the_excess_of_a_regret_is_the_difference_of_two(truth: Vector) -> None:
    noisy, exact = scores(truth, 0.1, 2, 6), truth[:, None]
    found = excess_regret(noisy, exact, truth)
    assert found.value == pytest.approx(agreement(noisy, exact, truth).regret.value)
    assert excess_regret(exact, exact, truth) == (0.0, 0.0, 0.0)


def test_reliability_is_that_of_a_mean_and_its_interval_that_of_the_f_distribution() -> None:
    """Shrout and Fleiss 1979, table 2: six targets by four judges have ICC(3,4) = 0.91."""
    table = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)
    found = reliability(table)
    assert found.value == pytest.approx(0.909, abs=5e-4)
    ratio = 1.0 / (1.0 - found.value)
    assert found.low == pytest.approx(1.0 - f.ppf(0.975, 5, 15) / ratio)
    assert found.high == pytest.approx(1.0 - f.ppf(0.025, 5, 15) / ratio)


def test_the_interval_of_reliability_holds_the_true_one(truth: Vector) -> None:
    """Of two seeds whose noise is as large as what designs differ by: 2 * 0.5 / (1 + 0.5) = 0.667."""
    rng, inside = np.random.default_rng(7), 0
    for seed in range(400):
        found = reliability(scores(rng.normal(0.8, 0.01, N_DESIGNS), 0.01, 2, seed))
        inside += found.low <= 2 / 3 <= found.high
    assert 0.93 <= inside / 400 <= 0.97


def test_the_ceiling_is_what_the_truth_itself_would_reach() -> None:
    """Noise as large as what designs differ by, mean of two seeds: the truth correlates with it as sqrt(2/3) = 0.816,
    which in Spearman's terms is 6/pi asin(0.816 / 2) = 0.803, in Kendall's 0.608."""
    found, reached = [], []
    for seed in range(20):
        truth: Vector = np.random.default_rng(seed).normal(0.8, 0.01, 100)
        reference = scores(truth, 0.01, 2, 100 + seed)
        reached.append(rank_correlations(truth, reference.mean(1), np.arange(100)[None])[:, 0])
        told = ceiling(reference)
        assert told.spearman.low < told.spearman.value < told.spearman.high
        found.append((told.spearman.value, told.kendall.value))
    expected = [scale / math.pi * math.asin(math.sqrt(2 / 3) / half) for scale, half in ((6, 2), (2, 1))]
    assert np.mean(found, axis=0) == pytest.approx(expected, abs=0.02)
    assert np.mean(reached, axis=0) == pytest.approx(expected, abs=0.02)


def test_one_seed_of_the_reference_tells_no_ceiling(truth: Vector) -> None:
    assert all(math.isnan(number) for number in (*ceiling(truth[:, None]).spearman, *ceiling(truth[:, None]).kendall))


def test_a_design_far_from_the_others_does_not_lift_the_ceiling() -> None:
    truth: Vector = np.random.default_rng(10).normal(0.8, 0.01, N_DESIGNS)
    reference = scores(truth, 0.01, 2, 11)
    outlying = reference.copy()
    lowest = int(reference.mean(1).argmin())
    outlying[lowest] -= 0.5
    assert reliability(outlying).value > 0.99
    assert ceiling(outlying).spearman.value < 0.97
