"""What is shown of a case: which slices, how many pixels, and that a prediction comes back as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unetx_evaluators.tasks.task import IGNORED, Task
from unetx_evaluators.views import MAX_SIDE, MAX_SLICES, Prediction, View, reduced, slice_axis, view_of


def volume(*filled: int, n: int = 100, value: int = 1) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """``[4, n, 5]`` with foreground on some slices of the second axis."""
    label = np.zeros((4, n, 5), np.uint8)
    label[1, list(filled), 2] = value
    return label


def test_slices_lie_evenly_over_those_with_foreground_and_a_few_beside() -> None:
    few = view_of(volume(10, 11, 12), 1)
    assert few.slices == (9, 10, 11, 12, 13)
    many = view_of(volume(*range(20, 70)), 1).slices
    assert len(many) == MAX_SLICES
    assert (many[0], many[-1]) == (20 - 7, 69 + 7), "an eighth of 49 is 6, and one more"
    assert max(np.diff(many)) - min(np.diff(many)) <= 1
    assert view_of(volume(0, 99), 1).slices[0] == 0
    assert view_of(volume(50, value=IGNORED), 1).slices[-1] == 99, "nothing to see is looked for everywhere"
    assert view_of(np.zeros((7, 9), np.uint8), None) == View(None, (0,))


def test_a_volume_hangs_with_its_last_rows_at_the_top_and_mirrored() -> None:
    label = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    shown = View(2, (1, 3)).of(label)
    assert shown.shape == (2, 3, 2)
    assert shown[1, 0, 0] == label[1, 2, 3]
    assert shown[1, 2, 1] == label[0, 0, 3]


@pytest.mark.parametrize("size", [(30, 40), (900, 1800), (385, 3), (1, 1)])
def test_a_prediction_comes_back_reduced_and_otherwise_as_it_was(size: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    found = Prediction.of("a", View(None, (0,)), labels).labels()
    assert (found == reduced(labels)[None]).all()
    assert max(found.shape) <= MAX_SIDE
    if max(size) <= MAX_SIDE:
        assert (found[0] == labels).all()


def test_stacks_are_sliced_along_their_first_axis_and_volumes_across_their_longest_voxels(task: Task) -> None:
    assert slice_axis(task) is None
    assert slice_axis(replace(task, slice_spacing=3.0)) == 0
    assert slice_axis(replace(task, dims=3, spacing=(1.0, 4.0, 1.0))) == 1
