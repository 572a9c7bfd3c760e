"""What an evaluation tells beside its score, and how well a network stands changed images."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from observers import Recorder, without_clocks
from tiny_task import TINY_BUDGET, tiny_architecture, write_tiny_task

from unetx_evaluators.evaluation import NullObserver, Outcome
from unetx_evaluators.insight import Insight
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.robustness import BLUR_VOXELS, CHANGES, NOISE_DEVIATIONS, blurred, gamma, noisy
from unetx_evaluators.tasks.task import Image, Task
from unetx_space.cost import cost


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return write_tiny_task(tmp_path)


def image(*shape: int) -> Image:
    return np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)


def test_an_evaluation_tells_of_its_network_its_training_and_its_skips(task: Task) -> None:
    architecture = tiny_architecture(task)
    told = ProxyEvaluator().evaluate(architecture, task, TINY_BUDGET, 0, NullObserver()).insight
    assert told.zero_cost is not None
    assert told.zero_cost.macs == cost(architecture, task.patch).macs
    assert list(told.gradients) == [1, 3]
    for stages in told.gradients.values():
        assert [one.stage for one in stages] == ["E0", "E1", "E2", "D1", "D0", "head"]
        assert all(one.norm is not None and one.norm > 0 for one in stages)
    assert [(one.node, one.source) for one in told.similarities] == [("D1", "E1"), ("D0", "E0")]
    assert list(told.recalls) == list(told.n_missed) == ["bright", "dark"]
    assert told.robustness == {}
    assert json.loads(json.dumps(told.to_json()))["gradients"]["3"][0]["stage"] == "E0"


def test_the_last_rung_has_every_score_per_case_and_class(task: Task) -> None:
    longer = replace(TINY_BUDGET, steps=80, rungs=(40, 80))
    scores = ProxyEvaluator().evaluate(tiny_architecture(task), task, longer, 0, NullObserver()).case_scores
    assert [(score.case, score.class_name) for score in scores] == [
        (case, name) for case in task.splits.validation[:2] for name in ("bright", "dark")
    ]
    for score in scores:
        assert score.hd95_mm is not None
        assert score.hd95_mm >= 0
        assert score.nsd is not None
        assert score.boundary_iou is not None
        assert 0 <= score.nsd <= 1
        assert 0 <= score.boundary_iou <= 1


def test_insight_can_be_switched_off_and_changes_no_score(task: Task) -> None:
    asked = (tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    told = ProxyEvaluator(robustness=True).evaluate(*asked)
    silent = ProxyEvaluator().evaluate(*asked, diagnosed_above=math.inf)
    assert (silent.insight.zero_cost, silent.insight.gradients, silent.insight.similarities) == (None, {}, ())
    assert without_clocks(replace(silent, insight=told.insight)) == without_clocks(told)


def test_a_score_above_the_given_one_is_diagnosed_as_it_would_have_been_from_the_start(task: Task) -> None:
    asked = (tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    told = ProxyEvaluator().evaluate(*asked)
    assert told.score is not None
    above = ProxyEvaluator().evaluate(*asked, diagnosed_above=told.score - 1e-6)
    assert without_clocks(above) == without_clocks(told)
    equal = ProxyEvaluator().evaluate(*asked, diagnosed_above=told.score).insight
    assert (equal.zero_cost, equal.similarities) == (None, ())
    assert equal.gradients == told.insight.gradients


def test_a_pruned_evaluation_tells_what_it_reached(task: Task) -> None:
    pruned = ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, Recorder(stop_at=2))
    assert pruned.outcome is Outcome.PRUNED
    assert pruned.insight.zero_cost is not None
    assert list(pruned.insight.gradients) == [1]
    assert pruned.insight == Insight(pruned.insight.zero_cost, pruned.insight.gradients)
    assert {score.hd95_mm for score in pruned.case_scores} == {None}


def test_robustness_is_scored_on_request_and_suffers_from_blur(task: Task) -> None:
    longer = replace(TINY_BUDGET, steps=80, rungs=(80,))
    told = ProxyEvaluator(robustness=True).evaluate(tiny_architecture(task), task, longer, 0, NullObserver())
    assert list(told.insight.robustness) == ["blur", "noise", "gamma"]
    assert told.score is not None
    assert told.insight.robustness["blur"] < told.score


def test_a_blur_is_a_gaussian_in_plane() -> None:
    point = np.zeros((1, 3, 15, 15), np.float32)
    point[0, 1, 7, 7] = 1
    spread = blurred(point, 2, "case")
    assert (spread[0, [0, 2]] == 0).all()
    np.testing.assert_allclose(spread.sum(), 1, rtol=1e-5)
    ratio = spread[0, 1, 7, 7] / spread[0, 1, 7, 8]
    np.testing.assert_allclose(ratio, np.exp(0.5 / BLUR_VOXELS**2), rtol=1e-4)


def test_noise_has_the_stated_strength_and_follows_the_case() -> None:
    plain = image(2, 80, 80) * np.array([1, 10], np.float32)[:, None, None]
    added = noisy(plain, 2, "a") - plain
    np.testing.assert_allclose(added.std(axis=(1, 2)), NOISE_DEVIATIONS * plain.std(axis=(1, 2)), rtol=0.05)
    np.testing.assert_array_equal(noisy(plain, 2, "a"), noisy(plain, 2, "a"))
    assert (noisy(plain, 2, "a") != noisy(plain, 2, "b")).any()


def test_gamma_keeps_order_mean_and_deviation() -> None:
    plain = image(2, 12, 12)
    changed = gamma(plain, 2, "case")
    np.testing.assert_array_equal(np.argsort(plain[0], axis=None), np.argsort(changed[0], axis=None))
    np.testing.assert_allclose(changed.mean(axis=(1, 2)), plain.mean(axis=(1, 2)), rtol=1e-4)
    np.testing.assert_allclose(changed.std(axis=(1, 2)), plain.std(axis=(1, 2)), rtol=1e-4)
    assert np.abs(changed - plain).max() > 0.1


@pytest.mark.parametrize("name", CHANGES)
def test_a_constant_image_stays_finite_and_no_change_touches_its_input(name: str) -> None:
    flat, plain = np.zeros((1, 6, 6), np.float32), image(1, 6, 6)
    before = plain.copy()
    assert np.isfinite(CHANGES[name](flat, 2, "case")).all()
    assert CHANGES[name](plain, 2, "case").dtype == np.float32
    np.testing.assert_array_equal(plain, before)
