"""A stand-in for a trained network, which tells bright voxels from dark ones, on volumes that lie askew."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from task_samples import FLIPPED, OBLIQUE, Array, nib, save_nifti
from torch import Tensor, nn

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.evaluation import DataError
from unetx_evaluators.host_memory import reset_resident_peak, resident_peak_mib
from unetx_evaluators.predicting.model_plan import ModelPlan
from unetx_evaluators.predicting.predictor import Predictor
from unetx_evaluators.tasks.preprocessing import ChannelNormalisation, Preparation
from unetx_evaluators.tasks.sources.images import list_images
from unetx_evaluators.tasks.sources.labels import ClassMap, Threshold
from unetx_evaluators.tasks.task import Image

ALL_AT_ONCE = OBLIQUE @ np.array([[0.0, 0, 1, 0], [-1, 0, 0, 18], [0, -1, 0, 12], [0, 0, 0, 1]])
"""Oblique voxels of about 0.9 x 0.9 x 2.5 mm, their axes swapped and two of them flipped."""

CPU = DeviceProfile(torch.device("cpu"), None)


class Bright(nn.Module):
    """The logit of class 1 grows with the first channel, above a level."""

    def __init__(self, level: float = 50.0, gain: float = 1.0) -> None:
        super().__init__()
        self.level, self.gain = level, gain

    def forward(self, batch: Tensor) -> Tensor:
        bright = self.gain * (batch[:, :1] - self.level)
        return torch.cat([-bright, bright], dim=1)


class Sided(Bright):
    """Answers for the first half of its last axis alone."""

    def forward(self, batch: Tensor) -> Tensor:
        found = super().forward(batch)
        found[..., found.shape[-1] // 2 :] = 0
        return found


def plan(
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    patch: tuple[int, ...] = (8, 8, 8),
    *,
    slice_axis: int | None = None,
    mirror: tuple[int, ...] = (),
    masks: ClassMap | Threshold = ClassMap(("background", "bright"), (0, 7)),  # noqa: B008 (frozen)
) -> ModelPlan:
    preparation = Preparation(3 if len(patch) == 3 else 2, spacing, slice_axis, (ChannelNormalisation("none"),))
    source_dims: Literal[2, 3] = 3 if len(spacing) == 3 else 2
    return ModelPlan("toy", "a test", source_dims, ("CT",), masks, masks.names, patch, mirror, preparation)


@pytest.mark.parametrize("affine", [FLIPPED, OBLIQUE, ALL_AT_ONCE], ids=["flipped", "oblique", "all at once"])
@pytest.mark.parametrize(
    ("spacing", "slice_axis"), [((1.0, 1.0, 1.0), None), ((0.6, 0.9, 1.3), None), ((1.2, 1.2, 2.5), 2)]
)
def test_a_planted_marker_comes_back_in_its_place(
    affine: Array, spacing: tuple[float, ...], slice_axis: int | None, tmp_path: Path
) -> None:
    stored = np.random.default_rng(0).uniform(1, 2, (26, 19, 13)).astype(np.float32)
    stored[16:22, 3:9, 4:9] = 100
    save_nifti(tmp_path / "a.nii.gz", stored, affine)
    (one,) = list_images(tmp_path, 3, ("CT",))
    made = plan(spacing, (8, 8) if slice_axis is not None else (8, 8, 8), slice_axis=slice_axis)
    found = Predictor([Bright()], made, CPU).predict(one.read(), one.spacing, one.name)
    one.write_mask(tmp_path / one.mask_name.replace("a.", "mask."), made.values(found.label))
    written = nib.load(tmp_path / "mask.nii.gz")
    values, truth = np.asarray(written.dataobj), stored > 50
    assert set(np.unique(values)) == {0, 7}, "the value that the dataset's masks have"
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "a.nii.gz").affine)
    dice = 2 * ((values == 7) & truth).sum() / ((values == 7).sum() + truth.sum())
    assert dice > 0.85, "half a voxel at the surface of a box of 6x6x5 voxels is lost at most"
    centre = np.argwhere(values == 7).mean(axis=0)
    np.testing.assert_allclose(centre, np.argwhere(truth).mean(axis=0), atol=0.3)


def test_what_is_cropped_away_is_background_and_counts_as_surely_so() -> None:
    image = np.zeros((1, 20, 20, 20), np.float32)
    image[0, 4:12, 6:15, 2:9] = np.random.default_rng(0).uniform(20, 80, (8, 9, 7))
    kept = np.full((2, 20, 20, 20), np.nan, np.float32)

    def keep(part: tuple[slice, ...], probabilities: Image) -> None:
        kept[:, *part] = probabilities

    found = Predictor([Bright()], plan(), CPU).predict(image, (1, 1, 1), "a", keep)
    np.testing.assert_array_equal(found.label, image[0] > 50)
    assert np.isfinite(kept).sum() == 2 * 8 * 9 * 7
    inside = np.isfinite(kept[0])
    np.testing.assert_allclose(kept.sum(0)[inside], 1, atol=1e-6)
    np.testing.assert_array_equal((kept[1] > kept[0])[inside], (image[0] > 50)[inside])


def test_folds_are_averaged() -> None:
    """One network says 1 from 40 on, the other, three times as sure, from 60 on: together from 55 on."""
    image = np.arange(1, 101, dtype=np.float32).reshape(1, 10, 10)
    both = Predictor([Bright(40.0), Bright(60.0, gain=3.0)], plan((1.0, 1.0), (10, 10)), CPU)
    assert both.predict(image, (1, 1), "a").label.sum() == (image > 55).sum()


@pytest.mark.parametrize(("mirror", "answered"), [((), 1), ((0,), 1), ((1,), 2), ((0, 1), 2)])
def test_images_are_mirrored_along_the_axes_of_the_training_alone(mirror: tuple[int, ...], answered: int) -> None:
    image = np.full((1, 8, 8), 80, np.float32)
    made = plan((1.0, 1.0), (8, 8), mirror=mirror)
    halves = Predictor([Sided()], made, CPU).predict(image, (1, 1), "a").label
    assert halves[:, :4].all()
    assert bool(halves[:, 4:].any()) is (answered == 2)
    alone = Predictor([Sided()], made, CPU, mirrors=False).predict(image, (1, 1), "a").label
    assert not alone[:, 4:].any()


def test_an_answer_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="scan7: the networks answer with values that are no numbers"):
        Predictor([Bright(gain=float("nan"))], plan((1.0, 1.0), (8, 8)), CPU).predict(
            np.ones((1, 9, 9), np.float32), (1, 1), "scan7"
        )


@pytest.mark.parametrize(
    ("masks", "values"),
    [
        (ClassMap(("background", "a", "b"), (0, 100, 300)), [0, 100, 300]),
        (ClassMap(("background", "a"), (0, 0xFF8000), coloured=True), [[0, 0, 0], [255, 128, 0]]),
        (Threshold(0.0), [0, 255]),
    ],
)
def test_masks_hold_what_the_datasets_masks_hold(masks: ClassMap | Threshold, values: list[object]) -> None:
    made = plan(masks=masks)
    assert made.values(np.arange(len(values), dtype=np.uint8)).tolist() == values
    assert ModelPlan.from_json(made.to_json()) == made


class Many(nn.Module):
    """Sixteen classes, of which the last wins where the image is above zero."""

    def forward(self, batch: Tensor) -> Tensor:
        return batch[:, :1] * torch.arange(16.0).view(1, -1, 1, 1, 1)


@pytest.mark.skipif(resident_peak_mib() is None, reason="the system does not tell the peak of memory")
def test_the_logits_of_a_long_volume_are_never_held_together() -> None:
    """They would take 16 classes x 6000 x 16 x 16 voxels x 4 bytes = 94 MiB; the image takes 6, its label maps 3."""
    image = np.ones((1, 6000, 16, 16), np.float32)
    masks = ClassMap(tuple(map(str, range(16))), tuple(range(16)))
    made = plan((1.0, 2.0, 2.0), (16, 8, 8), masks=masks)
    predictor = Predictor([Many()], made, CPU, slab_voxels=2**17)
    predictor.predict(image[:, :64], (1, 1, 1), "short")
    reset_resident_peak()
    before = resident_peak_mib()
    found = predictor.predict(image, (1, 1, 1), "long")
    after = resident_peak_mib()
    assert found.label.min() == 15
    assert before is not None
    assert after is not None
    assert after - before < 50
