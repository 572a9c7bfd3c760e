from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unetx_evaluators.tasks.resampling import coarse_axis, resampled_image, resampled_label, resampled_shape
from unetx_evaluators.tasks.task import IGNORED, Image, Label

RAMP = (np.arange(24).reshape(2, 3, 4) ** 2 % 17).astype(np.float32)

# nnunetv2 2.8.1, resample_data_or_seg_to_shape(RAMP, (3, 4, 5), ..., order=3, order_z=0): the first and the last plane.
CUBIC = (
    [
        [0.0, 0.0, 1.281, 5.6756, 8.9393],
        [11.5102, 7.5345, 1.0976, 4.6769, 15.8242],
        [16.0, 13.4228, 7.6801, 7.7454, 11.95],
        [12.8691, 12.0546, 16.0, 12.6336, 0.1545],
    ],
    [
        [8.7355, 16.0, 15.8696, 7.161, 3.4405],
        [1.8815, 3.4224, 3.6947, 3.1533, 3.4657],
        [1.9322, 3.1706, 2.9751, 2.2679, 2.7337],
        [8.8503, 16.0, 14.2379, 5.1534, 1.7809],
    ],
)
PLANE_BY_PLANE = (
    [
        [0.0, 0.0, 2.2578, 5.7751, 8.5711],
        [10.8655, 7.2592, 1.2715, 4.5749, 14.9967],
        [16.0, 12.7364, 7.3651, 7.3787, 11.3329],
        [12.6, 12.333, 16.0, 12.1327, 0.2634],
    ],
    [
        [8.0288, 15.5729, 14.8928, 7.0616, 3.8087],
        [2.5262, 3.6977, 3.5208, 3.2554, 4.2931],
        [3.0072, 3.857, 3.2902, 2.6347, 3.3508],
        [9.1194, 15.9342, 14.3697, 5.6542, 1.672],
    ],
)


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [  # nnunetv2 2.8.1, determine_do_sep_z_and_axis
        ((5, 1, 1), (5, 1, 1), 0),
        ((1, 1, 1), (1, 1, 4), 2),
        ((5, 1, 1), (1, 1, 1), 0),
        ((5, 5, 1), (1, 1, 1), None),
        ((3, 1, 1), (3, 1, 1), None),
        ((3.1, 1, 1), (1, 9, 1), 0),
    ],
)
def test_an_axis_is_resampled_by_itself_where_nnunet_does_so(
    spacing: tuple[float, ...], target: tuple[float, ...], axis: int | None
) -> None:
    assert coarse_axis(spacing, target) == axis


@pytest.mark.parametrize(("separate", "planes"), [(None, CUBIC), (0, PLANE_BY_PLANE)])
def test_images_are_resampled_as_by_nnunet(separate: int | None, planes: tuple[list[list[float]], ...]) -> None:
    image = resampled_image(RAMP, (3, 4, 5), separate)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[[0, -1]], planes, atol=6e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_of_a_coarse_axis_know_nothing_of_each_other(axis: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 7)).astype(np.float32)
    shape = tuple(n + 3 for n in image.shape)
    before = resampled_image(image, shape, axis)
    changed = image.copy()
    changed[(slice(None),) * axis + (0,)] += 10
    after = resampled_image(changed, shape, axis)
    differs = (before != after).any(axis=tuple({0, 1, 2} - {axis}))
    middles = (np.arange(shape[axis]) + 0.5) * image.shape[axis] / shape[axis]
    np.testing.assert_array_equal(differs, middles < 1)


@pytest.mark.parametrize("separate", [None, 0])
def test_an_array_of_the_wanted_shape_comes_back_as_it_is(separate: int | None) -> None:
    label = RAMP.astype(np.uint8)
    assert resampled_image(RAMP, RAMP.shape, separate) is RAMP
    np.testing.assert_array_equal(resampled_label(label, label.shape, separate), label)


def test_splines_stay_within_the_range_of_the_image() -> None:
    edge = np.zeros((12, 12), dtype=np.float32)
    edge[:, 6:] = 1.0
    finer = resampled_image(edge, (30, 30))
    assert finer.min() == 0.0
    assert finer.max() == 1.0


def test_the_shape_keeps_the_extent_and_at_least_a_voxel() -> None:
    assert resampled_shape((10, 7, 1), (1.0, 2.0, 1.0), (0.8, 4.0, 9.0)) == (12, 4, 1)  # 12.5 and 3.5 go to the even


SHAPES = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SHAPES, SHAPES, st.integers(0, 2**16))
def test_a_voxel_goes_to_the_class_with_the_largest_interpolated_share(
    shape: tuple[int, ...], wanted: tuple[int, ...], seed: int
) -> None:
    label = np.random.default_rng(seed).integers(0, 4, size=shape).astype(np.uint8)
    shares = np.stack([_zoomed(label == value, wanted) for value in range(4)])
    given_to = resampled_label(label, wanted)
    share = np.take_along_axis(shares, given_to[None].astype(np.intp), axis=0)[0]
    np.testing.assert_allclose(share, shares.max(axis=0), atol=1e-5)


def _zoomed(mask: Label, shape: tuple[int, ...]) -> Image:
    """scipy's own interpolation of the whole mask."""
    factors = [m / n for n, m in zip(mask.shape, shape, strict=True)]
    zoomed: Image = ndimage.zoom(mask.astype(np.float64), factors, order=1, mode="nearest", grid_mode=True)
    return zoomed


@settings(max_examples=40, deadline=None, derandomize=True)
@given(SHAPES, SHAPES, st.sampled_from([None, 0, 1, 2]), st.integers(0, 2**16))
def test_voxels_are_ignored_where_the_nearest_one_is(
    shape: tuple[int, ...], wanted: tuple[int, ...], separate: int | None, seed: int
) -> None:
    label = np.random.default_rng(seed).choice([0, 1, IGNORED], size=shape).astype(np.uint8)
    centres = [np.floor((np.arange(m) + 0.5) * n / m + 1e-9).astype(int) for n, m in zip(shape, wanted, strict=True)]
    nearest = label[np.ix_(*centres)]
    resampled = resampled_label(label, wanted, separate)
    np.testing.assert_array_equal(resampled == IGNORED, nearest == IGNORED)
    assert set(np.unique(resampled)) <= set(np.unique(label)) | {0}


def test_where_three_classes_meet_no_background_appears() -> None:
    label = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3], [3, 3, 3, 3]], dtype=np.uint8)
    assert (resampled_label(label, (7, 7)) > 0).all()


def test_labels_of_a_coarse_axis_take_the_nearest_slice() -> None:
    label = np.zeros((3, 8, 8), dtype=np.uint8)
    label[1, 2:6, 2:6] = 1
    finer = resampled_label(label, (9, 8, 8), 0)
    np.testing.assert_array_equal(finer, label.repeat(3, axis=0))
