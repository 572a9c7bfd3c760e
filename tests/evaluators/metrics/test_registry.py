"""Dice and the objective against hands and MONAI, and a metric that is added in one place."""

import numpy as np
import pytest
import torch
from mask_samples import measured
from monai.metrics.meandice import DiceMetric

from unetx_evaluators.evaluation import CaseScore
from unetx_evaluators.metrics import class_means, comparison, objective

TRUTH = np.array([[0, 1, 1], [0, 2, 2], [0, 0, 2]], dtype=np.uint8)


def dice(
    truth: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]",
    prediction: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]",
    n_classes: int,
) -> tuple[float | None, ...]:
    names = tuple(map(str, range(n_classes)))
    return tuple(values["dice"] for values in measured(truth, prediction, names, (1.0,) * truth.ndim))


def test_dice_is_twice_the_intersection_over_the_sum_of_both() -> None:
    prediction = np.array([[0, 1, 0], [0, 2, 1], [0, 0, 2]], dtype=np.uint8)
    # class 1: truth 2, prediction 2, both 1; class 2: truth 3, prediction 2, both 2
    assert dice(TRUTH, prediction, 3) == (2 * 1 / 4, 2 * 2 / 5)
    assert dice(TRUTH, TRUTH, 3) == (1.0, 1.0)
    assert dice(TRUTH, np.zeros_like(TRUTH), 3) == (0.0, 0.0)


def test_a_class_absent_from_the_truth_is_left_out_only_when_nothing_was_predicted() -> None:
    truth = np.where(TRUTH == 2, 0, TRUTH).astype(np.uint8)
    assert dice(truth, truth, 3) == (1.0, None)
    assert dice(truth, TRUTH, 3) == (1.0, 0.0), "false positives alone are a miss, not a NaN"


def test_it_equals_monai_wherever_the_class_is_in_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 4, (2, 5, 9, 7, 6)).astype(np.uint8)
    metric = DiceMetric(include_background=False, reduction="none", num_classes=4)
    expected = metric(torch.from_numpy(prediction)[:, None], torch.from_numpy(truth)[:, None])
    assert isinstance(expected, torch.Tensor)
    for counted_together in (comparison.COUNTED_TOGETHER, 50):
        monkeypatch.setattr(comparison, "COUNTED_TOGETHER", counted_together)
        ours = [dice(t, p, 4) for t, p in zip(truth, prediction, strict=True)]
        np.testing.assert_allclose(np.array(ours, dtype=float), expected.numpy(), rtol=1e-6)


def test_monai_forgives_false_positives_on_an_absent_class_and_we_do_not() -> None:
    truth, prediction = np.zeros((1, 4, 4), np.uint8), np.ones((1, 4, 4), np.uint8)
    metric = DiceMetric(include_background=False, reduction="none", num_classes=2)
    monai = metric(torch.from_numpy(prediction)[:, None], torch.from_numpy(truth)[:, None])
    assert isinstance(monai, torch.Tensor)
    assert monai.isnan().all()
    assert dice(truth[0], prediction[0], 2) == (0.0,)


def score(case: str, class_name: str, value: float | None) -> CaseScore:
    return CaseScore(case, class_name, {"dice": value})


def test_class_means_leave_out_what_is_absent() -> None:
    scores = [score("a", "organ", 0.9), score("b", "organ", None), score("a", "tumour", None)]
    assert class_means(scores) == {"organ": 0.9}
    assert class_means(scores, "nsd") == {}, "not computed before the end"


def test_the_objective_weighs_classes_alike_however_many_cases_show_them() -> None:
    scores = [score("a", "organ", 0.9), score("b", "organ", 0.7), score("a", "lesion", 0.2), score("b", "lesion", None)]
    assert objective(scores) == pytest.approx((0.8 + 0.2) / 2)
    assert objective([score("a", "organ", 0.5), score("a", "lesion", None)]) == 0.5, "no case shows a lesion"


def test_an_objective_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="none has any"):
        objective([score("a", "organ", None)])
