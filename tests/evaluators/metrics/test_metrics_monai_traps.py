"""Where MONAI's metrics mislead, shown on MONAI as it is, and what ours say instead."""

import numpy as np
import pytest
import torch
from mask_samples import Labels, boxes, measured, monai_surfaces, one_hot
from monai.metrics.hausdorff_distance import HausdorffDistanceMetric, compute_hausdorff_distance
from monai.metrics.meandice import DiceMetric
from monai.metrics.surface_dice import SurfaceDiceMetric, compute_surface_dice

from unetx_evaluators.evaluation import CaseScore
from unetx_evaluators.metrics import class_means, find_targets, recall_by_size

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is all 0, this may result in nan/inf distance"),
    pytest.mark.filterwarnings("ignore::FutureWarning:monai"),
    pytest.mark.filterwarnings("ignore:Voronoi computation is running on CPU"),
]

NAMES = ("background", "lesion")
LESION = boxes((30, 40), (10, 10), size=6).astype(np.uint8)
NOTHING = np.zeros_like(LESION)
DIAGONAL_MM = 50.0
Metric = DiceMetric | HausdorffDistanceMetric | SurfaceDiceMetric


def ours(
    truth: Labels, prediction: Labels, spacing: tuple[float, float] = (1.0, 1.0), mm: float = 2.0
) -> dict[str, float | None]:
    (values,) = measured(truth, prediction, NAMES, spacing, tolerance_mm=mm)
    return values


def our_mean(metric: str, *cases: tuple[Labels, Labels]) -> float:
    return class_means([CaseScore("a case", "lesion", ours(*case)) for case in cases], metric)["lesion"]


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
    assert our_mean("dice", *cases) == 0.5


def test_its_hd95_of_a_missed_class_is_nan_and_leaves_the_mean() -> None:
    y_pred, y = one_hot(NOTHING, 2), one_hot(LESION, 2)
    assert compute_hausdorff_distance(y_pred, y, percentile=95).isnan().all()
    assert compute_hausdorff_distance(y_pred, y).isinf().all(), "without a percentile it is infinite instead"
    assert ours(LESION, NOTHING)["hd95_mm"] == DIAGONAL_MM

    near = np.roll(LESION, 1, axis=1)
    cases = [(LESION, near), (LESION, NOTHING)]
    assert mean_over_cases(HausdorffDistanceMetric(percentile=95), *cases) == 1.0
    assert our_mean("hd95_mm", *cases) == (1.0 + DIAGONAL_MM) / 2


def test_its_mean_hd95_of_missed_classes_alone_is_a_perfect_zero() -> None:
    cases = [(LESION, NOTHING), (LESION, NOTHING)]
    assert mean_over_cases(HausdorffDistanceMetric(percentile=95), *cases) == 0.0
    assert our_mean("hd95_mm", *cases) == DIAGONAL_MM


def test_its_scores_of_a_class_that_nobody_shows_are_nan() -> None:
    assert np.isnan(monai_surfaces(NOTHING, NOTHING, 2, (1.0, 1.0), 2.0)).all()
    assert set(ours(NOTHING, NOTHING).values()) == {None}


def test_its_surface_dice_of_a_missed_class_is_zero_and_so_is_ours() -> None:
    assert mean_over_cases(SurfaceDiceMetric([2.0]), (LESION, NOTHING)) == 0.0
    assert ours(LESION, NOTHING)["nsd"] == 0.0
    assert ours(NOTHING, LESION)["nsd"] == 0.0


def test_its_distances_and_thresholds_are_in_voxels_unless_spacing_is_passed() -> None:
    moved = np.roll(LESION, 2, axis=1)
    spacing = (1.0, 3.0)
    y_pred, y = one_hot(moved, 2), one_hot(LESION, 2)
    assert compute_hausdorff_distance(y_pred, y, percentile=95).item() == 2.0
    assert compute_surface_dice(y_pred, y, [2.0]).item() == 1.0, "2 voxels pass as 2 mm, and are 6"
    apart = ours(LESION, moved, spacing)
    in_mm = monai_surfaces(LESION, moved, 2, spacing, 2.0)
    np.testing.assert_allclose([apart["hd95_mm"] or 0, apart["nsd"] or 0], in_mm[0], rtol=1e-6)
    assert apart["hd95_mm"] == pytest.approx(6.0)
    assert (apart["nsd"] or 0) < 0.7


def test_its_surface_dice_counts_voxels_or_lengths_by_an_option_and_ours_counts_voxels() -> None:
    truth, prediction = boxes((30, 40), (10, 10), size=6), boxes((30, 40), (10, 11), size=6)
    maps = truth.astype(np.uint8), prediction.astype(np.uint8)
    # rings of 20 pixels: the upper and lower edges share 5 pixels each, which are 3 mm long where the others are 1 mm
    by_voxels, by_lengths = (
        monai_surfaces(*maps, 2, (1.0, 3.0), 0.0, use_subvoxels=subvoxels)[0, 1] for subvoxels in (False, True)
    )
    assert by_voxels == ours(*maps, (1.0, 3.0), mm=0.0)["nsd"] == 0.5
    assert by_lengths > 0.6


def test_dice_hides_a_small_missed_lesion_and_targets_show_it() -> None:
    truth = (boxes((60, 60), (5, 5), size=30) | boxes((60, 60), (50, 50), size=3)).astype(np.uint8)
    prediction = boxes((60, 60), (5, 5), size=30).astype(np.uint8)
    assert mean_over_cases(DiceMetric(include_background=False), (truth, prediction)) == pytest.approx(0.995, abs=1e-4)
    by_part = DiceMetric(include_background=False, per_component=True)
    assert mean_over_cases(by_part, (truth, prediction)) == pytest.approx(0.5)

    assert ours(truth, prediction)["dice"] == pytest.approx(0.995, abs=1e-4)
    targets = find_targets(truth == 1, prediction == 1)
    assert targets == ((900, True), (9, False))
    small, medium, _ = recall_by_size(targets)
    assert (small.recall, medium.recall) == (0.0, 1.0)
