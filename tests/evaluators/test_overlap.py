"""Dice per class and the objective, against hands and MONAI."""

import numpy as np
import pytest
import torch
from monai.metrics.meandice import DiceMetric

from unetx_evaluators.evaluation import CaseScore
from unetx_evaluators.metrics import overlap
from unetx_evaluators.metrics.overlap import class_means, dice_per_class, objective

TRUTH = np.array([[0, 1, 1], [0, 2, 2], [0, 0, 2]], dtype=np.uint8)


def test_dice_is_twice_the_intersection_over_the_sum_of_both() -> None:
    prediction = np.array([[0, 1, 0], [0, 2, 1], [0, 0, 2]], dtype=np.uint8)
    # class 1: truth 2, prediction 2, both 1; class 2: truth 3, prediction 2, both 2
    assert dice_per_class(TRUTH, prediction, 3) == (2 * 1 / 4, 2 * 2 / 5)


def test_a_perfect_prediction_scores_one_and_a_disjoint_one_zero() -> None:
    assert dice_per_class(TRUTH, TRUTH, 3) == (1.0, 1.0)
    assert dice_per_class(TRUTH, np.zeros_like(TRUTH), 3) == (0.0, 0.0)


def test_a_class_absent_from_the_truth_is_left_out_only_when_nothing_was_predicted() -> None:
    truth = np.where(TRUTH == 2, 0, TRUTH).astype(np.uint8)
    assert dice_per_class(truth, truth, 3) == (1.0, None)
    assert dice_per_class(truth, TRUTH, 3) == (1.0, 0.0), "false positives alone are a miss, not a NaN"


def test_it_equals_monai_wherever_the_class_is_in_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 4, (2, 5, 9, 7, 6)).astype(np.uint8)
    metric = DiceMetric(include_background=False, reduction="none", num_classes=4)
    expected = metric(torch.from_numpy(prediction)[:, None], torch.from_numpy(truth)[:, None])
    assert isinstance(expected, torch.Tensor)
    ours = [dice_per_class(t, p, 4) for t, p in zip(truth, prediction, strict=True)]
    np.testing.assert_allclose(np.array(ours, dtype=float), expected.numpy(), rtol=1e-6)


def test_monai_forgives_false_positives_on_an_absent_class_and_we_do_not() -> None:
    truth, prediction = np.zeros((1, 4, 4), np.uint8), np.ones((1, 4, 4), np.uint8)
    metric = DiceMetric(include_background=False, reduction="none", num_classes=2)
    monai = metric(torch.from_numpy(prediction)[:, None], torch.from_numpy(truth)[:, None])
    assert isinstance(monai, torch.Tensor)
    assert monai.isnan().all()
    assert dice_per_class(truth[0], prediction[0], 2) == (0.0,)


@pytest.mark.parametrize(
    ("truth", "prediction", "complaint"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"one shape, got \(2, 3\) and \(3, 2\)"),
        (np.full((2, 2), 3), np.zeros((2, 2), int), r"labels of the truth lie in 0..2, got 3..3"),
        (np.zeros((2, 2), int), np.full((2, 2), -1), r"labels of the prediction lie in 0..2, got -1..-1"),
    ],
)
def test_what_is_no_pair_of_label_maps_is_refused(
    truth: "np.ndarray[tuple[int, int], np.dtype[np.int64]]",
    prediction: "np.ndarray[tuple[int, int], np.dtype[np.int64]]",
    complaint: str,
) -> None:
    with pytest.raises(ValueError, match=complaint):
        dice_per_class(truth, prediction, 3)


def test_voxels_are_counted_part_by_part_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, prediction = np.random.default_rng(0).integers(0, 4, (2, 9, 7, 6)).astype(np.uint8)
    whole = dice_per_class(truth, prediction, 4)
    monkeypatch.setattr(overlap, "COUNTED_TOGETHER", 50)
    assert dice_per_class(truth, prediction, 4) == whole


def test_class_means_leave_out_what_is_absent() -> None:
    scores = [CaseScore("a", "organ", 0.9), CaseScore("b", "organ", None), CaseScore("a", "tumour", None)]
    assert class_means(scores) == {"organ": 0.9}


def test_the_objective_weighs_classes_alike_however_many_cases_show_them() -> None:
    scores = [
        CaseScore("a", "organ", 0.9),
        CaseScore("b", "organ", 0.7),
        CaseScore("a", "lesion", 0.2),
        CaseScore("b", "lesion", None),
    ]
    assert objective(scores) == pytest.approx((0.8 + 0.2) / 2)


def test_the_objective_leaves_out_a_class_that_no_case_shows() -> None:
    assert objective([CaseScore("a", "organ", 0.5), CaseScore("a", "lesion", None)]) == 0.5


def test_an_objective_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="none has any"):
        objective([CaseScore("a", "organ", None)])
