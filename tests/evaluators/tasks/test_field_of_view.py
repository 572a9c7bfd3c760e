"""Every rule on made-up fingerprints; spacings worked out by hand from the limits."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetx_evaluators.tasks.field_of_view import (
    FIELD_OF_VIEW,
    MIN_FIELD_OF_VIEW,
    STEP,
    TYPICAL_VOXELS,
    with_field_of_view,
)
from unetx_evaluators.tasks.fingerprint import Fingerprint, Intensities
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.planning import NetworkPlan, plan
from unetx_evaluators.tasks.preprocessing import Preparation, choose_preparation
from unetx_evaluators.tasks.resampling import resampled_label
from unetx_evaluators.tasks.task import Label
from unetx_evaluators.tasks.thickness import Thickness

LARGE = Thickness(200.0, 100.0)
"""Allows voxels of 40 mm."""


def _planned(
    shape: tuple[int, ...], mm: tuple[float, ...], *classes: Thickness | None, **options: Any
) -> tuple[Preparation, NetworkPlan]:
    """Of a dataset whose cases all have that shape and voxels so long, and classes of that thickness."""
    grey = Intensities(mean=0.0, std=1.0, median=0.0, low=-2.0, high=2.0)
    n_classes = 1 + len(classes)
    seen = Fingerprint((shape,), (mm,), 1.0, (grey,), (1,) * n_classes, (1,) * n_classes, (None, *classes))
    names = ("background", "organ", "vessel")[:n_classes]
    asked = TaskOptions(**options)
    dims: Literal[2, 3] = 3 if len(shape) == 3 else 2
    chosen = with_field_of_view(seen, choose_preparation(seen, dims, ("MRI",), asked), 1, names, asked)
    return chosen, plan(seen, chosen, 1, n_classes, asked)


def test_a_patch_that_shows_a_quarter_of_the_image_keeps_its_voxels() -> None:
    chosen, made = _planned((256, 256), (1.0, 1.0), LARGE)
    assert chosen.spacing == (1.0, 1.0)
    assert (made.patch, made.share) == ((128, 128), 0.25)  # exactly enough
    # A pilot may try with 256 / 128 * sqrt(0.75) = 1.73 times coarser ones, or the next step.
    (coarser, _), planned = chosen.alternatives
    assert 1.73 <= coarser <= 1.73 * STEP
    assert planned == chosen.spacing
    assert chosen.reasons["spacing"] == (
        "1x1 mm: median of 1 training cases, which all have, so that nothing is resampled"
    )


def test_the_share_counts_the_patch_as_far_as_it_lies_in_the_image() -> None:
    _, made = _planned((35, 51, 36), (1.0, 1.0, 1.0), LARGE, LARGE)
    assert made.patch == (32, 48, 32)
    assert made.share == pytest.approx(32 * 48 * 32 / (35 * 51 * 36))
    _, whole = _planned((35, 51, 36), (1.0, 1.0, 1.0), LARGE, machine="cuda")
    assert (whole.patch, whole.share) == ((40, 56, 40), 1.0)


def test_a_large_object_gets_voxels_with_which_three_quarters_of_the_image_fit() -> None:
    _, before = _planned((512, 512, 400), (1.0, 1.0, 1.0), LARGE, spacing=(1.0, 1.0, 1.0))
    chosen, after = _planned((512, 512, 400), (1.0, 1.0, 1.0), LARGE)
    assert before.share < 0.001
    assert FIELD_OF_VIEW <= after.share < FIELD_OF_VIEW * 1.3
    assert chosen.alternatives == ((1.0, 1.0, 1.0), chosen.spacing)
    assert len(set(chosen.spacing)) == 1
    # A patch of p voxels shows so much when the image has p / 0.75, so by hand:
    expected = (0.75 * 512 * 512 * 400 / math.prod(after.patch)) ** (1 / 3)
    assert chosen.spacing[0] == pytest.approx(expected, rel=0.05)
    assert after.seconds <= 30


def test_no_step_more_than_needed_is_taken() -> None:
    chosen, _ = _planned((1000, 1000), (1.0, 1.0), LARGE)
    less = tuple(mm / STEP for mm in chosen.spacing)
    grey = Intensities(0.0, 1.0, 0.0, -2.0, 2.0)
    seen = Fingerprint(((1000, 1000),), ((1.0, 1.0),), 1.0, (grey,), (1, 1), (1, 1), (None, LARGE))
    finer = Preparation(2, less, None, chosen.channels)
    assert plan(seen, finer, 1, 2, TaskOptions()).share < FIELD_OF_VIEW


def test_thin_membranes_keep_their_voxels() -> None:
    chosen, made = _planned((512, 512), (1.0, 1.0), Thickness(5.0, 4.0))
    assert chosen.spacing == (1.0, 1.0)
    assert made.share == 0.0625
    assert chosen.alternatives == ()
    assert chosen.reasons["spacing"] == (
        "1x1 mm: median of 1 training cases, which all have, so that nothing is resampled; a patch within the targets "
        "shows 6.25% of the median image, less than the 25% wanted, but voxels coarse enough for that would leave "
        "fewer than 5 across class 'organ' where it is typical, 5 mm"
    )


def test_a_little_coarser_is_not_worth_it() -> None:
    assert _planned((270, 270), (1.0, 1.0), Thickness(6.2, 2.48))[0].spacing == (1.0, 1.0)  # 1.24 mm allowed
    coarser, made = _planned((270, 270), (1.0, 1.0), Thickness(6.3, 2.52))
    assert coarser.spacing == pytest.approx((1.26, 1.26))
    assert coarser.reasons["spacing"] == (
        "1.26x1.26 mm: coarser than 1x1 mm (median of 1 training cases, which all have), where a patch within the "
        f"targets shows 22.5% of the median image; with these voxels it shows {100 * made.share:.3g}%; still coarser "
        "ones would leave fewer than 2 across class 'organ' where it is finest, 2.52 mm"
    )


def test_small_lesions_limit_the_voxels_to_half_their_thickness() -> None:
    chosen, _ = _planned((512, 512), (1.0, 1.0), LARGE, Thickness(40.0, 3.0))
    assert chosen.spacing == (1.0, 1.0), "1.5 mm show less than a quarter, too"
    assert chosen.alternatives == ((1.5, 1.5), (1.0, 1.0))
    assert chosen.reasons["alternatives"].startswith("1x1 mm or 1.5x1.5 mm: the finer show structures better")
    nearer, _ = _planned((380, 380), (1.0, 1.0), LARGE, Thickness(40.0, 3.0))
    assert nearer.spacing == (1.5, 1.5), "where they show a quarter they are taken"
    assert nearer.alternatives == ((1.0, 1.0), (1.5, 1.5))


def test_the_class_that_allows_least_decides() -> None:
    for classes in ((Thickness(10.0, 8.0), LARGE), (LARGE, Thickness(10.0, 8.0))):
        chosen, _ = _planned((500, 500), (1.0, 1.0), *classes)
        assert chosen.spacing == (2.0, 2.0)  # a fifth of 10 mm
    assert _planned((500, 500), (1.0, 1.0), Thickness(10.0, 8.0), None)[0].spacing == (2.0, 2.0)


def test_where_typical_structures_stop_the_coarsening_short_a_pilot_can_try_as_far_as_the_finest_allow() -> None:
    chosen, made = _planned((500, 500), (1.0, 1.0), Thickness(10.0, 8.0))
    finer, coarsest, planned = sorted(chosen.alternatives)[0], chosen.alternatives[0], chosen.alternatives[-1]
    assert (finer, planned) == ((1.0, 1.0), (2.0, 2.0))
    assert made.share < FIELD_OF_VIEW
    # The image of 500 shows three quarters in the patch where its edges have 1 / sqrt(0.75) of it; at most 8 / 2 mm.
    expected = 500 / made.patch[0] * math.sqrt(FIELD_OF_VIEW)
    assert expected / STEP <= coarsest[0] <= expected * STEP
    near, _ = _planned((500, 500), (1.0, 1.0), Thickness(10.0, 4.5))
    assert near.alternatives == ((1.0, 1.0), (2.0, 2.0)), "2.25 mm are next to 2"


def test_an_anisotropic_image_is_coarsened_in_plane_first() -> None:
    chosen, _ = _planned((320, 320, 20), (0.7, 0.7, 6.0), LARGE)
    assert chosen.spacing[2] == 6.0
    assert 0.7 < chosen.spacing[0] == chosen.spacing[1] < 6.0


def test_axes_go_on_together_once_they_have_met() -> None:
    chosen, _ = _planned((700, 500, 400), (0.5, 0.7, 1.0), LARGE)
    assert len(set(chosen.spacing)) == 1
    assert chosen.spacing[0] > 1.0
    limited, _ = _planned((700, 500, 400), (0.5, 0.7, 1.0), Thickness(4.0, 4.0))
    assert limited.alternatives[0] == pytest.approx((0.8, 0.8, 1.0))  # the third, coarser already, stays


def test_of_slices_only_the_plane_is_coarsened() -> None:
    chosen, made = _planned((700, 700, 40), (0.5, 0.5, 3.0), LARGE, dims=2)
    assert chosen.slice_axis == 2
    assert chosen.spacing[2] == 3.0
    assert chosen.spacing[0] == chosen.spacing[1] > 0.5
    assert made.share >= FIELD_OF_VIEW
    torn, _ = _planned((700, 700, 40), (0.5, 0.5, 3.0), Thickness(4.0, 4.0), dims=2)
    assert torn.spacing == torn.alternatives[-1] == (0.5, 0.5, 3.0)
    assert torn.alternatives[0] == pytest.approx((0.8, 0.8, 3.0))


@pytest.mark.parametrize("options", [{"spacing": (1.0, 1.0)}, {"patch": (64, 64)}])
def test_what_the_user_sets_is_not_coarsened(options: dict[str, Any]) -> None:
    chosen, made = _planned((2000, 2000), (1.0, 1.0), LARGE, **options)
    assert (chosen.spacing, chosen.alternatives) == ((1.0, 1.0), ())
    assert made.share < 0.01
    assert "coarser" not in chosen.reasons["spacing"]


def test_more_time_or_a_gpu_need_less_coarsening() -> None:
    quick, slow = (_planned((1000, 1000), (1.0, 1.0), LARGE, seconds=seconds)[0] for seconds in (20.0, 200.0))
    assert quick.spacing > slow.spacing > (1.0, 1.0)
    gpu, _ = _planned((1000, 1000), (1.0, 1.0), LARGE, machine="cuda")
    assert gpu.spacing == (1.0, 1.0)
    small, _ = _planned((3000, 3000), (1.0, 1.0), LARGE, machine="cuda", memory_gib=2.0)
    assert small.spacing > _planned((3000, 3000), (1.0, 1.0), LARGE, machine="cuda", memory_gib=8.0)[0].spacing


def test_levels_that_the_user_asks_for_end_the_coarsening() -> None:
    chosen, made = _planned((400, 400, 400), (1.0, 1.0, 1.0), LARGE, levels=6)
    assert len(made.strides) == 6
    assert "leave fewer voxels than the network's levels need" in chosen.reasons["spacing"]


def test_what_no_network_fits_is_left_for_the_plan_to_refuse() -> None:
    grey = Intensities(0.0, 1.0, 0.0, -2.0, 2.0)
    seen = Fingerprint(((5, 7),), ((1.0, 1.0),), 1.0, (grey,), (1, 1), (1, 1), (None, LARGE))
    as_found = choose_preparation(seen, 2, ("MRI",), TaskOptions())
    assert with_field_of_view(seen, as_found, 1, ("background", "organ"), TaskOptions()) == as_found


def test_the_alternatives_survive_json() -> None:
    chosen, _ = _planned((512, 512), (1.0, 1.0), Thickness(40.0, 3.0))
    again = Preparation.from_json(json.loads(json.dumps(asdict(chosen))))
    assert again == chosen
    assert again.alternatives == ((1.5, 1.5), (1.0, 1.0))


LENGTHS = st.tuples(st.integers(20, 300), st.floats(0.3, 6.0))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sampled_from([2, 3]).flatmap(lambda n: st.tuples(*[LENGTHS] * n)), st.floats(1.0, 80.0), st.floats(0.5, 40.0))
def test_no_voxel_is_coarsened_beyond_what_a_class_allows(
    axes: tuple[tuple[int, float], ...], typical: float, finest: float
) -> None:
    shape, mm = zip(*axes, strict=True)
    chosen, made = _planned(shape, mm, Thickness(typical, finest), seconds=15.0)
    allowed = min(typical / 5, finest / 2)
    assert all(now == was or was < now <= allowed for now, was in zip(chosen.spacing, mm, strict=True))
    assert made.share >= MIN_FIELD_OF_VIEW or chosen.spacing == mm
    for tried in chosen.alternatives:
        assert all(now == was or was < now <= finest / 2 for now, was in zip(tried, mm, strict=True))
    assert not chosen.alternatives or chosen.alternatives[-1] == chosen.spacing


def _kept(label: Label, mm: float) -> float:
    """Dice of a label map and itself, resampled to voxels ``mm`` times as long and back."""
    coarse = resampled_label(label, tuple(round(n / mm) for n in label.shape))
    again = resampled_label(coarse, label.shape)
    return float(2 * np.sum(label & again) / (label.sum() + again.sum()))


def test_structures_of_n_voxels_lose_about_a_quarter_of_an_nth_of_dice() -> None:
    # The figure of TYPICAL_VOXELS: slabs and discs at random places, voxels 2.5 times as long.
    rng = np.random.default_rng(0)
    rows, columns = np.indices((120, 120))
    for n in (TYPICAL_VOXELS, 2 * TYPICAL_VOXELS):
        kept = []
        for _ in range(25):
            y, x = rng.uniform(50, 70, 2)
            slab = abs(rows - y) < n * 2.5 / 2
            disc = np.hypot(rows - y, columns - x) < 3 / 2 * n * 2.5 / 2  # two thirds of the diameter
            kept += [_kept(shape.astype(np.uint8), 2.5) for shape in (slab, disc)]
        assert 1 - np.mean(kept) == pytest.approx(1 / (4 * n), rel=0.3)
