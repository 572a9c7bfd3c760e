"""The scores of a whole case: conventions, ignored voxels, and the laws that every pair of label maps obeys."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_samples import Labels, blobs, boxes, disturbed, monai_surfaces

from unetx_evaluators.evaluation import CaseScore
from unetx_evaluators.metrics import ClassMetrics, Target, objective, summarise
from unetx_evaluators.metrics.measure import case_metrics
from unetx_evaluators.metrics.overlap import dice_per_class, without_ignored
from unetx_evaluators.tasks.task import IGNORED

NAMES = ("background", "organ", "lesion")
MM = (1.0, 1.0, 4.0)
DIAGONAL_MM = (8**2 + 20**2 + 60**2) ** 0.5
"""Of the image of ``label_map`` with voxels of ``MM``."""
SHAPES = st.sampled_from([(11, 14), (7, 9, 6)])
SEEDS = st.integers(0, 2**32 - 1)


def label_map(organ: int = 1, lesion: int = 2) -> Labels:
    """An organ of 6 x 6 x 4 voxels with a lesion of 2 x 2 x 2 beside it, in an image of 8 x 20 x 15 voxels."""
    labels = np.zeros((8, 20, 15), np.uint8)
    labels[1:7, 1:7, 1:5] = organ
    labels[1:3, 10:12, 1:3] = lesion
    return labels


def test_a_perfect_prediction_scores_one_at_no_distance() -> None:
    organ, lesion = case_metrics(label_map(), label_map(), NAMES, MM)
    assert organ == ClassMetrics("organ", True, True, 1.0, 0.0, 0.0, 1.0, 1.0, (Target(144, hit=True),))
    assert lesion == ClassMetrics("lesion", True, True, 1.0, 0.0, 0.0, 1.0, 1.0, (Target(8, hit=True),))


def test_a_missed_class_scores_zero_at_the_images_diagonal() -> None:
    organ, lesion = case_metrics(label_map(), label_map(lesion=0), NAMES, MM)
    assert _scores(lesion) == pytest.approx((0.0, DIAGONAL_MM, DIAGONAL_MM, 0.0, 0.0))
    assert lesion.targets == (Target(8, hit=False),)
    assert (lesion.in_truth, lesion.in_prediction) == (True, False)
    assert (lesion.missed, lesion.false_alarm) == (True, False)
    assert (organ.dice, organ.missed, organ.false_alarm) == (1.0, False, False)


def test_a_false_alarm_scores_zero_at_the_images_diagonal_and_has_no_targets() -> None:
    _, lesion = case_metrics(label_map(lesion=0), label_map(), NAMES, MM)
    assert _scores(lesion) == pytest.approx((0.0, DIAGONAL_MM, DIAGONAL_MM, 0.0, 0.0))
    assert lesion.targets == ()
    assert (lesion.in_truth, lesion.in_prediction) == (False, True)
    assert (lesion.missed, lesion.false_alarm) == (False, True)


def test_a_class_that_nobody_shows_has_no_scores() -> None:
    organ, lesion = case_metrics(label_map(lesion=0), label_map(lesion=0), NAMES, MM)
    assert lesion == ClassMetrics("lesion", False, False, None, None, None, None, None, ())
    assert not lesion.missed
    assert not lesion.false_alarm
    assert organ.dice == 1.0


def test_the_tolerance_is_the_callers_or_the_default() -> None:
    truth, prediction = boxes((30, 30), (10, 10), size=5), boxes((30, 30), (10, 13), size=5)
    maps = (truth.astype(np.uint8), prediction.astype(np.uint8), NAMES[:2], (1.0, 1.0))
    shares = [case_metrics(*maps, tolerance_mm=mm)[0].nsd for mm in (0.0, 2.0, 3.0)]
    # of 16 ring pixels each, the two columns in which the squares overlap coincide at their ends
    assert shares[0] == 8 / 32
    assert shares[2] == 1.0
    assert case_metrics(*maps)[0].nsd == shares[1]
    assert shares[0] < (shares[1] or 0) < shares[2]


@settings(derandomize=True, deadline=None, max_examples=40)
@given(SEEDS, SHAPES)
def test_scores_lie_in_their_ranges_and_no_pair_is_as_bad_as_a_miss(seed: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = (rng.integers(0, 3, shape) * (rng.random(shape) < 0.05) for _ in range(2))
    spacing = tuple(rng.uniform(0.2, 5, len(shape)))
    penalty = float(np.linalg.norm(np.multiply(shape, spacing)))
    for label, m in enumerate(case_metrics(truth, prediction, NAMES, spacing), 1):
        assert (m.in_truth, m.in_prediction) == ((truth == label).any(), (prediction == label).any())
        scores = _scores(m)
        if not (m.in_truth or m.in_prediction):
            assert scores == (None,) * 5
        elif m.in_truth and m.in_prediction:
            assert all(score is not None and np.isfinite(score) for score in scores)
            assert 0 <= (m.assd_mm or 0) < penalty
            assert 0 <= (m.hd95_mm or 0) < penalty
            assert all(0 <= (share or 0) <= 1 for share in (m.dice, m.nsd, m.boundary_iou))
        else:
            assert scores == pytest.approx((0.0, penalty, penalty, 0.0, 0.0))


@settings(derandomize=True, deadline=None, max_examples=25)
@given(SEEDS, SHAPES)
def test_truth_and_prediction_can_change_places(seed: int, shape: tuple[int, ...]) -> None:
    truth, prediction = blobs(shape, seed, 3), blobs(shape, seed + 1, 3)
    there, back = (case_metrics(*maps, NAMES, MM[: len(shape)]) for maps in ((truth, prediction), (prediction, truth)))
    assert [_scores(m) for m in there] == [pytest.approx(_scores(m)) for m in back]


@settings(derandomize=True, deadline=None, max_examples=25)
@given(SEEDS, SHAPES)
def test_axes_can_change_places_with_their_spacings(seed: int, shape: tuple[int, ...]) -> None:
    truth = blobs(shape, seed, 3)
    prediction = disturbed(truth, 3, seed)
    spacing = (0.7, 1.5, 4.0)[: len(shape)]
    turned = case_metrics(truth.T, prediction.T, NAMES, spacing[::-1])
    straight = case_metrics(truth, prediction, NAMES, spacing)
    assert [_scores(m) for m in turned] == [pytest.approx(_scores(m)) for m in straight]
    assert [sorted(t.n_voxels for t in m.targets) for m in turned] == [
        sorted(t.n_voxels for t in m.targets) for m in straight
    ]


@settings(derandomize=True, deadline=None, max_examples=25)
@given(SEEDS, SHAPES)
def test_other_units_scale_distances_and_leave_shares_alone(seed: int, shape: tuple[int, ...]) -> None:
    truth = blobs(shape, seed, 3)
    prediction = disturbed(truth, 3, seed)
    spacing = MM[: len(shape)]
    in_mm = case_metrics(truth, prediction, NAMES, spacing, tolerance_mm=1.0)
    in_um = case_metrics(truth, prediction, NAMES, [1000 * mm for mm in spacing], tolerance_mm=1000.0)
    for mm, um in zip(in_mm, in_um, strict=True):
        assert (um.dice, um.nsd, um.boundary_iou) == (mm.dice, mm.nsd, mm.boundary_iou)
        assert _thousandth(um.hd95_mm) == pytest.approx(mm.hd95_mm)
        assert _thousandth(um.assd_mm) == pytest.approx(mm.assd_mm)


def _thousandth(value: float | None) -> float | None:
    return None if value is None else value / 1000


def _scores(m: ClassMetrics) -> tuple[float | None, ...]:
    return (m.dice, m.hd95_mm, m.assd_mm, m.nsd, m.boundary_iou)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(SEEDS, SHAPES)
def test_what_is_predicted_on_ignored_voxels_changes_nothing(seed: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    ignored = blobs(shape, seed) == 1
    truth = np.where(ignored, IGNORED, blobs(shape, seed + 1, 3)).astype(np.uint8)
    prediction = blobs(shape, seed + 2, 3)
    elsewhere = np.where(ignored, rng.integers(0, 256, shape), prediction)
    spacing = MM[: len(shape)]
    assert case_metrics(truth, prediction, NAMES, spacing) == case_metrics(truth, elsewhere, NAMES, spacing)


def test_an_object_ends_where_ignored_voxels_begin_as_at_the_border_of_the_image() -> None:
    truth, prediction = label_map(), label_map()
    prediction[1:7, 6:8, 1:5] = 1  # two voxels too far along the second axis, all behind the cut
    cut_truth = truth.copy()
    cut_truth[:, 4:] = IGNORED
    organ, lesion = case_metrics(cut_truth, prediction, NAMES, MM)
    assert (organ.dice, organ.hd95_mm, organ.nsd, organ.boundary_iou) == (1.0, 0.0, 1.0, 1.0)
    assert organ.targets == (Target(6 * 3 * 4, hit=True),)
    assert (lesion.in_truth, lesion.in_prediction) == (False, False), "ignored altogether"
    at_the_border, _ = case_metrics(truth[:, :4], prediction[:, :4], NAMES, MM)
    assert _scores(at_the_border) == _scores(organ)


def test_ignored_voxels_count_as_in_monai() -> None:
    spacing = (1.0, 1.5, 2.0)
    truth = blobs((16, 18, 14), 0, 3)
    prediction = disturbed(truth, 3, 1)
    truth[:, :, 9:] = IGNORED
    truth[4:7, 4:7, 4:7] = IGNORED
    behind = np.where(truth == IGNORED, IGNORED, prediction).astype(np.uint8)
    expected = monai_surfaces(truth, behind, 3, spacing, 2.0, ignore_index=IGNORED)
    ours = case_metrics(truth, prediction, NAMES, spacing, tolerance_mm=2.0)
    np.testing.assert_allclose(
        np.array([(m.hd95_mm, m.assd_mm, m.nsd) for m in ours], dtype=float), expected, rtol=1e-5
    )


def test_without_ignored_voxels_the_maps_are_handed_on_as_they_are() -> None:
    truth, prediction = label_map(), label_map(lesion=0)
    kept_truth, kept_prediction = without_ignored(truth, prediction)
    assert kept_truth is truth
    assert kept_prediction is prediction


@pytest.mark.parametrize(
    ("spacing", "tolerance_mm", "complaint"),
    [
        ((1.0, 1.0), None, r"one positive length in mm for each of 3 axes, got \(1.0, 1.0\)"),
        ((1.0, 0.0, 1.0), None, r"one positive length .* got \(1.0, 0.0, 1.0\)"),
        ((1.0, 1.0, float("nan")), None, "one positive length"),
        (MM, -1.0, "0 or more, got -1.0"),
        (MM, float("inf"), "0 or more, got inf"),
    ],
)
def test_lengths_that_make_no_sense_are_refused(
    spacing: tuple[float, ...], tolerance_mm: float | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        case_metrics(label_map(), label_map(), NAMES, spacing, tolerance_mm=tolerance_mm)


def test_labels_and_shapes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(8, 20, 15\) and \(7, 20, 15\)"):
        case_metrics(label_map(), label_map()[:7], NAMES, MM)
    with pytest.raises(ValueError, match=r"labels of the truth lie in 0..1, got 0..2"):
        case_metrics(label_map(), label_map(lesion=0), NAMES[:2], MM)
    with pytest.raises(ValueError, match=r"labels of the prediction lie in 0..2, got 0..255"):
        case_metrics(label_map(), label_map(lesion=IGNORED), NAMES, MM)


def test_a_summary_counts_cases_and_takes_means_over_those_that_have_a_score() -> None:
    both, organ_only = label_map(), label_map(lesion=0)
    cases = [
        case_metrics(truth, prediction, NAMES, MM)
        for truth, prediction in ((both, both), (both, organ_only), (organ_only, both), (organ_only, organ_only))
    ]
    organ, lesion = summarise(cases)
    assert (organ.class_name, organ.n_cases, organ.n_missed, organ.n_false_alarms) == ("organ", 4, 0, 0)
    assert (organ.dice, organ.hd95_mm, organ.assd_mm, organ.nsd, organ.boundary_iou) == (1.0, 0.0, 0.0, 1.0, 1.0)
    assert (lesion.class_name, lesion.n_cases, lesion.n_missed, lesion.n_false_alarms) == ("lesion", 2, 1, 1)
    assert lesion.dice == lesion.nsd == lesion.boundary_iou == pytest.approx(1 / 3)
    assert lesion.hd95_mm == lesion.assd_mm == pytest.approx(DIAGONAL_MM * 2 / 3)
    assert [(r.size, r.n_targets, r.n_hit) for r in lesion.recalls] == [
        ("small", 2, 1),
        ("medium", 0, 0),
        ("large", 0, 0),
    ]
    (nobody,) = summarise([cases[3][1:]])
    assert (nobody.n_cases, nobody.dice, nobody.hd95_mm) == (0, None, None)


def test_a_summary_keeps_scores_apart() -> None:
    one = ClassMetrics("organ", True, True, 0.1, 2.0, 3.0, 0.4, 0.5, (Target(7, hit=True),))
    other = ClassMetrics("organ", True, True, 0.3, 4.0, 5.0, 0.6, 0.7, (Target(9, hit=False),))
    (organ,) = summarise([[one], [other]])
    means = (organ.dice, organ.hd95_mm, organ.assd_mm, organ.nsd, organ.boundary_iou)
    assert means == pytest.approx((0.2, 3.0, 4.0, 0.5, 0.6))
    assert [r.n_targets for r in organ.recalls] == [1, 1, 0]


def test_summaries_agree_with_dice_per_class_and_the_objective() -> None:
    scores, cases = [], []
    for seed in range(4):
        truth = blobs((17, 13), seed, 3)
        prediction = disturbed(truth, 3, seed)
        cases.append(case_metrics(truth, prediction, NAMES, (1.0, 1.0)))
        assert tuple(m.dice for m in cases[-1]) == dice_per_class(truth, prediction, 3)
        scores += [CaseScore(str(seed), m.class_name, m.dice) for m in cases[-1]]
    assert np.mean([summary.dice or 0 for summary in summarise(cases)]) == pytest.approx(objective(scores))


def test_measuring_imports_no_torch() -> None:
    program = "import sys, unetx_evaluators.metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
