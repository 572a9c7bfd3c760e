"""What can be shown, before anything is trained."""

from __future__ import annotations

import math

import numpy as np
import pytest
from narrowing import there
from scipy import stats

from unetx_studies.verdict.differences import mean_squares
from unetx_studies.verdict.power import Noise, detectable, noise, outlook, outlook_lines

FINALS = Noise(0.02, 0.0085, 0.02)


def test_without_noise_of_seeds_it_is_the_power_of_the_t_test() -> None:
    """Cohen's d of 0.5 takes 34 pairs for 80 % power at 5 % two-sided: tables of the paired t test."""
    cases = Noise(1.0, 0.0, 0.0)
    assert detectable(cases, 5, 34) < 0.5 < detectable(cases, 5, 33)


def test_the_detectable_difference_is_detected_as_often_as_it_says() -> None:
    """In 1,000 finals of five seeds and 30 cases: 80 %, with three standard errors of 1.3 % beside."""
    rng, shift = np.random.default_rng(0), detectable(FINALS, 5, 30)
    values = shift + 0.0085 * rng.standard_normal((1_000, 5, 1)) + 0.02 * rng.standard_normal((1_000, 1, 30))
    squares = mean_squares(values + 0.02 * rng.standard_normal((1_000, 5, 30)), range(30))
    variance, df = squares.variance()
    shown = squares.mean > stats.t.ppf(0.975, df) * np.sqrt(variance)
    assert np.mean(shown) == pytest.approx(0.8, abs=0.04)


def test_the_standard_error_adds_what_each_part_averages_to() -> None:
    assert Noise(2.0, 3.0, 6.0).standard_error(9, 4) == pytest.approx((4 / 4 + 9 / 9 + 36 / 36) ** 0.5)


def test_the_noise_is_measured_on_differences_of_any_designs() -> None:
    rng, names = np.random.default_rng(1), [f"p{i}" for i in range(40)]
    tables = [
        rng.normal(0, 0.02, (1, 40)) + rng.normal(0, 0.01, (20, 1)) + rng.normal(0, 0.03, (20, 40)) for _ in range(8)
    ]
    found = there(noise((table, names) for table in tables))
    assert (found.groups, found.seeds, found.rest) == pytest.approx((0.02, 0.01, 0.03), rel=0.1)
    assert noise([(tables[0], ["p"] * 40)]) is None
    assert noise([]) is None


def test_from_one_seed_the_study_s_deviation_of_seeds_stands_in() -> None:
    rng = np.random.default_rng(2)
    found = there(noise([(rng.normal(0, 0.02, (1, 400)), [f"p{i}" for i in range(400)])], seed_deviation=0.006))
    assert found.seeds == pytest.approx(0.006 * 2**0.5)
    assert found.groups == pytest.approx(0.02, rel=0.1)
    assert found.rest == pytest.approx(0.0, abs=1e-12)


def test_one_seed_or_one_case_can_show_nothing() -> None:
    assert detectable(FINALS, 1, 30) == detectable(FINALS, 5, 1) == math.inf
    assert outlook_lines(outlook(FINALS, 1, 1, 0.005), 1, 1) == [
        "One seed and one case can show no difference: nothing says how far another would be from it."
    ]
    assert outlook_lines(outlook(FINALS, 3, 1, 0.005), 3, 1, "patients")[0].startswith("One patient can show")


def test_what_would_show_a_smaller_difference_is_the_least_that_does() -> None:
    quiet = Noise(0.005, 0.004, 0.005)
    found = outlook(quiet, 3, 20, 0.005)
    assert found.detectable > 0.005
    assert found.seeds_needed is not None
    assert detectable(quiet, found.seeds_needed, 20) <= 0.005 < detectable(quiet, found.seeds_needed - 1, 20)
    assert outlook_lines(found, 3, 20)[1] == f"A difference of 0.0050 would take {found.seeds_needed} seeds."


def test_where_no_number_of_seeds_or_cases_is_enough_that_is_said() -> None:
    lines = outlook_lines(outlook(FINALS, 5, 30, 0.005), 5, 30)
    assert lines[0].startswith("5 seeds and 30 cases can show a difference of 0.01")
    assert "more of both" in lines[1]
    assert len(outlook_lines(outlook(FINALS, 5, 30, 0.05), 5, 30)) == 1
    assert detectable(Noise(0.0, 0.0, 0.0), 2, 2) == 0.0
