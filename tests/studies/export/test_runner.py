"""The script beside an exported network does with an image what training and prediction do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from unetx_evaluators.device import DeviceProfile
from unetx_evaluators.inference import gaussian_weight, predict_logits
from unetx_evaluators.tasks.preprocessing import ChannelNormalisation
from unetx_evaluators.tasks.preprocessing import normalised as prepared
from unetx_space import PRESETS, Architecture, build, isotropic_backbone
from unetx_studies.export import export, runner

SCHEMES = (
    ChannelNormalisation("ct", mean=40.0, std=30.0, low=-50.0, high=120.0),
    ChannelNormalisation("case"),
    ChannelNormalisation("case", masked=True),
    ChannelNormalisation("range"),
    ChannelNormalisation("rgb"),
    ChannelNormalisation("none"),
)
NET = Architecture(
    isotropic_backbone(2, in_channels=2, out_channels=3, n_levels=2, base_width=4),
    PRESETS["u-net"].genome(2),
    provenance={
        "task": {"patch": [16, 12], "spacing": [1.0, 1.0], "normalisation": [asdict(SCHEMES[3]), asdict(SCHEMES[1])]}
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network and its runner."""
    folder = tmp_path_factory.mktemp("exported")
    export(NET, folder / "net.pt2", seed=1)
    return folder


@pytest.mark.parametrize("how", SCHEMES, ids=lambda how: f"{how.scheme}-{how.masked}")
def test_intensities_are_normalised_as_for_training(how: ChannelNormalisation) -> None:
    image = np.random.default_rng(0).normal(30, 60, (1, 9, 8)).astype(np.float32)
    image[:, :3] = 0
    expected = prepared(image[0], how, (image != 0).any(0) if how.masked else None)
    np.testing.assert_allclose(runner.normalised(image, [asdict(how)])[0], expected, rtol=1e-6)


def test_windows_weigh_what_they_weigh_in_prediction() -> None:
    np.testing.assert_allclose(runner.gaussian((12, 7, 5)), gaussian_weight((12, 7, 5)).numpy(), rtol=1e-5)


def test_logits_of_an_image_larger_than_the_window_along_one_axis_alone_are_those_of_prediction(folder: Path) -> None:
    image = np.random.default_rng(1).normal(size=(2, 41, 9)).astype(np.float32)
    cpu = DeviceProfile(torch.device("cpu"), autocast_dtype=None)
    expected = next(predict_logits(build(NET, seed=1).eval(), [torch.from_numpy(image)], (16, 12), cpu))
    found = runner.Model(folder / "net.pt2").logits(image, 0.5)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_linear_interpolation_is_that_of_torch() -> None:
    image = np.random.default_rng(2).normal(size=(2, 7, 10)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(image)[None], size=(11, 4), mode="bilinear")[0]
    np.testing.assert_allclose(runner.resampled(image, (11, 4)), expected.numpy(), atol=1e-6)


def run(folder: Path, *words: object) -> None:
    script = [sys.executable, folder / "net_run.py", *words]
    subprocess.run([*map(str, script)], check=True)


def test_files_are_segmented_on_their_own_grids(folder: Path, tmp_path: Path) -> None:
    """A network of slices goes through a volume along its longest voxels, whatever its orientation."""
    rng = np.random.default_rng(3)
    array = rng.normal(100, 20, (2, 23, 31)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    affine = np.array([[0, 0, -3.0, 10], [-1.0, 0, 0, 5], [0, 1.0, 0, -7], [0, 0, 0, 1]])  # slices run to the left
    volume = rng.normal(100, 20, (20, 18, 3, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "v.nii.gz")  # type: ignore[no-untyped-call]
    pixels = rng.integers(0, 255, (19, 30, 2), dtype=np.uint8)
    Image.fromarray(pixels, mode="LA").save(tmp_path / "p.png")
    run(folder, *(tmp_path / name for name in ("a.npy", "v.nii.gz", "p.png")), "-o", tmp_path / "out")
    model = runner.Model(folder / "net.pt2")
    classes = np.load(tmp_path / "out/a.npy")
    np.testing.assert_array_equal(classes, model.segment(array, (1.0, 1.0)))
    assert len(np.unique(classes)) > 1
    picture = np.asarray(Image.open(tmp_path / "out/p.png"))
    np.testing.assert_array_equal(picture, model.segment(np.moveaxis(pixels, -1, 0), (1.0, 1.0)))
    found: Any = nib.load(tmp_path / "out/v.nii.gz")
    assert found.shape == (20, 18, 3)
    np.testing.assert_allclose(found.affine, affine)
    slices, expected = (
        np.asarray(nib.as_closest_canonical(nib.load(folder / "v.nii.gz")).dataobj)  # type: ignore[no-untyped-call]
        for folder in (tmp_path, tmp_path / "out")
    )
    for x in range(3):
        np.testing.assert_array_equal(model.segment(np.moveaxis(slices[x], -1, 0), (1.0, 1.0)), expected[x])


def test_an_image_of_other_channels_or_dimensions_is_refused_in_words(folder: Path) -> None:
    model = runner.Model(folder / "net.pt2")
    for shape, problem in (((3, 8, 8), "reads 2 channels, the image has 3"), ((2, 8), "reads 2D images")):
        with pytest.raises(SystemExit, match=problem):
            model.segment(np.zeros(shape, np.float32), [1.0] * (len(shape) - 1))
