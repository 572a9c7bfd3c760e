"""Shrunken estimates: against the dense formulas, at the edges, and on planted truths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from unetx_studies.shrinkage import DEFAULT_RELIABILITY, Shrinkage, _grid, shrinkage
from unetx_studies.spread import Scored


def shrunken(scores: Sequence[tuple[str, int, float]]) -> Shrinkage:
    found = shrinkage(Scored(*one) for one in scores)
    assert found is not None
    return found


def test_the_posterior_is_that_of_the_dense_mixed_model() -> None:
    """V = rho Z Z' + kappa B B' + (1 - rho) I in units of s^2: generalised least squares and restricted likelihood as
    Searle, Casella and McCulloch (1992, sections 6.6 and 7.4) write them, summed over the grid."""
    rng = np.random.default_rng(3)
    rows = [(i, j, rng.normal(0.8, 0.01)) for i in range(7) for j in range(3) if j == 0 or rng.random() < 0.5]
    found = shrunken([(f"d{i}", j, score) for i, j, score in rows])
    y = np.array([score for _, _, score in rows])
    Z, B = (
        np.array([[row[axis] == level for level in range(n)] for row in rows], float) for axis, n in ((0, 7), (1, 3))
    )
    N, one = len(y), np.ones(len(y))
    weights, means, covariances = [], [], []
    for rho, kappa, log_prior in zip(*_grid(), strict=True):
        inverse = np.linalg.inv(rho * Z @ Z.T + kappa * B @ B.T + (1 - rho) * np.eye(N))
        information = one @ inverse @ one
        mu = one @ inverse @ y / information
        square = (y - mu) @ inverse @ (y - mu)
        weights.append(
            log_prior + 0.5 * np.linalg.slogdet(inverse)[1] - 0.5 * np.log(information) - (N - 1) / 2 * np.log(square)
        )
        A = rho * Z.T @ inverse
        lever = 1 - A @ one
        means.append(mu + A @ (y - mu))
        known = rho * np.eye(7) - rho * A @ Z + np.outer(lever, lever) / information
        covariances.append(square / (N - 3) * known)
    weight = np.exp(np.array(weights) - max(weights))
    weight /= weight.sum()
    mean = weight @ np.array(means)
    apart = np.array(means) - mean
    covariance = np.einsum("n,nij->ij", weight, np.array(covariances)) + np.einsum("n,ni,nj->ij", weight, apart, apart)

    names = [f"d{i}" for i in range(7)]
    np.testing.assert_allclose([found[name].mean for name in names], mean, rtol=1e-12)
    errors = [found[name].standard_error for name in names]
    np.testing.assert_allclose(errors, np.sqrt(np.diag(covariance)), rtol=1e-9)
    for i, j in ((0, 1), (1, 0), (2, 6), (5, 3)):
        error = (covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]) ** 0.5
        assert found.difference(f"d{i}", f"d{j}") == pytest.approx((mean[i] - mean[j], error))


def test_where_nothing_is_repeated_the_stated_reliability_pulls_every_score_to_the_mean() -> None:
    scores = [("a", 0, 0.80), ("b", 0, 0.82), ("c", 0, 0.84)]
    found = shrunken(scores)
    assert found.reliability == pytest.approx(DEFAULT_RELIABILITY, abs=1e-3)
    assert [one.design for one in found.estimates] == ["c", "b", "a"]
    assert [one.mean for one in found.estimates] == pytest.approx([0.828, 0.82, 0.812], abs=1e-4)
    assert [one.raw for one in found.estimates] == pytest.approx([0.84, 0.82, 0.80])


def test_nothing_one_design_and_equal_scores_have_an_answer() -> None:
    assert shrinkage([]) is None
    alone = shrunken([("a", 4, 0.7)])["a"]
    assert (alone.mean, alone.standard_error, alone.raw, alone.seeds) == (0.7, 0.0, 0.7, (4,))
    equal = shrunken([("a", 0, 0.7), ("b", 0, 0.7), ("b", 1, 0.7)])
    assert {(one.mean, one.standard_error) for one in equal.estimates} == {(0.7, 0.0)}
    pair = shrunken([("a", 0, 0.7), ("a", 1, 0.8)])["a"]
    assert pair.mean == pytest.approx(0.75)
    assert pair.standard_error > 0


def test_one_seed_twice_is_one_evaluation_and_the_first_counts() -> None:
    twice = shrunken([("a", 0, 0.7), ("b", 0, 0.8), ("a", 0, 0.9)])
    assert twice.estimates == shrunken([("a", 0, 0.7), ("b", 0, 0.8)]).estimates
    with pytest.raises(KeyError):
        twice["c"]


def test_what_a_seed_gives_to_all_designs_is_taken_out() -> None:
    """The second seed is worth 0.1 more for all. Only "low" and "high" have it, and do not gain by it."""
    rng = np.random.default_rng(0)
    truth = dict(zip((f"d{i}" for i in range(40)), rng.normal(0.0, 0.01, 40), strict=True)) | {
        "low": -0.02,
        "high": 0.02,
    }
    first = [(name, 0, value + rng.normal(0, 0.002)) for name, value in truth.items()]
    more = [(name, seed, truth[name] + 0.1 + rng.normal(0, 0.002)) for name in ("low", "high") for seed in (1,)]
    found = shrunken([*first, *more])
    names = [one.design for one in found.estimates]
    assert found["low"].raw > max(found[name].raw for name in names if name not in ("low", "high"))
    assert names.index("low") > 35
    for name in ("high", "d0"):
        lead, error = found.difference(name, "low")
        assert lead == pytest.approx(truth[name] + 0.02, abs=3 * error)
        assert error < 0.005


def test_a_design_far_below_is_not_shrunken_and_tells_nothing_of_the_others() -> None:
    rng = np.random.default_rng(1)
    others = [(f"d{i}", 0, value) for i, value in enumerate(rng.normal(0.8, 0.005, 30))]
    alone, beside = shrunken(others), shrunken([*others, ("no-skip", 0, 0.4)])
    assert beside["no-skip"].mean == pytest.approx(0.4, abs=0.002)
    assert [one.mean for one in beside.estimates[:-1]] == pytest.approx([one.mean for one in alone.estimates], abs=1e-4)


def test_the_cheapest_is_as_good_with_the_probability_asked_for() -> None:
    rng = np.random.default_rng(2)
    truth = {"u-net": 0.8, "cheap": 0.799, "cheaper": 0.79, "cheapest": 0.77, "dear": 0.81}
    found = shrunken([(name, seed, value + rng.normal(0, 0.002)) for name, value in truth.items() for seed in range(8)])
    costs = {"u-net": 1.0, "cheap": 0.9, "cheaper": 0.8, "cheapest": 0.7, "dear": 2.0}
    assert found.cheapest(costs, "u-net", 0.005) == "cheap"
    assert found.cheapest(costs, "u-net", 0.02) == "cheaper"
    assert found.cheapest(costs, "u-net", 0.0, probability=0.999) is None


@pytest.mark.parametrize("design_sd", [0.0, 0.005], ids=["equal designs", "designs differ"])
def test_the_best_of_many_is_neither_overstated_nor_left_by_its_interval(design_sd: float) -> None:
    """150 studies of 100 designs, of which halving repeats some: 15 once, 8 twice, 4 four times, 2 eight times.
    The mean error is within a tenth of the seeds' deviation, and two of its own standard errors; 95 % intervals hold in
    at least 90 %, which they fail to in one of 200 such tests; the plain mean of its scores is too high by more."""
    rng = np.random.default_rng(4)
    errors, plain, covered = [], [], []
    for _ in range(150):
        truth = design_sd * rng.standard_normal(100)
        noise = 0.006 * rng.standard_normal((100, 16))
        scores = [(f"{i}", 0, truth[i] + noise[i, 0]) for i in range(100)]
        for n_designs, first in ((15, 1), (8, 2), (4, 4), (2, 8)):
            best = [int(one.design) for one in shrunken(scores).estimates[:n_designs]]
            scores += [(f"{i}", seed, truth[i] + noise[i, seed]) for i in best for seed in range(first, 2 * first)]
        found = shrunken(scores).estimates[0]
        errors.append((found.mean - truth[int(found.design)]) / 0.006)
        plain.append((found.raw - truth[int(found.design)]) / 0.006)
        covered.append(abs(errors[-1]) * 0.006 <= 1.96 * found.standard_error)
    assert abs(np.mean(errors)) <= 0.1 + 2 * np.std(errors) / 150**0.5
    assert np.mean(covered) >= 0.9
    assert np.mean(plain) > 0.15


def test_ten_thousand_scores_are_no_burden() -> None:
    """The work grows with the number of distinct sets of seeds, not with designs: their number decides the arrays."""
    scores = [(f"d{i}", seed, 0.8 + 1e-6 * (i * 7919 % 1009 + seed)) for i in range(5_000) for seed in range(1 + i % 2)]
    found = shrunken(scores)
    assert len(found.estimates) == 5_000
    assert len(found._posterior.sets) == 2
