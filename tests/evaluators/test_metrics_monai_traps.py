"""Where MONAI's metrics mislead, shown on MONAI as it is, and what ours say instead."""

import math

import numpy as np
import pytest
import torch
from mask_samples import Labels, boxes, monai_surfaces, one_hot
from monai.metrics.hausdorff_distance import HausdorffDistanceMetric, compute_hausdorff_distance
from monai.metrics.meandice import DiceMetric
from monai.metrics.surface_dice import SurfaceDiceMetric, compute_surface_dice
from monai.metrics.surface_distance import SurfaceDistanceMetric

from unetx_evaluators.metrics import ClassMetrics, case_metrics, recall_by_size, summarise

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is all 0, this may result in nan/inf distance"),
    pytest.mark.filterwarnings("ignore::FutureWarning:monai"),
    pytest.mark.filterwarnings("ignore:Voronoi computation is running on CPU"),
]

NAMES = ("background", "lesion")
LESION = boxes((30, 40), (10, 10), size=6).astype(np.uint8)
NOTHING = np.zeros_like(LESION)
DIAGONAL_MM = 50.0
Metric = DiceMetric | HausdorffDistanceMetric | SurfaceDiceMetric | SurfaceDistanceMetric


def ours(truth: Labels, prediction: Labels, spacing: tuple[float, float] = (1.0, 1.0), mm: float = 2.0) -> ClassMetrics:
    (metrics,) = case_metrics(truth, prediction, NAMES, spacing, tolerance_mm=mm)
    return metrics


def mean_over_cases(metric: Metric, *cases: tuple[Labels, Labels]) -> float:
    """MONAI's metric, fed with cases one by one and asked for its mean."""
    for truth, prediction in cases:
        metric(one_hot(prediction, 2), one_hot(truth, 2))
    mean = metric.aggregate()
    assert isinstance(mean, torch.Tensor)
    return mean.item()


def test_its_dice_drops_a_case_of_nothing_but_false_positives() -> None:
    cases = [(LESION, LESION), (NOTHING, LESION)]
    assert mean_over_cases(DiceMetric(include_background=False), *cases) == 1.0
    (summary,) = summarise([[ours(*case)] for case in cases])
    assert (summary.dice, summary.n_false_alarms) == (0.5, 1)


def test_its_hd95_of_a_missed_class_is_nan_and_leaves_the_mean() -> None:
    y_pred, y = one_hot(NOTHING, 2), one_hot(LESION, 2)
    assert compute_hausdorff_distance(y_pred, y, percentile=95).isnan().all()
    assert compute_hausdorff_distance(y_pred, y).isinf().all(), "without a percentile it is infinite instead"
    assert ours(LESION, NOTHING).hd95_mm == DIAGONAL_MM

    near = np.roll(LESION, 1, axis=1)
    cases = [(LESION, near), (LESION, NOTHING)]
    assert mean_over_cases(HausdorffDistanceMetric(percentile=95), *cases) == 1.0
    (summary,) = summarise([[ours(*case)] for case in cases])
    assert (summary.hd95_mm, summary.n_missed) == ((1.0 + DIAGONAL_MM) / 2, 1)


def test_its_mean_hd95_of_missed_classes_alone_is_a_perfect_zero() -> None:
    cases = [(LESION, NOTHING), (LESION, NOTHING)]
    assert mean_over_cases(HausdorffDistanceMetric(percentile=95), *cases) == 0.0
    (summary,) = summarise([[ours(*case)] for case in cases])
    assert (summary.hd95_mm, summary.n_missed, summary.n_cases) == (DIAGONAL_MM, 2, 2)


def test_its_average_surface_distance_of_a_missed_class_is_infinite() -> None:
    cases = [(LESION, LESION), (LESION, NOTHING)]
    assert math.isinf(mean_over_cases(SurfaceDistanceMetric(symmetric=True), *cases))
    (summary,) = summarise([[ours(*case)] for case in cases])
    assert summary.assd_mm == DIAGONAL_MM / 2


def test_its_scores_of_a_class_that_nobody_shows_are_nan() -> None:
    assert np.isnan(monai_surfaces(NOTHING, NOTHING, 2, (1.0, 1.0), 2.0)[0, [0, 2]]).all()
    nobody = ours(NOTHING, NOTHING)
    assert (nobody.dice, nobody.hd95_mm, nobody.assd_mm, nobody.nsd, nobody.boundary_iou) == (None,) * 5


def test_its_surface_dice_of_a_missed_class_is_zero_and_so_is_ours() -> None:
    assert mean_over_cases(SurfaceDiceMetric([2.0]), (LESION, NOTHING)) == 0.0
    assert ours(LESION, NOTHING).nsd == 0.0
    assert ours(NOTHING, LESION).nsd == 0.0


def test_its_distances_and_thresholds_are_in_voxels_unless_spacing_is_passed() -> None:
    moved = np.roll(LESION, 2, axis=1)
    spacing = (1.0, 3.0)
    y_pred, y = one_hot(moved, 2), one_hot(LESION, 2)
    assert compute_hausdorff_distance(y_pred, y, percentile=95).item() == 2.0
    assert compute_surface_dice(y_pred, y, [2.0]).item() == 1.0, "2 voxels pass as 2 mm, and are 6"
    apart = ours(LESION, moved, spacing)
    in_mm = monai_surfaces(LESION, moved, 2, spacing, 2.0)
    np.testing.assert_allclose([apart.hd95_mm or 0, apart.nsd or 0], in_mm[0, [0, 2]], rtol=1e-6)
    assert apart.hd95_mm == pytest.approx(6.0)
    assert (apart.nsd or 0) < 0.7


def test_its_surface_dice_counts_voxels_or_lengths_by_an_option_and_ours_counts_voxels() -> None:
    truth, prediction = boxes((30, 40), (10, 10), size=6), boxes((30, 40), (10, 11), size=6)
    maps = truth.astype(np.uint8), prediction.astype(np.uint8)
    # rings of 20 pixels: the upper and lower edges share 5 pixels each, which are 3 mm long where the others are 1 mm
    by_voxels, by_lengths = (
        monai_surfaces(*maps, 2, (1.0, 3.0), 0.0, use_subvoxels=subvoxels)[0, 2] for subvoxels in (False, True)
    )
    assert by_voxels == ours(*maps, (1.0, 3.0), mm=0.0).nsd == 0.5
    assert by_lengths > 0.6


def test_dice_hides_a_small_missed_lesion_and_targets_show_it() -> None:
    truth = (boxes((60, 60), (5, 5), size=30) | boxes((60, 60), (50, 50), size=3)).astype(np.uint8)
    prediction = boxes((60, 60), (5, 5), size=30).astype(np.uint8)
    assert mean_over_cases(DiceMetric(include_background=False), (truth, prediction)) == pytest.approx(0.995, abs=1e-4)
    by_part = DiceMetric(include_background=False, per_component=True)
    assert mean_over_cases(by_part, (truth, prediction)) == pytest.approx(0.5)

    metrics = ours(truth, prediction)
    assert metrics.dice == pytest.approx(0.995, abs=1e-4)
    assert [(t.n_voxels, t.hit) for t in metrics.targets] == [(900, True), (9, False)]
    small, medium, _ = recall_by_size(metrics.targets)
    assert (small.recall, medium.recall) == (0.0, 1.0)
