"""HD95, NSD and boundary IoU: by hand, by brute force, and against MONAI and the published erosion."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_samples import Labels, Mask, blobs, boxes, disturbed, measured, monai_surfaces
from PIL import Image
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist
from task_samples import nib

from unetx_evaluators.metrics.boundary import boundary_iou
from unetx_evaluators.metrics.comparison import CaseComparison
from unetx_evaluators.metrics.surface import default_tolerance_mm, hd95, mask_surface, nsd, surface_distances

SQUARE = boxes((12, 12), (3, 3), size=5)
MOVED = boxes((12, 12), (3, 4), size=5)


def test_the_surface_is_the_ring_of_a_square_also_at_the_border_of_the_image() -> None:
    assert mask_surface(SQUARE).sum() == 16
    assert mask_surface(np.ones((4, 4), bool)).sum() == 12


def test_a_square_moved_by_a_pixel() -> None:
    # of 16 + 16 ring pixels 8 + 8 coincide (the shared parts of the upper and lower edges), the others are 1 apart
    distances = surface_distances(SQUARE, MOVED, (1.0, 1.0))
    assert (hd95(distances), nsd(distances, 0.0), nsd(distances, 1.0)) == (1.0, 0.5, 1.0)
    assert boundary_iou(SQUARE, MOVED, (1, 1)) == 8 / 24


def test_distances_are_in_mm_along_each_axis() -> None:
    one, other = boxes((9, 9, 9), (1, 1, 1), size=1), boxes((9, 9, 9), (1, 4, 5), size=1)
    assert hd95(surface_distances(one, other, (1.0, 1.0, 1.0))) == 5.0
    assert hd95(surface_distances(one, other, (7.0, 4.0, 1.25))) == 13.0


def test_hd95_forgives_one_voxel_in_twenty_and_takes_the_worse_direction() -> None:
    line = np.zeros((1, 60), bool)
    line[0, :20] = True
    with_a_speck = line.copy()
    with_a_speck[0, 29] = True
    # from the prediction 20 zeros and one 10: the 95th percentile is the 20th of 21
    assert hd95(surface_distances(line, with_a_speck, (1.0, 1.0))) == 0.0
    short, short_with_a_speck = line[:, 10:].copy(), with_a_speck[:, 10:].copy()
    # 10 zeros and one 10: half way between the tenth and the eleventh; from the truth all are zero
    assert hd95(surface_distances(short, short_with_a_speck, (1.0, 1.0))) == pytest.approx(5.0)
    assert hd95(surface_distances(short_with_a_speck, short, (1.0, 1.0))) == pytest.approx(5.0)


def test_a_tolerance_that_is_a_whole_number_of_steps_admits_them() -> None:
    one, other = boxes((1, 9), (0, 1), size=1), boxes((1, 9), (0, 4), size=1)
    distances = surface_distances(one, other, (0.1, 0.1))
    assert distances.from_truth[0] > 0.3, "0.1 added three times is more than 0.3 in binary"
    assert nsd(distances, 0.3) == 1.0
    assert nsd(distances, 0.29) == 0.0


@pytest.mark.parametrize(
    ("spacing", "tolerance_mm"),
    [
        ((1.0, 1.0, 1.0), 2.0),
        ((0.7, 0.7, 5.0), 2.0),
        ((4.0, 4.0, 4.0), 4.0),
        ((0.7, 0.7), 1.4),
        ((1.0, 1.0), 2.0),
        ((0.0005, 0.0005), 0.001),
    ],
)
def test_the_default_tolerance_is_2_mm_within_one_and_two_voxels(
    spacing: tuple[float, ...], tolerance_mm: float
) -> None:
    assert default_tolerance_mm(spacing) == pytest.approx(tolerance_mm)


def test_a_surface_distance_needs_two_surfaces() -> None:
    with pytest.raises(ValueError, match="one of them has none"):
        surface_distances(SQUARE, np.zeros_like(SQUARE), (1.0, 1.0))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(9, 7), (5, 6, 4)]), st.sampled_from([0.02, 0.4]))
def test_distances_equal_those_of_all_pairs(seed: int, shape: tuple[int, ...], share: float) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = rng.random((2, *shape)) < share
    truth.flat[0] = prediction.flat[-1] = True
    spacing = rng.uniform(0.3, 4, len(shape))
    t, p = (np.argwhere(_has_outer_face(mask)) * spacing for mask in (truth, prediction))
    pairs = cdist(t, p)
    distances = surface_distances(truth, prediction, tuple(spacing))
    np.testing.assert_allclose(distances.from_truth, pairs.min(axis=1))
    np.testing.assert_allclose(distances.from_prediction, pairs.min(axis=0))


def _has_outer_face(mask: Mask) -> Mask:
    """The definition of a surface voxel, voxel by voxel."""
    padded = np.pad(mask, 1)
    found = np.zeros_like(mask)
    for voxel in np.argwhere(mask):
        steps = [step * sign for step in np.eye(mask.ndim, dtype=int) for sign in (-1, 1)]
        found[tuple(voxel)] = not all(padded[tuple(voxel + 1 + step)] for step in steps)
    return found


@pytest.mark.parametrize(
    ("shape", "spacing", "tolerance_mm"),
    [
        ((40, 33), (1.0, 1.0), 2.0),
        ((40, 33), (0.7, 1.3), 1.5),
        ((21, 18, 15), (1.0, 1.0, 1.0), 1.0),
        ((21, 18, 15), (0.5, 0.9, 4.0), 2.0),
    ],
)
def test_surface_scores_equal_monais_given_the_spacing(
    shape: tuple[int, ...], spacing: tuple[float, ...], tolerance_mm: float
) -> None:
    for seed in range(4):
        truth = blobs(shape, seed, 3)
        check_equal_to_monai(truth, disturbed(truth, 3, seed + 100), 3, spacing, tolerance_mm)
        check_equal_to_monai(truth, blobs(shape, seed + 200, 3), 3, spacing, tolerance_mm)


def check_equal_to_monai(
    truth: Labels, prediction: Labels, n_classes: int, spacing: tuple[float, ...], tolerance_mm: float
) -> None:
    names = [f"class {label}" for label in range(n_classes)]
    ours = measured(truth, prediction, names, spacing, tolerance_mm=tolerance_mm)
    expected = monai_surfaces(truth, prediction, n_classes, spacing, tolerance_mm)
    assert expected.shape == (n_classes - 1, 2)
    found = np.array([(m["hd95_mm"], m["nsd"]) for m in ours], dtype=float)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_surface_scores_equal_monais_on_hippocampi(test_data: Path) -> None:
    for file in sorted((test_data / "hippocampus_msd" / "labelsTr").glob("*.nii.gz"))[:3]:
        label = np.asarray(nib.load(file).dataobj).astype(np.uint8)
        assert set(np.unique(label)) == {0, 1, 2}
        check_equal_to_monai(label, disturbed(label, 3, 0), 3, (1.0, 1.0, 1.0), 1.0)


def test_surface_scores_equal_monais_on_nuclei(test_data: Path) -> None:
    for file in sorted((test_data / "nuclei_dsb2018" / "masks").iterdir())[:3]:
        label = (np.asarray(Image.open(file)) > 0).astype(np.uint8)
        check_equal_to_monai(label, disturbed(label, 2, 0), 2, (1.0, 1.0), 2.0)


def test_the_band_is_two_percent_of_the_diagonal_and_at_least_a_voxel() -> None:
    def band(shape: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0)) -> tuple[int, ...]:
        return CaseComparison(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), spacing, 2.0, 2).band

    assert band((300, 400)) == (10, 10)
    assert band((30, 40)) == (1, 1)
    assert band((60, 60)) == (2, 2), "1.7 voxels are rounded"
    assert band((4, 3)) == (1, 1), "0.1 voxels are one"
    assert band((400, 300, 24), (1.0, 1.0, 50.0)) == (26, 26, 1), "26 mm of a diagonal of 1300 mm"


@pytest.mark.parametrize(("shape", "width"), [((40, 33), 1), ((40, 33), 3), ((18, 15, 21), 2), ((12, 15), 20)])
def test_boundary_iou_is_that_of_the_published_erosion(shape: tuple[int, ...], width: int) -> None:
    for seed in range(3):
        truth = blobs(shape, seed) == 1
        prediction = disturbed(truth.astype(np.uint8), 2, seed) == 1
        one_step = np.ones((3,) * len(shape), bool)
        t, p = (m & ~binary_erosion(m, one_step, iterations=width) for m in (truth, prediction))
        assert (t & p).any()
        assert boundary_iou(truth, prediction, [width] * len(shape)) == (t & p).sum() / (t | p).sum()


def test_boundary_iou_sees_an_outline_that_the_bulk_hides() -> None:
    truth, prediction = boxes((100, 100), (10, 10), size=80), boxes((100, 100), (11, 11), size=78)
    # the bands are 1 wide, and the square that is smaller by a pixel all round shares none of the larger one's
    assert (truth & prediction).sum() / (truth | prediction).sum() > 0.95
    assert boundary_iou(truth, prediction, (1, 1)) == 0.0


def test_the_band_of_a_case_is_that_of_its_image_not_of_the_object() -> None:
    truth, prediction = boxes((300, 400), (10, 10), size=80), boxes((300, 400), (11, 11), size=78)
    # bands 10 wide, of 80^2 - 60^2 and 78^2 - 58^2 pixels; both hold what lies between 78^2 and 60^2
    (metrics,) = measured(truth.astype(np.uint8), prediction.astype(np.uint8), ("", "square"), (1.0, 1.0))
    both = 78**2 - 60**2
    assert metrics["boundary_iou"] == both / (80**2 - 60**2 + 78**2 - 58**2 - both)
