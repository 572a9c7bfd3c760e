from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.fingerprint import CaseFacts, Fingerprint, Intensities, fingerprint, survey
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.preprocessing import (
    ChannelNormalisation,
    Preparation,
    choose_preparation,
    normalised,
    prepare_case,
    prepared_shape,
    restored_label,
)
from unetx_evaluators.tasks.sources.base import RawCase
from unetx_evaluators.tasks.task import IGNORED, Label

GREY = Intensities(mean=40.0, std=20.0, median=41.0, low=-100.0, high=240.0)


def _seen(
    spacings: list[tuple[float, ...]], shapes: list[tuple[int, ...]], *, n_channels: int = 1, kept_share: float = 1.0
) -> Fingerprint:
    return Fingerprint(tuple(shapes), tuple(spacings), kept_share, (GREY,) * n_channels, (1, 1), (1, 1), (None, None))


def _case(
    shape: tuple[int, ...], spacing: tuple[float, ...], *, n_channels: int = 1, seed: int = 0
) -> tuple[RawCase, CaseFacts]:
    """Noise without a zero, and a block of foreground."""
    rng = np.random.default_rng(seed)
    image = rng.uniform(1, 2, size=(n_channels, *shape)).astype(np.float32)
    label = np.zeros(shape, dtype=np.uint8)
    label[tuple(slice(n // 4, n - n // 4) for n in shape)] = 1
    case = RawCase(image, label, spacing)
    return case, survey(case, "noise", 2)


def _chosen(case: RawCase, facts: CaseFacts, **options: Any) -> Preparation:
    """With the case as the only one."""
    names = tuple(f"channel {index}" for index in range(len(case.image)))
    return choose_preparation(fingerprint([facts]), 3 if case.label.ndim == 3 else 2, names, TaskOptions(**options))


# Normalisation


def test_ct_is_clipped_and_scaled_by_the_foreground_of_the_training_cases() -> None:
    how = ChannelNormalisation("ct", mean=40.0, std=20.0, low=-100.0, high=240.0)
    hounsfield = np.array([[-1000.0, 40.0], [60.0, 3000.0]], dtype=np.float32)
    np.testing.assert_array_equal(normalised(hounsfield, how), [[-7.0, 0.0], [1.0, 10.0]])


def test_a_z_score_has_mean_0_and_deviation_1() -> None:
    # By hand: mean 3, standard deviation sqrt((4 + 0 + 0 + 4) / 4).
    scores = normalised(np.array([[1.0, 3.0], [3.0, 5.0]], dtype=np.float32), ChannelNormalisation("case"))
    np.testing.assert_allclose(scores, np.array([[-2.0, 0.0], [0.0, 2.0]]) / math.sqrt(2), rtol=1e-6)


def test_a_masked_z_score_reads_and_changes_the_non_zero_region_only() -> None:
    channel = np.array([[0.0, 1.0], [3.0, 0.0]], dtype=np.float32)
    scores = normalised(channel, ChannelNormalisation("case", masked=True), channel > 0)
    np.testing.assert_array_equal(scores, [[0.0, -1.0], [1.0, 0.0]])


def test_holes_in_the_non_zero_region_belong_to_it() -> None:
    image = np.zeros((1, 9, 9), dtype=np.float32)
    image[0, 2:7, 2:7] = 2.0
    image[0, 4, 4] = 0.0
    case = RawCase(image, np.zeros((9, 9), np.uint8), (1.0, 1.0))
    preparation = Preparation(2, (1.0, 1.0), None, (ChannelNormalisation("case", masked=True),))
    prepared, _ = prepare_case(case, survey(case, "ring", 2), preparation)
    assert prepared.shape == (1, 5, 5)
    values = np.array([2.0] * 24 + [0.0])
    assert prepared[0, 2, 2] == pytest.approx((0 - values.mean()) / values.std())


def test_the_other_schemes() -> None:
    channel = np.array([[51.0, 255.0], [0.0, 102.0]], dtype=np.float32)
    np.testing.assert_allclose(normalised(channel, ChannelNormalisation("rgb")), [[0.2, 1.0], [0.0, 0.4]])
    np.testing.assert_allclose(normalised(channel + 51, ChannelNormalisation("range")), [[0.2, 1.0], [0.0, 0.4]])
    np.testing.assert_array_equal(normalised(channel, ChannelNormalisation("none")), channel)


@pytest.mark.parametrize("scheme", ["ct", "case", "range"])
def test_a_constant_channel_becomes_zeros(scheme: Literal["ct", "case", "range"]) -> None:
    how = ChannelNormalisation(scheme, mean=7.0, std=0.0, low=7.0, high=7.0)
    assert (normalised(np.full((3, 3), 7.0, np.float32), how) == 0).all()


def test_normalising_leaves_the_case_as_it_was() -> None:
    case, facts = _case((6, 7), (1.0, 1.0))
    before = case.image.copy()
    prepare_case(case, facts, _chosen(case, facts))
    np.testing.assert_array_equal(case.image, before)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *[("CT", "ct"), ("ct ", "ct"), ("MRI", "case"), ("T1", "case"), ("red", "case")],
        *[("zscore", "case"), ("noNorm", "none"), ("rescale_to_0_1", "range"), ("rgb_to_0_1", "rgb")],
    ],
)
def test_a_channel_is_normalised_by_its_name(name: str, scheme: str) -> None:
    chosen = choose_preparation(_seen([(1, 1)], [(9, 9)]), 2, (name,), TaskOptions())
    assert chosen.channels[0].scheme == scheme
    assert "channel's name" in chosen.reasons["normalisation"]


def test_every_channel_of_several_is_normalised_by_its_own_name() -> None:
    seen = replace(_seen([(1, 1)], [(9, 9)], n_channels=2), intensities=(replace(GREY, mean=1.0), GREY))
    chosen = choose_preparation(seen, 2, ("PET", "CT"), TaskOptions())
    assert chosen.channels == (ChannelNormalisation("case"), ChannelNormalisation("ct", 40.0, 20.0, -100.0, 240.0))
    forced = choose_preparation(seen, 2, ("PET", "CT"), TaskOptions(normalisation="ct"))
    assert [channel.mean for channel in forced.channels] == [1.0, 40.0]
    assert forced.reasons["normalisation"].count("set by the user") == 2


@pytest.mark.parametrize(("kept_share", "masked"), [(0.76, False), (0.75, False), (0.74, True)])
def test_statistics_are_of_the_non_zero_region_where_cropping_took_more_than_a_quarter(
    kept_share: float, masked: bool
) -> None:
    seen = _seen([(1, 1)], [(9, 9)], n_channels=2, kept_share=kept_share)
    chosen = choose_preparation(seen, 2, ("MRI", "CT"), TaskOptions())
    assert [channel.masked for channel in chosen.channels] == [masked, False]


# Spacing


@pytest.mark.parametrize(
    ("spacings", "shape", "target"),
    [  # nnunetv2 2.8.1, ExperimentPlanner.determine_fullres_target_spacing, the coarse axis last
        ([(1, 1, 5), (1, 1, 8), (0.9, 0.9, 10), (1.1, 1.1, 10)], (200, 200, 20), (1.0, 1.0, 5.9)),
        ([(1, 1, 5), (1, 1, 8), (0.9, 0.9, 10), (1.1, 1.1, 10)], (50, 50, 20), (1.0, 1.0, 9.0)),
        ([(1, 1, 0.5), (1, 1, 5), (1, 1, 6), (1, 1, 7)], (200, 220, 30), (1.0, 1.0, 1.85)),
        ([(1, 1, 3), (1, 1, 3.1), (1, 1, 2.9)], (200, 220, 30), (1.0, 1.0, 3.0)),
    ],
)
def test_the_target_spacing_is_nnunets(
    spacings: list[tuple[float, ...]], shape: tuple[int, ...], target: tuple[float, ...]
) -> None:
    chosen = choose_preparation(_seen(spacings, [shape] * len(spacings)), 3, ("MRI",), TaskOptions())
    assert chosen.spacing == pytest.approx(target)


def test_the_coarse_axis_does_not_become_finer_than_the_others() -> None:
    seen = _seen([(1.0, 1.0, mm) for mm in (0.2, 0.3, 6, 6, 6, 6, 6)], [(200, 200, 20)] * 7)
    assert choose_preparation(seen, 3, ("MRI",), TaskOptions()).spacing == pytest.approx((1.0, 1.0, 1.0))


def test_the_spacing_tells_where_it_comes_from() -> None:
    alike = choose_preparation(_seen([(1, 1, 1)] * 72, [(9, 9, 9)] * 72), 3, ("MRI",), TaskOptions())
    assert (
        alike.reasons["spacing"]
        == "1x1x1 mm: median of 72 training cases, which all have, so that nothing is resampled"
    )
    seen = _seen([(1, 1, 5), (1, 1, 6), (1, 1, 7)], [(200, 200, 20)] * 3)
    assert "10th percentile along axis 2" in choose_preparation(seen, 3, ("MRI",), TaskOptions()).reasons["spacing"]
    mine = choose_preparation(seen, 3, ("MRI",), TaskOptions(spacing=(2.0, 2.0, 2.5)))
    assert mine.spacing == (2.0, 2.0, 2.5)
    assert mine.reasons["spacing"] == "2x2x2.5 mm: set by the user"


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, -1.0, 1.0), (math.nan, 1.0, 1.0)])
def test_a_spacing_that_no_grid_can_have_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match=r"spacing: needs 3 lengths above 0 in mm, .* got .* for example 1.0, 1.0, 1.0"):
        choose_preparation(_seen([(1, 1, 1)], [(9, 9, 9)]), 3, ("MRI",), TaskOptions(spacing=spacing))


def test_three_dimensions_cannot_be_had_from_pictures() -> None:
    with pytest.raises(DataError, match="3 needs volumes, the data are 2D images"):
        choose_preparation(_seen([(1, 1)], [(9, 9)]), 2, ("grey",), TaskOptions(dims=3))


# Slices of volumes


@pytest.mark.parametrize(
    ("spacing", "axis"), [((1, 1, 5), 2), ((5, 1, 1), 0), ((1, 3, 1), 1), ((1, 1, 1), 2), ((2, 2, 1), 1)]
)
def test_slices_lie_across_the_coarsest_axis_the_last_of_several(spacing: tuple[float, ...], axis: int) -> None:
    chosen = choose_preparation(_seen([spacing], [(40, 41, 42)]), 3, ("MRI",), TaskOptions(dims=2))
    assert (chosen.dims, chosen.slice_axis) == (2, axis)
    assert chosen.slice_spacing == spacing[axis]
    assert chosen.network_spacing == tuple(mm for a, mm in enumerate(spacing) if a != axis)


def test_slices_come_first_and_are_resampled_in_plane_only() -> None:
    case, facts = _case((12, 7, 16), (1.0, 6.0, 1.0), n_channels=2)
    preparation = _chosen(case, facts, dims=2, spacing=(0.5, 1.0, 2.0))
    image, label = prepare_case(case, facts, preparation)
    assert image.shape == (2, 7, 24, 8)
    assert label.shape == prepared_shape(facts, preparation) == (7, 24, 8)
    assert preparation.spacing == (0.5, 6.0, 2.0)  # 6 mm from slice to slice stay
    own = _chosen(case, facts, dims=2)
    np.testing.assert_array_equal(prepare_case(case, facts, own)[1], np.moveaxis(case.label, 1, 0))
    np.testing.assert_array_equal(restored_label(prepare_case(case, facts, own)[1], facts, own), case.label)


def test_a_slice_is_prepared_without_a_look_at_its_neighbours() -> None:
    case, facts = _case((12, 10, 5), (1.0, 1.0, 1.0))
    preparation = Preparation(2, (0.7, 0.7, 1.0), 2, (ChannelNormalisation("none"),))
    image, _ = prepare_case(case, facts, preparation)
    case.image[..., 1:] += 5
    np.testing.assert_array_equal(prepare_case(case, facts, preparation)[0][:, 0], image[:, 0])


# There and back


def _hippocampi(folder: Path, n: int) -> Iterator[RawCase]:
    """Read plainly with nibabel, RAS as they are stored."""
    for image_file in sorted((folder / "hippocampus_msd" / "imagesTr").glob("*.nii.gz"))[:n]:
        image = nib.Nifti1Image.from_filename(image_file)
        label = nib.Nifti1Image.from_filename(image_file.parents[1] / "labelsTr" / image_file.name)
        assert (np.diag(image.affine) > 0).all()
        voxels = np.asarray(image.dataobj, dtype=np.float32)[None]
        yield RawCase(voxels, np.asarray(label.dataobj).astype(np.uint8), tuple(map(float, np.diag(image.affine)[:3])))


def test_training_sees_the_voxels_of_the_file(test_data: Path) -> None:
    for case in _hippocampi(test_data, 10):
        facts = survey(case, "hippocampus", 3)
        preparation = choose_preparation(fingerprint([facts]), 3, ("MRI",), TaskOptions())
        image, label = prepare_case(case, facts, preparation)
        plain = case.image[0].astype(np.float64)[facts.crop]
        np.testing.assert_allclose(image[0], (plain - plain.mean()) / plain.std(), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(label, case.label[facts.crop])
        np.testing.assert_array_equal(restored_label(label, facts, preparation), case.label)


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.8), (0.7, 0.9, 0.6)])
def test_masks_survive_a_finer_spacing_and_the_way_back(test_data: Path, spacing: tuple[float, ...]) -> None:
    cases = list(_hippocampi(test_data, 12))
    facts = [survey(case, f"hippocampus {index}", 3) for index, case in enumerate(cases)]
    preparation = choose_preparation(fingerprint(facts), 3, ("MRI",), TaskOptions(spacing=spacing))
    dice = []
    for case, its_facts in zip(cases, facts, strict=True):
        label = prepare_case(case, its_facts, preparation)[1]
        assert label.shape == prepared_shape(its_facts, preparation) != case.label.shape
        back = restored_label(label, its_facts, preparation)
        dice += [_dice(back == value, case.label == value) for value in (1, 2)]
    assert min(dice) >= 0.98


def _dice(a: Label, b: Label) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_anisotropic_ct_with_ignored_voxels_goes_there_and_back() -> None:
    case, facts = _case((40, 44, 8), (0.8, 0.8, 5.0), n_channels=2)
    case.label[:4] = IGNORED
    preparation = choose_preparation(fingerprint([facts]), 3, ("CT", "CT"), TaskOptions(spacing=(0.6, 0.6, 2.5)))
    image, label = prepare_case(case, facts, preparation)
    assert image.shape == (2, 53, 59, 16)
    np.testing.assert_array_equal(image[..., 0], image[..., 1])  # the nearest slice, twice
    back = restored_label(label, facts, preparation)
    assert back.shape == case.label.shape
    assert _dice(back == 1, case.label == 1) > 0.98
    np.testing.assert_array_equal(back == IGNORED, case.label == IGNORED)


def test_a_cropped_case_is_put_back_where_it_was() -> None:
    image, label = np.zeros((1, 20, 30), np.float32), np.zeros((20, 30), np.uint8)
    image[0, 5:15, 8:28] = 3.0
    label[6:10, 9:20] = 1
    case = RawCase(image, label, (1.0, 1.0))
    facts = survey(case, "cropped", 2)
    preparation = _chosen(case, facts)
    prepared = prepare_case(case, facts, preparation)[1]
    assert prepared.shape == (10, 20)
    np.testing.assert_array_equal(restored_label(prepared, facts, preparation), label)


SIZES = st.integers(2, 12)
LENGTHS = st.sampled_from([0.5, 0.9, 1.0, 1.7, 5.0])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.tuples(SIZES, SIZES, SIZES), st.tuples(*[LENGTHS] * 3), st.tuples(*[LENGTHS] * 3), st.sampled_from([2, 3]))
def test_the_shape_is_known_beforehand_and_a_label_always_finds_back(
    shape: tuple[int, ...], spacing: tuple[float, ...], target: tuple[float, ...], dims: Literal[2, 3]
) -> None:
    case, facts = _case(shape, spacing)
    preparation = _chosen(case, facts, spacing=target, dims=dims)
    image, label = prepare_case(case, facts, preparation)
    assert image.dtype == np.float32
    assert label.dtype == np.uint8
    assert image.shape[1:] == label.shape == prepared_shape(facts, preparation)
    assert restored_label(label, facts, preparation).shape == shape


def test_a_preparation_survives_json() -> None:
    for options in (TaskOptions(), TaskOptions(dims=2, normalisation="ct")):
        chosen = choose_preparation(_seen([(1, 1, 5)], [(9, 9, 9)]), 3, ("MRI",), options)
        read = Preparation.from_json(json.loads(json.dumps(asdict(chosen))))
        assert read == chosen
        assert read.reasons == chosen.reasons
