from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.fingerprint import (
    MAX_AXIS,
    MAX_LEVELS,
    MAX_VOXELS,
    choose_patch,
    choose_strides,
    fingerprint,
    total_stride,
)


def test_the_hippocampus_shape_gives_four_levels() -> None:
    # Worked by hand: 40x48x40 rounded up, then x and z give up 8 voxels each to meet the limit.
    patch, strides = choose_patch((35, 50, 36), (1.0, 1.0, 1.0))
    assert patch == (32, 48, 32)
    assert strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))


def test_a_large_picture_gives_a_patch_of_128_and_five_levels() -> None:
    assert choose_patch((520, 696), (1.0, 1.0)) == ((128, 128), ((1, 1), *[(2, 2)] * 4))


def test_an_axis_with_thick_slices_waits_until_the_others_have_caught_up() -> None:
    # nnU-Net's rule: 0.8 and 1.6 mm in plane are still less than half of 5 mm, 3.2 mm are not.
    strides = choose_strides((48, 48, 16), (0.8, 0.8, 5.0))
    assert strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2))


def test_the_patch_covers_about_equal_extents_in_mm() -> None:
    patch, _ = choose_patch((512, 512, 100), (0.8, 0.8, 5.0))
    assert patch == (48, 48, 8)  # 38 x 38 x 40 mm


def test_an_axis_is_halved_while_four_voxels_remain_and_up_to_five_levels() -> None:
    assert choose_strides((256, 256), (1.0, 1.0)) == ((1, 1), *[(2, 2)] * (MAX_LEVELS - 1))
    assert choose_strides((20, 20), (1.0, 1.0)) == ((1, 1), (2, 2), (2, 2))  # 20, 10, 5


def test_the_last_axis_alone_is_halved_only_from_twelve_voxels_on() -> None:
    assert choose_strides((4, 11), (1.0, 1.0)) == ((1, 1),)
    assert choose_strides((4, 12), (1.0, 1.0)) == ((1, 1), (1, 2))


SIZES = st.integers(1, 700)
SPACINGS = st.floats(0.1, 10.0)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([2, 3]).flatmap(lambda n: st.tuples(*[st.tuples(SIZES, SPACINGS)] * n)))
def test_every_patch_keeps_the_limits_and_is_a_multiple_of_the_total_stride(
    axes: tuple[tuple[int, float], ...],
) -> None:
    shape, spacing = zip(*axes, strict=True)
    try:
        patch, strides = choose_patch(shape, spacing)
    except DataError:
        return
    assert math.prod(patch) <= MAX_VOXELS[len(shape)]
    assert max(patch) <= MAX_AXIS[len(shape)]
    assert all(n % s == 0 for n, s in zip(patch, total_stride(strides), strict=True))
    assert all(n // s >= 4 for n, s in zip(patch, total_stride(strides), strict=True) if s > 1)
    assert 2 <= len(strides) <= MAX_LEVELS
    assert strides == choose_strides(patch, spacing)


def test_images_too_small_for_a_second_level_are_refused_with_their_size() -> None:
    with pytest.raises(DataError, match=r"at least 8 voxels along an axis .* median image has 5x7"):
        choose_patch((5, 7), (1.0, 1.0))


def test_the_fingerprint_takes_medians_over_the_cases() -> None:
    seen = fingerprint([(40, 30), (60, 90), (50, 70)], [(1.0, 2.0), (3.0, 2.0), (2.0, 2.0)])
    assert seen.median_shape == (50, 70)
    assert seen.spacing == (2.0, 2.0)
