"""The metrics of a whole case: conventions, ignored voxels, and the laws that every pair of label maps obeys."""

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_samples import Labels, blobs, boxes, disturbed, measured, monai_surfaces

from unetx_evaluators.metrics import METRICS, case_scores, class_means, find_targets, objective, summarise
from unetx_evaluators.metrics.comparison import compare
from unetx_evaluators.tasks.task import IGNORED

NAMES = ("background", "organ", "lesion")
MM = (1.0, 1.0, 4.0)
DIAGONAL_MM = (8**2 + 20**2 + 60**2) ** 0.5
"""Of the image of ``label_map`` with voxels of ``MM``."""
SHAPES = st.sampled_from([(11, 14), (7, 9, 6)])
SEEDS = st.integers(0, 2**32 - 1)
SHARES = ("dice", "nsd", "boundary_iou", "original_dice")
PERFECT = dict.fromkeys(SHARES, 1.0) | {"hd95_mm": 0.0}


def label_map(organ: int = 1, lesion: int = 2) -> Labels:
    """An organ of 6 x 6 x 4 voxels with a lesion of 2 x 2 x 2 beside it, in an image of 8 x 20 x 15 voxels."""
    labels = np.zeros((8, 20, 15), np.uint8)
    labels[1:7, 1:7, 1:5] = organ
    labels[1:3, 10:12, 1:3] = lesion
    return labels


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        (label_map(), label_map(), PERFECT),
        (label_map(), label_map(lesion=0), dict.fromkeys(SHARES, 0.0) | {"hd95_mm": DIAGONAL_MM}),
        (label_map(lesion=0), label_map(), dict.fromkeys(SHARES, 0.0) | {"hd95_mm": DIAGONAL_MM}),
        (label_map(lesion=0), label_map(lesion=0), dict.fromkeys(PERFECT, None)),
    ],
    ids=["perfect", "missed", "false alarm", "shown by nobody"],
)
def test_a_miss_scores_zero_at_the_images_diagonal_and_what_nobody_shows_has_no_scores(
    truth: Labels, prediction: Labels, expected: dict[str, float | None]
) -> None:
    organ, lesion = measured(truth, prediction, NAMES, MM)
    assert lesion == pytest.approx(expected)
    assert organ == PERFECT


def test_the_tolerance_is_the_callers_or_the_default() -> None:
    truth, prediction = boxes((30, 30), (10, 10), size=5), boxes((30, 30), (10, 13), size=5)
    maps = (truth.astype(np.uint8), prediction.astype(np.uint8), NAMES[:2], (1.0, 1.0))
    shares = [measured(*maps, tolerance_mm=mm)[0]["nsd"] for mm in (0.0, 2.0, 3.0)]
    # of 16 ring pixels each, the two columns in which the squares overlap coincide at their ends
    assert shares[0] == 8 / 32
    assert shares[2] == 1.0
    assert measured(*maps)[0]["nsd"] == shares[1]
    assert shares[0] < (shares[1] or 0) < shares[2]


@settings(derandomize=True, deadline=None, max_examples=40)
@given(SEEDS, SHAPES)
def test_scores_lie_in_their_ranges_and_no_pair_is_as_bad_as_a_miss(seed: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = (rng.integers(0, 3, shape) * (rng.random(shape) < 0.05) for _ in range(2))
    spacing = tuple(rng.uniform(0.2, 5, len(shape)))
    penalty = float(np.linalg.norm(np.multiply(shape, spacing)))
    for label, scores in enumerate(measured(truth, prediction, NAMES, spacing), 1):
        shown = (truth == label).any(), (prediction == label).any()
        if not any(shown):
            assert scores == dict.fromkeys(PERFECT, None)
        elif all(shown):
            assert 0 <= (scores["hd95_mm"] or 0) < penalty
            assert all(0 <= (scores[share] or 0) <= 1 for share in SHARES)
        else:
            assert scores == pytest.approx(dict.fromkeys(SHARES, 0.0) | {"hd95_mm": penalty})


@settings(derandomize=True, deadline=None, max_examples=25)
@given(SEEDS, SHAPES)
def test_truth_and_prediction_and_the_axes_can_change_places(seed: int, shape: tuple[int, ...]) -> None:
    truth, spacing = blobs(shape, seed, 3), (0.7, 1.5, 4.0)[: len(shape)]
    for prediction in (disturbed(truth, 3, seed), blobs(shape, seed + 1, 3)):
        straight = measured(truth, prediction, NAMES, spacing)
        assert [pytest.approx(m) for m in straight] == measured(prediction, truth, NAMES, spacing)
        assert [pytest.approx(m) for m in straight] == measured(truth.T, prediction.T, NAMES, spacing[::-1])
    for label in (1, 2):
        straight_targets, turned = (find_targets(t == label, t == 0) for t in (truth, truth.T))
        assert sorted(straight_targets) == sorted(turned)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(SEEDS, SHAPES)
def test_other_units_scale_distances_and_leave_shares_alone(seed: int, shape: tuple[int, ...]) -> None:
    truth = blobs(shape, seed, 3)
    prediction = disturbed(truth, 3, seed)
    spacing = MM[: len(shape)]
    in_mm = measured(truth, prediction, NAMES, spacing, tolerance_mm=1.0)
    in_um = measured(truth, prediction, NAMES, [1000 * mm for mm in spacing], tolerance_mm=1000.0)
    for mm, um in zip(in_mm, in_um, strict=True):
        assert [um[share] for share in SHARES] == [mm[share] for share in SHARES]
        assert um["hd95_mm"] == (None if mm["hd95_mm"] is None else pytest.approx(1000 * mm["hd95_mm"]))


@settings(derandomize=True, deadline=None, max_examples=25)
@given(SEEDS, SHAPES)
def test_what_is_predicted_on_ignored_voxels_changes_nothing(seed: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    ignored = blobs(shape, seed) == 1
    truth = np.where(ignored, IGNORED, blobs(shape, seed + 1, 3)).astype(np.uint8)
    prediction = blobs(shape, seed + 2, 3)
    elsewhere = np.where(ignored, rng.integers(0, 256, shape), prediction)
    spacing = MM[: len(shape)]
    assert measured(truth, prediction, NAMES, spacing) == measured(truth, elsewhere, NAMES, spacing)


def test_an_object_ends_where_ignored_voxels_begin_as_at_the_border_of_the_image() -> None:
    truth, prediction = label_map(), label_map()
    prediction[1:7, 6:8, 1:5] = 1  # two voxels too far along the second axis, all behind the cut
    cut_truth = truth.copy()
    cut_truth[:, 4:] = IGNORED
    organ, lesion = compare(cut_truth, prediction, 3, MM)
    assert [(t.n_voxels, t.hit) for t in find_targets(*organ.masks)] == [(6 * 3 * 4, True)]
    assert (lesion.n_true, lesion.n_predicted) == (0, 0), "ignored altogether"
    cut, _ = measured(cut_truth, prediction, NAMES, MM)
    at_the_border, _ = measured(truth[:, :4], prediction[:, :4], NAMES, MM)
    assert cut == at_the_border == PERFECT


def test_ignored_voxels_count_as_in_monai() -> None:
    spacing = (1.0, 1.5, 2.0)
    truth = blobs((16, 18, 14), 0, 3)
    prediction = disturbed(truth, 3, 1)
    truth[:, :, 9:] = IGNORED
    truth[4:7, 4:7, 4:7] = IGNORED
    behind = np.where(truth == IGNORED, IGNORED, prediction).astype(np.uint8)
    expected = monai_surfaces(truth, behind, 3, spacing, 2.0, ignore_index=IGNORED)
    ours = measured(truth, prediction, NAMES, spacing, tolerance_mm=2.0)
    np.testing.assert_allclose(np.array([(m["hd95_mm"], m["nsd"]) for m in ours], dtype=float), expected, rtol=1e-5)


def test_without_ignored_voxels_no_map_is_copied() -> None:
    truth, prediction = label_map(), label_map(lesion=0)
    organ, _ = compare(truth, prediction, 3, MM)
    assert organ.case.truth is truth
    assert organ.case.prediction is prediction


@pytest.mark.parametrize(
    ("truth", "prediction", "n_classes", "spacing", "tolerance_mm", "complaint"),
    [
        (label_map(), label_map(), 3, (1.0, 1.0), None, r"one positive length in mm for each of 3 axes, got \(1.0, 1"),
        (label_map(), label_map(), 3, (1.0, 0.0, 1.0), None, r"one positive length .* got \(1.0, 0.0, 1.0\)"),
        (label_map(), label_map(), 3, (1.0, 1.0, float("nan")), None, "one positive length"),
        (label_map(), label_map(), 3, MM, -1.0, "0 or more, got -1.0"),
        (label_map(), label_map(), 3, MM, float("inf"), "0 or more, got inf"),
        (label_map(), label_map()[:7], 3, MM, None, r"one shape, got \(8, 20, 15\) and \(7, 20, 15\)"),
        (label_map(), label_map(lesion=0), 2, MM, None, r"labels of the truth lie in 0..1, got 0..2"),
        (label_map(), label_map(lesion=IGNORED), 3, MM, None, r"labels of the prediction lie in 0..2, got 0..255"),
        (label_map(), label_map().astype(int) - 1, 3, MM, None, r"labels of the prediction lie in 0..2, got -1..1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    truth: Labels,
    prediction: Labels,
    n_classes: int,
    spacing: Sequence[float],
    tolerance_mm: float | None,
    complaint: str,
) -> None:
    with pytest.raises(ValueError, match=complaint):
        compare(truth, prediction, n_classes, spacing, tolerance_mm=tolerance_mm)


def test_averages_are_over_the_cases_that_have_a_score() -> None:
    both, organ_only = label_map(), label_map(lesion=0)
    scores = [
        score
        for truth, prediction in ((both, both), (both, organ_only), (organ_only, both), (organ_only, organ_only))
        for score in case_scores("a case", NAMES, *[compare(truth, prediction, 3, MM)] * 2)
    ]
    assert class_means(scores, "hd95_mm") == {"organ": 0.0, "lesion": pytest.approx(DIAGONAL_MM * 2 / 3)}
    for share in SHARES:
        assert class_means(scores, share) == {"organ": 1.0, "lesion": pytest.approx(1 / 3)}
        assert objective(scores, share) == pytest.approx(2 / 3)
    told = summarise(scores)
    assert list(told) == list(METRICS)
    assert told["hd95_mm"] == {
        "title": "HD95",
        "unit": "mm",
        "higher_is_better": False,
        "by_class": class_means(scores, "hd95_mm"),
    }
    assert summarise(scores[-1:]) == {}, "nobody shows the lesion there"


def test_measuring_imports_no_torch() -> None:
    program = "import sys, unetx_evaluators.metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
