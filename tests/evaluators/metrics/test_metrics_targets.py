"""Targets of a case, which of them are hit, and recall by size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_samples import boxes

from unetx_evaluators.insight import SizeRecall
from unetx_evaluators.metrics import Target, recall_by_size
from unetx_evaluators.metrics.targets import find_targets


def test_one_voxel_is_enough_to_hit_a_target() -> None:
    truth = boxes((20, 20), (1, 1), (10, 10), size=4)
    prediction = boxes((20, 20), (4, 4), (15, 15), size=1)
    assert find_targets(truth, prediction) == (Target(16, hit=True), Target(16, hit=False))


@pytest.mark.parametrize("n_axes", [2, 3])
def test_voxels_that_touch_by_a_corner_are_one_target(n_axes: int) -> None:
    truth = boxes((8,) * n_axes, (1,) * n_axes, (2,) * n_axes, (4,) * n_axes, size=1)
    nothing = np.zeros_like(truth)
    assert find_targets(truth, nothing) == (Target(2, hit=False), Target(1, hit=False))


def test_a_truth_without_the_class_has_no_targets() -> None:
    assert find_targets(np.zeros((5, 5), bool), np.ones((5, 5), bool)) == ()


def test_a_third_holds_targets_of_similar_size() -> None:
    targets = [Target(n, hit=n > 30) for n in (90, 10, 50, 20, 40, 30)]
    small, medium, large = recall_by_size(targets)
    assert small == SizeRecall("small", n_targets=2, n_hit=0, max_voxels=20)
    assert medium == SizeRecall("medium", n_targets=2, n_hit=1, max_voxels=40)
    assert large == SizeRecall("large", n_targets=2, n_hit=2, max_voxels=90)
    assert (small.recall, medium.recall, large.recall) == (0.0, 0.5, 1.0)


def test_equal_targets_share_a_third() -> None:
    targets = [Target(1, hit=True)] * 5 + [Target(7, hit=False)]
    assert [(r.n_targets, r.recall, r.max_voxels) for r in recall_by_size(targets)] == [
        (5, 1.0, 1),
        (0, None, None),
        (1, 0.0, 7),
    ]


def test_no_targets_have_no_recall() -> None:
    assert [(r.n_targets, r.recall, r.max_voxels) for r in recall_by_size([])] == [(0, None, None)] * 3


@settings(derandomize=True, deadline=None)
@given(st.lists(st.builds(Target, st.integers(1, 40), st.booleans())))
def test_thirds_part_all_targets_by_size_whatever_was_hit_and_in_whatever_order(
    targets: list[Target],
) -> None:
    recalls = recall_by_size(targets)
    assert sum(r.n_targets for r in recalls) == len(targets)
    assert sum(r.n_hit for r in recalls) == sum(t.hit for t in targets)
    assert recall_by_size(reversed(targets)) == recalls
    none_hit = recall_by_size(Target(t.n_voxels, hit=False) for t in targets)
    assert [(r.n_targets, r.max_voxels) for r in none_hit] == [(r.n_targets, r.max_voxels) for r in recalls]
    limits = [r.max_voxels for r in recalls if r.max_voxels is not None]
    assert limits == sorted(set(limits))
    if len({t.n_voxels for t in targets}) == len(targets):
        assert max(r.n_targets for r in recalls) - min(r.n_targets for r in recalls) <= 1
