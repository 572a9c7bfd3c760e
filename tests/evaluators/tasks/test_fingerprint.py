from __future__ import annotations

import json
import pickle
from dataclasses import asdict

import numpy as np
import pytest
from narrowing import there

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.fingerprint import MAX_VOXELS, N_QUANTILES, CaseFacts, Fingerprint, fingerprint, survey
from unetx_evaluators.tasks.sources.base import RawCase
from unetx_evaluators.tasks.task import IGNORED


def _case(shape: tuple[int, ...] = (8, 9, 10), spacing: tuple[float, ...] = (1.0, 1.0, 2.0)) -> RawCase:
    """Two channels, zero but for a block; class 1 inside it, an ignored voxel."""
    image = np.zeros((2, *shape), dtype=np.float32)
    label = np.zeros(shape, dtype=np.uint8)
    image[0, 2:5, 3:7, 1:9] = 5.0
    image[1, 2:5, 3:7, 1:9] = -7.5
    image[1, 2, 3, 1] = 40.0
    label[3, 4:6, 2:4] = 1
    label[4, 4, 4] = IGNORED
    return RawCase(image, label, spacing)


def test_a_case_is_cropped_to_what_is_not_zero() -> None:
    facts = survey(_case(), "a", 2)
    assert facts.box == ((2, 3, 1), (5, 7, 9))
    assert facts.cropped_shape == (3, 4, 8)
    assert _case().label[facts.crop].shape == (3, 4, 8)


def test_cropping_leaves_no_foreground_behind() -> None:
    case = _case()
    case.label[7, 0, 0] = 1
    assert survey(case, "a", 2).box == ((2, 0, 0), (8, 7, 9))


def test_a_case_of_zeros_is_not_cropped() -> None:
    case = RawCase(np.zeros((1, 4, 5), np.float32), np.zeros((4, 5), np.uint8), (1.0, 1.0))
    assert survey(case, "a", 2).box == ((0, 0), (4, 5))


def test_the_facts_count_classes_and_bound_intensities() -> None:
    facts = survey(_case(), "a", 3)
    assert facts.class_voxels == (8 * 9 * 10 - 5, 4, 0)
    assert facts.ranges == ((0.0, 5.0), (-7.5, 40.0))
    assert (facts.shape, facts.spacing) == ((8, 9, 10), (1.0, 1.0, 2.0))


def test_thickness_is_in_mm_and_in_slices_on_request() -> None:
    case = RawCase(np.ones((1, 40, 40, 12), np.float32), np.zeros((40, 40, 12), np.uint8), (1.0, 1.0, 3.0))
    case.label[10:30, 10:30, 5:7] = 1  # two slices of 20 x 20
    (_, flat), (_, wide) = survey(case, "a", 2).thickness, survey(case, "a", 2, in_slices=True).thickness
    assert wide is not None
    assert there(flat).typical < 4 * 3 < wide.typical
    alone = there(survey(RawCase(case.image[..., 5], case.label[..., 5], (1.0, 1.0)), "a", 2).thickness[1])
    assert wide.typical == pytest.approx(alone.typical)


def test_the_fingerprint_knows_the_thickness_over_the_cases_that_show_a_class() -> None:
    cases = [_facts((200, 200), (1, 1), width, 200 * width) for width in (4, 6, 20)]
    seen = fingerprint([*cases, _facts((200, 200), (1, 1), 1, 0)])
    background, slab, absent = seen.thickness
    assert (background, absent) == (None, None)
    assert slab is not None
    assert slab.typical == pytest.approx(6, rel=0.05)  # the median of 4, 6, 20
    assert slab.finest == pytest.approx(4.4, rel=0.05)  # their tenth percentile


def test_intensities_are_those_of_the_foreground_alone() -> None:
    case = _case()
    case.image[0, case.label == 1] = (1, 2, 3, 4)
    case.image[0, case.label == IGNORED] = 99
    facts = survey(case, "a", 2)
    assert {len(channel) for channel in facts.intensities} == {N_QUANTILES}
    assert set(facts.intensities[0]) == {1.0, 2.0, 3.0, 4.0}
    assert set(facts.intensities[1]) == {-7.5}


def test_the_same_case_gives_the_same_facts() -> None:
    assert survey(_case(), "a", 2) == survey(_case(), "a", 2)


def test_a_label_that_no_class_has_is_refused_with_the_case_and_the_value() -> None:
    case = _case()
    case.label[0, 0, 0] = 6
    with pytest.raises(DataError, match=r"case a: label values are 0 to 1, .*got \[6\]; mend the label map"):
        survey(case, "a", 2)


def test_facts_and_fingerprint_survive_json_and_pickle() -> None:
    facts = survey(_case(), "a", 2)
    assert CaseFacts.from_json(json.loads(json.dumps(asdict(facts)))) == facts
    assert pickle.loads(pickle.dumps(facts)) == facts
    seen = fingerprint([facts, survey(_case((9, 9, 12)), "b", 2)])
    assert Fingerprint.from_json(json.loads(json.dumps(asdict(seen)))) == seen


def _facts(shape: tuple[int, ...], spacing: tuple[float, ...], intensity: float, n_foreground: int) -> CaseFacts:
    """A case of ones with ``n_foreground`` voxels of one intensity, in the order of the array."""
    image, label = np.ones((1, *shape), np.float32), np.zeros(shape, np.uint8)
    image.reshape(-1)[:n_foreground] = intensity
    label.reshape(-1)[:n_foreground] = 1
    return survey(RawCase(image, label, spacing), f"case{intensity}", 3)


def test_the_fingerprint_takes_medians_over_the_cases() -> None:
    cases = [_facts((40, 30), (1, 2), 1, 3), _facts((60, 90), (3, 2), 2, 3), _facts((50, 70), (2, 2), 3, 3)]
    seen = fingerprint(cases)
    assert seen.n_cases == 3
    assert seen.median_shape == (50, 70)
    assert seen.median_spacing == (2.0, 2.0)
    assert seen.class_voxels == (40 * 30 + 60 * 90 + 50 * 70 - 9, 9, 0)
    assert seen.class_cases == (3, 3, 0)


def test_every_case_counts_alike_in_the_intensities_however_much_foreground_it_has() -> None:
    seen = fingerprint([_facts((20, 20), (1, 1), 10, 2), _facts((20, 20), (1, 1), 20, 300)])
    (grey,) = seen.intensities
    assert grey.mean == 15.0
    assert grey.std == 5.0
    assert (grey.low, grey.high) == (10.0, 20.0)


def test_a_case_without_foreground_says_nothing_of_intensities() -> None:
    seen = fingerprint([_facts((20, 20), (1, 1), 10, 2), _facts((20, 20), (1, 1), 20, 0)])
    assert seen.intensities[0].mean == 10.0
    assert seen.class_cases == (2, 1, 0)


def test_percentiles_are_those_of_the_foreground() -> None:
    image = np.arange(200.0, dtype=np.float32).reshape(1, 10, 20)
    facts = survey(RawCase(image, np.ones((10, 20), np.uint8), (1.0, 1.0)), "ramp", 2)
    (ramp,) = fingerprint([facts]).intensities
    assert (ramp.low, ramp.median, ramp.high) == pytest.approx((0.995, 99.5, 198.005), abs=0.51)  # of 0..199
    assert (ramp.mean, ramp.std) == pytest.approx((image.mean(), image.std()))


def test_the_first_of_the_remembered_intensities_are_a_fair_sample() -> None:
    image = np.arange(2000.0, dtype=np.float32).reshape(1, 40, 50)
    (ramp,) = survey(RawCase(image, np.ones((40, 50), np.uint8), (1.0, 1.0)), "ramp", 2).intensities
    assert len(set(ramp)) == N_QUANTILES
    assert np.mean(ramp[:50]) == pytest.approx(999.5, abs=40)
    assert np.std(ramp[:50]) == pytest.approx(image.std(), abs=40)


def test_of_a_large_foreground_a_fair_part_is_looked_at() -> None:
    image = np.random.default_rng(1).normal(size=(1, MAX_VOXELS // 100, 300)).astype(np.float32)
    (normal,) = fingerprint(
        [survey(RawCase(image, np.ones(image.shape[1:], np.uint8), (1.0, 1.0)), "n", 2)]
    ).intensities
    assert (normal.mean, normal.std) == pytest.approx((0.0, 1.0), abs=0.02)
    assert (normal.low, normal.high) == pytest.approx((-2.576, 2.576), abs=0.05)  # of the standard normal


def test_the_share_that_cropping_leaves_is_a_median() -> None:
    shapes = ((8, 9, 10), (8, 9, 20), (8, 18, 20))  # with 3x4x8 voxels that are not zero in each
    seen = fingerprint([survey(_case(shape), "a", 2) for shape in shapes])
    assert seen.kept_share == pytest.approx(3 * 4 * 8 / (8 * 9 * 20))


def test_training_cases_without_any_foreground_are_refused() -> None:
    with pytest.raises(DataError, match="none of the 1 training cases has a labelled voxel; check the labels"):
        fingerprint([_facts((4, 4), (1, 1), 1, 0)])
