"""From files on disk to the tensors that training reads, voxel by voxel beside a plain reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from task_samples import (
    COLOURS,
    FLIPPED,
    OBLIQUE,
    channels_last_folder,
    deep_tiff_folder,
    msd_folder,
    nnunet_folder,
    photograph_folder,
    place,
    uneven_folder,
)

from unetx_evaluators.device import profile
from unetx_evaluators.tasks import TaskOptions, examine, open_source, prepare
from unetx_evaluators.tasks.sources.labels import Labels
from unetx_evaluators.tasks.task import IGNORED
from unetx_evaluators.training.cases import open_cases

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """A dataset on disk and how somebody would read a case of it by hand: image ``[c, *spatial]`` and label."""

    build: Callable[[Path], Path]
    read: Callable[[Path, str], tuple[Array, Array]]
    labels: Labels | None = None


def voxels(file: Path) -> Array:
    return np.asarray(nib.Nifti1Image.from_filename(file).dataobj)


def msd(root: Path, name: str) -> tuple[Array, Array]:
    return voxels(root / "imagesTr" / f"{name}.nii.gz")[None], voxels(root / "labelsTr" / f"{name}.nii.gz")


def msd_from_the_right(root: Path, name: str) -> tuple[Array, Array]:
    image, label = msd(root, name)
    return image[:, ::-1], label[::-1]


def nnunet(root: Path, name: str) -> tuple[Array, Array]:
    """Stored from right to left; the last of four values is the one to ignore."""
    channels = [voxels(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz") for channel in range(2)]
    label = voxels(root / "labelsTr" / f"{name}.nii.gz")
    return np.stack(channels)[:, ::-1], np.where(label == 3, IGNORED, label)[::-1]


def four_dimensional(root: Path, name: str) -> tuple[Array, Array]:
    return np.moveaxis(voxels(root / "images" / f"{name}.nii.gz"), -1, 0), voxels(root / "masks" / f"{name}.nii.gz")


def photographs(root: Path, name: str) -> tuple[Array, Array]:
    """Classes in the order of their colours' numbers: green below red."""
    image = np.asarray(Image.open(root / "images" / f"{name}.jpg"))
    colours = np.asarray(Image.open(root / "masks" / f"{name}.png"))
    cell, border = colours[..., 0] == 255, colours[..., 1] == 255
    return np.moveaxis(image, -1, 0), np.select([border, cell], [1, 2])


def deep_tiff(root: Path, name: str) -> tuple[Array, Array]:
    label = np.asarray(Image.open(next((root / "masks").glob(f"{name}.*"))))
    return np.asarray(Image.open(root / "images" / f"{name}.tif"))[None], label == label.max()


NAMES = [f"a{number}" for number in range(5)]

LAYOUTS = {
    "MSD": Layout(lambda root: msd_folder(root, 5), msd),
    "flipped": Layout(
        lambda root: place(msd_folder(root, 5), [f"a{n}" for n in range(5)], FLIPPED), msd_from_the_right
    ),
    "oblique": Layout(lambda root: place(msd_folder(root, 5), [f"a{n}" for n in range(5)], OBLIQUE), msd),
    "odd sizes, one ten times larger": Layout(uneven_folder, msd),
    "anisotropic CT of two channels with ignored voxels": Layout(nnunet_folder, nnunet),
    "4D NIfTI": Layout(channels_last_folder, four_dimensional),
    "RGB photographs with colour masks": Layout(photograph_folder, photographs, COLOURS),
    "16-bit TIFF": Layout(deep_tiff_folder, deep_tiff),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_training_sees_what_a_plain_reading_sees(tmp_path: Path, layout: Layout) -> None:
    root = layout.build(tmp_path / "data")
    source = open_source(root, labels=layout.labels)
    task = prepare(source, tmp_path / "cache", TaskOptions())
    basis = examine(source, TaskOptions()).basis
    assert basis is not None
    for case in open_cases(task, profile("cpu"), 99).train:
        image, label = layout.read(root, case.name)
        crop = basis.facts[case.name].crop
        image, label = image[:, *crop].astype(np.float64), label[crop]
        for channel, how in enumerate(basis.preparation.channels):
            if how.scheme == "ct":
                expected = (np.clip(image[channel], how.low, how.high) - how.mean) / how.std
            else:
                expected = (image[channel] - image[channel].mean()) / image[channel].std()
            np.testing.assert_allclose(case.image[channel].numpy(), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(case.label.numpy(), label)


def test_ct_is_scaled_by_the_foreground_of_all_training_cases(tmp_path: Path) -> None:
    root = nnunet_folder(tmp_path / "data")
    source = open_source(root)
    task = prepare(source, tmp_path / "cache", TaskOptions())
    basis = examine(source, TaskOptions()).basis
    assert basis is not None
    read = [nnunet(root, name) for name in task.splits.train]
    for channel, how in enumerate(basis.preparation.channels):
        foreground = np.concatenate([image[channel][(label > 0) & (label < IGNORED)] for image, label in read])
        expected = (*np.percentile(foreground, (0.5, 99.5)), foreground.mean(), foreground.std())
        assert how.scheme == "ct"
        assert [how.low, how.high, how.mean, how.std] == pytest.approx(expected, abs=0.1 * foreground.std())
