from __future__ import annotations

import numpy as np
import pytest
from narrowing import there

from unetx_evaluators.tasks import thickness
from unetx_evaluators.tasks.task import IGNORED, Label
from unetx_evaluators.tasks.thickness import Thickness, class_thickness, over_cases


def _of(label: Label, *spacing: float, slice_axis: int | None = None) -> Thickness:
    """Of class 1."""
    _, found = class_thickness(label, spacing or (1.0,) * label.ndim, 2, slice_axis)
    assert found is not None
    return found


def _ball(diameter: float, shape: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Label:
    """In the middle; a disc in 2D. The diameter is in mm."""
    axes = np.meshgrid(*(mm * (np.arange(n) - n / 2) for n, mm in zip(shape, spacing, strict=False)), indexing="ij")
    return np.asarray(np.sqrt(np.sum(np.square(axes), axis=0)) < diameter / 2, np.uint8)


@pytest.mark.parametrize("n", range(1, 10))
def test_a_slab_is_as_thick_as_it_is_wide(n: int) -> None:
    # Distances 1, 2, .., 2, 1: by hand, 4 (mean - 1/2) is n for an even n and n + 1/n for an odd one.
    slab = np.zeros((2000, 13), np.uint8)
    slab[:, 2 : 2 + n] = 1
    expected = n if n % 2 == 0 else n + 1 / n
    assert _of(slab).typical == pytest.approx(expected, rel=0.01)  # the two ends are thinner
    assert _of(slab, 0.5, 0.5).typical == pytest.approx(expected / 2, rel=0.01)


def test_a_disc_counts_two_thirds_of_its_diameter_and_a_ball_half() -> None:
    # Closed forms: the mean distance to the rim is r/3 in a disc and r/4 in a ball.
    assert _of(_ball(80, (90, 90))).typical == pytest.approx(2 / 3 * 80, rel=0.04)
    assert _of(_ball(60, (70, 70, 70))).typical == pytest.approx(60 / 2, rel=0.04)


def test_thickness_is_in_mm_whatever_the_voxels() -> None:
    fine = _of(_ball(60, (70, 70, 70))).typical
    anisotropic = _of(_ball(60, (24, 70, 140), (3.0, 1.0, 0.5)), 3.0, 1.0, 0.5).typical
    assert anisotropic == pytest.approx(fine, rel=0.06)


def test_in_slices_a_flat_object_is_as_thick_as_it_looks_there() -> None:
    pancake = np.zeros((70, 70, 8), np.uint8)
    pancake[..., 3:5] = _ball(60, (70, 70))[..., None]
    assert _of(pancake, 1.0, 1.0, 1.0).typical < 3
    assert _of(pancake, 1.0, 1.0, 5.0, slice_axis=2).typical == pytest.approx(2 / 3 * 60, rel=0.04)


def test_in_slices_the_parts_of_one_object_count_each() -> None:
    # A cylinder lies askew: 20 voxels wide in one slice, 4 in the nine others.
    label = np.zeros((10, 200, 40), np.uint8)
    label[:, :, 8:12] = 1
    label[4, :, 8:28] = 1
    assert _of(label, slice_axis=0).finest == pytest.approx(4, rel=0.05)
    assert _of(label, slice_axis=0).typical == pytest.approx((9 * 4 * 4 + 20 * 20) / (9 * 4 + 20), rel=0.05)


def test_the_typical_thickness_goes_by_voxels_the_finest_by_components() -> None:
    label = np.zeros((100, 400), np.uint8)
    label[10:50, 10:390] = 1  # 40 wide
    for start in range(10, 390, 20):
        label[70:74, start : start + 15] = 1  # 19 pieces, 4 wide
    assert _of(label).typical > 30
    assert _of(label).finest == pytest.approx(4, rel=0.25)


def test_voxels_that_touch_at_a_corner_are_one_component() -> None:
    diagonal = np.asarray(np.kron(np.eye(6), np.ones((4, 4))), np.uint8)
    assert _of(diagonal).finest == pytest.approx(_of(diagonal).typical)


def test_specks_are_not_the_finest_but_small_lesions_are() -> None:
    label = np.zeros((120, 120), np.uint8)
    label[:, :100] = _ball(90, (120, 100))  # 6362 voxels
    alone = _of(label).finest
    label[5:115:20, 110] = 1  # six stray voxels, 0.1 %
    assert _of(label).finest == pytest.approx(alone)
    lesions = label.copy()
    for row in range(5, 115, 10):
        lesions[row : row + 4, 110:114] = 1  # eleven of 4 x 4, 2.7 %
    assert _of(lesions).finest < 4
    few = np.zeros((60, 60), np.uint8)
    few[3:5, 7:9] = 1  # nothing but four voxels
    assert _of(few).finest == pytest.approx(2)


def test_every_class_is_measured_by_itself_and_one_that_is_not_there_is_none() -> None:
    label = np.zeros((30, 300), np.uint8)
    label[4:24] = 1
    label[10:14] = 3  # splits the first in 6 and 10
    background, outer, absent, inner = class_thickness(label, (1.0, 1.0), 4)
    assert (background, absent) == (None, None)
    assert there(outer).typical == pytest.approx((6 * 6 + 10 * 10) / 16, rel=0.03)
    assert there(inner).typical == pytest.approx(4, rel=0.02)


def test_ignored_voxels_and_what_lies_beyond_the_image_are_outside() -> None:
    label = np.ones((8, 1000), np.uint8)
    assert _of(label).typical == pytest.approx(8, rel=0.01)
    label[4:] = IGNORED
    assert _of(label).typical == pytest.approx(4, rel=0.01)


def test_of_a_very_large_class_a_part_tells_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    membranes = np.zeros((300, 300), np.uint8)
    for start in range(3, 300, 30):
        membranes[start : start + 4] = membranes[:, start : start + 4] = 1
    whole = _of(membranes)
    monkeypatch.setattr(thickness, "MAX_VOXELS", 100 * 100)
    part = _of(membranes)
    assert part.typical == pytest.approx(whole.typical, rel=0.05)
    assert part.finest == pytest.approx(whole.finest, rel=0.05)


def test_the_part_is_that_with_most_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.zeros((400, 60), np.uint8)
    label[0, 0] = 1  # far away
    label[350:370, 20:40] = 1
    whole = _of(label).typical
    monkeypatch.setattr(thickness, "MAX_VOXELS", 400 * 60 // 4)
    assert _of(label).typical == pytest.approx(whole, rel=0.01)


def test_a_part_that_shows_no_outside_is_thick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thickness, "MAX_VOXELS", 20**3)
    assert _of(np.ones((60, 60, 60), np.uint8)).typical >= 20
    assert _of(np.ones((5, 300, 300), np.uint8), 5.0, 1.0, 1.0, slice_axis=0).typical >= 20


def test_over_cases_the_typical_one_is_a_median_the_finest_a_low_one() -> None:
    cases = [Thickness(float(n), float(n)) for n in range(1, 12)]
    assert over_cases(cases) == Thickness(6.0, 2.0)
    assert over_cases([]) is None
