from __future__ import annotations

import math
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.fingerprint import Fingerprint, Intensities
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.planning import NetworkPlan, median_prepared_shape, plan
from unetx_evaluators.tasks.preprocessing import ChannelNormalisation, Preparation, choose_preparation
from unetx_evaluators.tasks.sizing import MAX_LEVELS, choose_strides, total_stride
from unetx_space.backbone import Backbone


def _seen(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Fingerprint:
    grey = Intensities(mean=0.0, std=1.0, median=0.0, low=-2.0, high=2.0)
    return Fingerprint((shape,), (spacing,), 1.0, (grey,), (1, 1), (1, 1), (None, None))


def _plan(shape: tuple[int, ...], spacing: tuple[float, ...], *, n_classes: int = 2, **options: Any) -> NetworkPlan:
    """Of a dataset whose cases all have that shape and spacing."""
    seen, asked = _seen(shape, spacing), TaskOptions(**options)
    dims: Literal[2, 3] = 3 if len(shape) == 3 else 2
    return plan(seen, choose_preparation(seen, dims, ("MRI",), asked), 1, n_classes, asked)


@pytest.mark.parametrize(
    ("spacing", "patch", "strides", "padded"),
    [  # nnunetv2 2.8.1, get_pool_and_conv_props with min_feature_map_size 4; one digit per axis
        ((1, 1, 1), (35, 50, 36), "111 222 222 222", (40, 56, 40)),
        ((1, 1, 1), (128, 128, 128), "111 222 222 222 222 222", (128, 128, 128)),
        ((1, 1), (256, 256), "11 22 22 22 22 22 22", (256, 256)),
        ((1, 1), (520, 696), "11 22 22 22 22 22 22 22", (640, 768)),
        ((5, 0.8, 0.8), (20, 320, 256), "111 122 122 222 222 122 122", (20, 320, 256)),
        ((10, 1.5, 1.5), (10, 256, 216), "111 122 122 222 122 122", (10, 256, 224)),
        ((2.5, 0.8, 0.8), (48, 192, 160), "111 122 222 222 222 122", (48, 192, 160)),
        ((3, 0.625, 0.625), (14, 256, 256), "111 122 122 222 122 122 122", (14, 256, 256)),
        ((1.24, 0.94, 0.93), (97, 150, 33), "111 222 222 222 221", (112, 160, 40)),
        ((0.5, 2), (9, 11), "11", (9, 11)),
        ((1, 1), (20, 11), "11 22", (20, 12)),
        ((1, 1, 1), (7, 9, 15), "111 122", (7, 10, 16)),
        ((6, 6, 1), (12, 9, 64), "111 112 112 222", (12, 10, 64)),
    ],
)
def test_axes_are_halved_where_nnunet_halves_them(
    spacing: tuple[float, ...], patch: tuple[int, ...], strides: str, padded: tuple[int, ...]
) -> None:
    ours = choose_strides(patch, spacing, max_levels=9)
    assert " ".join("".join(map(str, stride)) for stride in ours) == strides
    assert tuple(math.ceil(n / s) * s for n, s in zip(patch, total_stride(ours), strict=True)) == padded


def test_without_a_word_of_the_user_there_are_at_most_five_levels() -> None:
    assert MAX_LEVELS == 5
    assert choose_strides((256, 256), (1, 1)) == ((1, 1), *[(2, 2)] * 4)


def test_on_a_cpu_the_proxies_of_hippocampus_and_nuclei_stay_short() -> None:
    hippocampus = _plan((35, 50, 36), (1, 1, 1), n_classes=3)
    assert hippocampus.patch == (32, 48, 32)
    assert hippocampus.strides == ((1, 1, 1), *[(2, 2, 2)] * 3)
    nuclei = _plan((256, 256), (1, 1))
    assert nuclei.patch == (128, 128)
    assert nuclei.strides == ((1, 1), *[(2, 2)] * 4)


def test_on_a_gpu_their_patches_are_nnunets() -> None:
    # nnunetv2 2.8.1, 8 GB: benchmarks/results/plans_nnunet.json
    assert _plan((35, 50, 36), (1, 1, 1), n_classes=3, machine="cuda").patch == (40, 56, 40)
    assert _plan((256, 256), (1, 1), machine="cuda").patch == (256, 256)


def test_widths_double_up_to_nnunets_limits() -> None:
    assert _plan((256, 256), (1, 1), levels=7, machine="cuda").widths == (32, 64, 128, 256, 512, 512, 512)
    assert _plan((96, 96, 96), (1, 1, 1), machine="cuda").widths == (32, 64, 128, 256, 320)


def test_the_patch_starts_as_a_block_of_equal_extent_in_mm() -> None:
    # Images that are large in every direction; 5 mm slices, so about a sixth as many of them.
    patch = _plan((900, 900, 150), (0.8, 0.8, 5.0), machine="cuda", seconds=1e6, memory_gib=8).patch
    extents = [n * mm for n, mm in zip(patch, (0.8, 0.8, 5.0), strict=True)]
    assert max(extents) < 1.6 * min(extents)


SHAPES = st.integers(8, 700)
LENGTHS = st.floats(0.1, 10.0)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from([2, 3]).flatmap(lambda n: st.tuples(*[st.tuples(SHAPES, LENGTHS)] * n)))
def test_every_plan_keeps_its_targets_and_divides_its_patch(axes: tuple[tuple[int, float], ...]) -> None:
    shape, spacing = zip(*axes, strict=True)
    chosen = Preparation(3 if len(axes) == 3 else 2, spacing, None, (ChannelNormalisation("case"),))
    if len(choose_strides(shape, spacing)) == 1:
        return  # refused, which another test looks at
    made = plan(_seen(shape, spacing), chosen, 1, 2, TaskOptions(seconds=20.0, memory_gib=0.5))
    assert made.memory_gib <= 0.5
    assert made.seconds <= 20.0
    assert all(n % s == 0 for n, s in zip(made.patch, total_stride(made.strides), strict=True))
    assert all(n // s >= 4 for n, s in zip(made.patch, total_stride(made.strides), strict=True) if s > 1)
    assert all(n < m + s for n, m, s in zip(made.patch, shape, total_stride(made.strides), strict=True))
    assert 2 <= len(made.strides) == len(made.widths) <= MAX_LEVELS
    assert made.strides == choose_strides(made.patch, spacing)


def test_less_memory_and_less_time_make_smaller_patches() -> None:
    roomy = _plan((300, 300, 300), (1, 1, 1), seconds=1e6, memory_gib=16)
    tight = _plan((300, 300, 300), (1, 1, 1), seconds=1e6, memory_gib=4)
    hasty = _plan((300, 300, 300), (1, 1, 1), seconds=60, memory_gib=4)
    assert math.prod(roomy.patch) > math.prod(tight.patch) > math.prod(hasty.patch)
    assert 2 < tight.memory_gib <= 4
    assert 30 < hasty.seconds <= 60


def test_many_classes_make_smaller_patches_because_the_loss_costs_too() -> None:
    few, many = (_plan((200, 200, 200), (1, 1, 1), n_classes=n) for n in (2, 60))
    assert math.prod(many.patch) < math.prod(few.patch) / 2


def test_slices_are_planned_as_pictures_of_their_own_plane() -> None:
    made = _plan((30, 200, 220), (6.0, 1.0, 1.0), dims=2, machine="cuda")
    assert made.patch == (208, 224)
    assert made.strides == ((1, 1), *[(2, 2)] * 4)


def test_the_median_shape_is_that_at_the_target_spacing() -> None:
    grey = Intensities(0.0, 1.0, 0.0, -2.0, 2.0)
    seen = Fingerprint(
        ((10, 20, 8), (20, 20, 9), (30, 20, 8)), ((2, 1, 4), (1, 1, 5), (1, 1, 4)), 1.0, (grey,), (1,), (1,), (None,)
    )
    volumes = Preparation(3, (1.0, 2.0, 2.0), None, ())
    assert median_prepared_shape(seen, volumes) == (20.0, 10.0, 16.0)
    slices = Preparation(2, (1.0, 2.0, 4.0), 2, ())
    assert median_prepared_shape(seen, slices) == (20.0, 10.0)


def test_every_choice_can_be_overridden_and_says_so() -> None:
    patch = _plan((35, 50, 36), (1, 1, 1), patch=(24, 33, 16))
    assert patch.patch == (24, 33, 16)
    assert patch.strides == choose_strides((24, 33, 16), (1, 1, 1))
    assert patch.reasons["patch"] == "24x33x16 voxels: set by the user"
    levels = _plan((256, 256), (1, 1), levels=3)
    assert len(levels.strides) == 3
    assert levels.reasons["levels"] == "3: set by the user"
    width = _plan((256, 256), (1, 1), base_width=48)
    assert width.widths[:3] == (48, 96, 192)
    assert "doubled from 48 (set by the user)" in width.reasons["widths"]


def test_levels_that_the_user_asks_for_are_not_given_up_for_a_time_that_nobody_asked_for() -> None:
    deep = _plan((256, 256), (1, 1), levels=6)
    assert (len(deep.strides), deep.patch) == (6, (128, 128))
    assert deep.seconds > 30
    assert "the smallest with these levels, though not within, the targets" in deep.reasons["patch"]
    with pytest.raises(DataError, match="smallest patch with 6 levels, 128x128 voxels, takes about"):
        _plan((256, 256), (1, 1), levels=6, seconds=30)


def test_what_was_chosen_by_rule_gives_its_numbers() -> None:
    reasons = _plan((35, 50, 36), (1, 1, 1), n_classes=3).reasons
    assert "40x56x40 would be the median training image of 35x50x36 voxels" in reasons["patch"]
    assert reasons["levels"].startswith("4: as many as leave 4 voxels along a halved axis; the deepest map has 4x6x4")
    assert "every axis is halved at every level" in reasons["strides"]
    assert "at most 8 GiB were wanted" in reasons["memory"]
    assert "on one CPU core" in reasons["seconds"]
    assert "at most 30 s were wanted" in reasons["seconds"]
    coarse = _plan((200, 200, 20), (1, 1, 5), machine="cuda").reasons
    assert "waits while its voxels (1x1x5 mm at first) are twice as long" in coarse["strides"]
    assert "at most 60 s were wanted" in coarse["seconds"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"patch": (32, 32)}, "patch: needs 3 sizes of at least 1 voxel, .* got 32x32"),
        ({"patch": (32, 32, 0)}, "patch: needs 3 sizes of at least 1 voxel, .* got 32x32x0"),
        ({"patch": (7, 7, 7)}, r"at least 8 voxels along an axis .* the patch has 7x7x7; enlarge it"),
        ({"levels": 1}, "levels: needs a whole number from 2 to 9, got 1"),
        ({"levels": 10}, "levels: needs a whole number from 2 to 9, got 10"),
        ({"levels": 5}, "35x50x36 voxels allow at most 4 levels, got 5; ask for fewer or for a larger patch"),
        ({"levels": 4, "patch": (16, 16, 16)}, "16x16x16 voxels allow at most 3 levels, got 4"),
        ({"base_width": 0}, "base_width: needs a whole number from 1 to 4096, got 0"),
        ({"memory_gib": 0.0}, "memory_gib: needs a number above 0, got 0.0"),
        ({"seconds": -1.0}, "seconds: needs a number above 0, got -1.0"),
        ({"seconds": math.nan}, "seconds: needs a number above 0, got nan"),
        ({"seconds": 0.001}, r"smallest patch with \d levels, .* wanted: 8 GiB and 0.001 s; allow more"),
        ({"memory_gib": 0.01, "levels": 4}, r"smallest patch with 4 levels, .* takes about 0.08\d+ GiB"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_way_out(options: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        _plan((35, 50, 36), (1, 1, 1), **options)


def test_images_too_small_for_a_second_level_are_refused_with_their_size() -> None:
    with pytest.raises(DataError, match=r"at least 8 voxels along an axis .* median image has 5x7"):
        _plan((5, 7), (1, 1))


def test_a_network_can_be_built_on_every_plan() -> None:
    made = _plan((200, 200, 20), (1, 1, 5))
    backbone = Backbone(3, 1, 2, made.widths, made.strides)
    assert backbone.sizes(made.patch)[-1] == tuple(
        n // s for n, s in zip(made.patch, total_stride(made.strides), strict=True)
    )


def test_without_a_limit_of_time_memory_alone_decides_the_patch_at_the_batch_size_of_the_training() -> None:
    hasty = _plan((300, 300, 300), (1, 1, 1), memory_gib=8)
    full, double = (_plan((300, 300, 300), (1, 1, 1), memory_gib=8, seconds=math.inf, batch_size=n) for n in (1, 2))
    assert math.prod(hasty.patch) < math.prod(double.patch) < math.prod(full.patch)
    assert 6 < double.memory_gib <= 8, "no larger patch would fit"
    assert "on 2 patches at a time" in double.reasons["memory"]
    assert "the target of memory;" in double.reasons["patch"]
    assert "seconds" not in double.reasons
