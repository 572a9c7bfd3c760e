"""Small datasets on disk for the tests of task sources."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources import Labels, open_source

Array = npt.NDArray[Any]

nib: Any = importlib.import_module("nibabel")
"""Typed in part only, which strict mypy does not take."""


def read_all(folder: Path, labels: Labels | None = None) -> None:
    """Opens a dataset and reads every case; the first problem is raised, wherever it shows."""
    source = open_source(folder, labels=labels)
    for problem in source.problems:
        raise problem
    for name in source.case_names:
        source.read(name)


def check_refused(folder: Path, reason: str, labels: Labels | None = None) -> None:
    """It is refused for a ``reason`` that matches, in a few lines, whether that comes at opening or at reading."""
    with pytest.raises(DataError, match=reason) as error:
        read_all(folder, labels)
    assert len(str(error.value).splitlines()) <= 8


def picture(shape: tuple[int, ...] = (16, 20), seed: int = 0) -> Array:
    """Random 8-bit pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def mask(shape: tuple[int, int] = (16, 20), *values: int) -> Array:
    """Horizontal bands, one for each value (0 and 255 by default)."""
    bands = np.array(values or (0, 255), dtype=np.uint8)
    return np.repeat(bands[np.arange(shape[0]) * len(bands) // shape[0]][:, None], shape[1], axis=1)


def save_png(file: Path, array: Array) -> None:
    """As PNG, or as what another ending says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def picture_folder(
    root: Path, masks: Mapping[str, Array], *, mask_folder: str = "masks", suffix: str = "", channels: int = 1
) -> Path:
    """``images/`` and a mask folder with the given masks and random pictures of their size."""
    for seed, (name, values) in enumerate(masks.items()):
        shape = (*values.shape, channels) if channels > 1 else values.shape
        save_png(root / "images" / f"{name}.png", picture(shape, seed))
        save_png(root / mask_folder / f"{name}{suffix}.png", values)
    return root


def save_nifti(file: Path, array: Array, affine: Array | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), file)


def volume(shape: tuple[int, ...] = (16, 18, 12), seed: int = 0) -> Array:
    """Random float32 voxels."""
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def label_map(shape: tuple[int, int, int] = (16, 18, 12), n_classes: int = 3) -> Array:
    """Slabs along x, one for each class."""
    slabs = (np.arange(shape[0]) * n_classes // shape[0]).astype(np.uint8)
    return np.broadcast_to(slabs[:, None, None], shape).copy()


def describe(root: Path, names: list[str], **fields: Any) -> None:
    """Write ``dataset.json`` for cases in the usual places; ``fields`` replace what it says."""
    training = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    description = {
        "name": "Sample",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "front", "2": "back"},
        "training": training,
        **fields,
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(description), encoding="utf-8")


def msd_folder(root: Path, n_cases: int = 5, **fields: Any) -> Path:
    """A 3D dataset of equal cases ``a0``, ``a1``, ..."""
    names = [f"a{number}" for number in range(n_cases)]
    for seed, name in enumerate(names):
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", volume(seed=seed))
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label_map())
    describe(root, names, **fields)
    return root


CT_PLACE = np.array([[-0.8, 0, 0, 40], [0, 0.8, 0, -30], [0, 0, 5.0, 7], [0, 0, 0, 1]])
"""Stored from right to left, slices 5 mm thick."""


def nnunet_folder(
    root: Path,
    n_cases: int = 6,
    shape: tuple[int, int, int] = (21, 18, 7),
    affine: Array = CT_PLACE,
    **fields: Any,
) -> Path:
    """Anisotropic CT of two channels, stored from right to left, whose last class is to be ignored."""
    names = [f"ct_{number:03d}" for number in range(n_cases)]
    for seed, name in enumerate(names):
        for channel in range(2):
            voxels = np.rint(volume(shape, 2 * seed + channel) * 10 - 1000).astype(np.int16)
            save_nifti(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz", voxels, affine)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label_map(shape, 4), affine)
    describe_nnunet(root, **{"numTraining": n_cases, **fields})
    return root


def describe_nnunet(root: Path, **fields: Any) -> None:
    """Write nnU-Net's ``dataset.json``; ``fields`` replace what it says, None leaves a field out."""
    description = {
        "channel_names": {"0": "CT", "1": "CT"},
        "labels": {"background": 0, "organ": 1, "lesion": 2, "ignore": 3},
        "file_ending": ".nii.gz",
        **fields,
    }
    root.mkdir(parents=True, exist_ok=True)
    stated = {name: value for name, value in description.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(stated), encoding="utf-8")


COLOURS = {"background": "#000000", "cell": "#ff0000", "border": "#00ff80"}
"""What the masks of ``photograph_folder`` mean."""


def photograph_folder(root: Path, n_cases: int = 6) -> Path:
    """RGB photographs of odd, differing sizes as JPEG, with colour masks as PNG."""
    paint = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 128]], np.uint8)
    for seed in range(n_cases):
        shape = (33 + 2 * seed, 37 - seed)
        save_png(root / "images" / f"photo{seed}.jpg", picture((*shape, 3), seed))
        save_png(root / "masks" / f"photo{seed}.png", paint[mask(shape, 0, 1, 2)])
    return root


def deep_tiff_folder(root: Path, n_cases: int = 6) -> Path:
    """Grey TIFF images of 16 bits, using most of them, with masks of 8 bits."""
    for seed in range(n_cases):
        pixels = np.random.default_rng(seed).integers(200, 60_000, (31, 25), dtype=np.uint16)
        save_png(root / "images" / f"deep{seed}.tif", pixels)
        save_png(root / "masks" / f"deep{seed}.tif", mask((31, 25), 0, 1))
    return root


def save_pages(file: Path, pages: Array) -> None:
    """A TIFF with a page for every entry of the first axis."""
    file.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(file, save_all=True, append_images=others)


def channels_last_folder(root: Path, n_cases: int = 5, n_channels: int = 3) -> Path:
    """4D NIfTI images and 3D masks, in image/mask folders."""
    for seed in range(n_cases):
        save_nifti(root / "images" / f"v{seed}.nii.gz", volume((14, 12, 9, n_channels), seed))
        save_nifti(root / "masks" / f"v{seed}.nii.gz", label_map((14, 12, 9), 2))
    return root


OBLIQUE = np.array([[0.9, -0.26, 0, 11], [0.26, 0.9, 0.1, -5], [0, -0.12, 2.5, 3], [0, 0, 0, 1]])
"""A volume that lies askew in the patient."""

FLIPPED = np.array([[-1.0, 0, 0, 13], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""Stored from right to left."""


def place(root: Path, names: list[str], affine: Array) -> Path:
    """An MSD folder whose cases ``names`` lie at ``affine``; the voxels stay as they are stored."""
    for name in names:
        for part in ("imagesTr", "labelsTr"):
            file = root / part / f"{name}.nii.gz"
            save_nifti(file, np.asarray(nib.load(file).dataobj), affine)
    return root


def uneven_folder(root: Path, n_cases: int = 6) -> Path:
    """MSD volumes of odd, differing sizes, the last ten times larger than the rest."""
    names = [f"u{number}" for number in range(n_cases)]
    for seed, name in enumerate(names):
        shape = (13 + seed, 17 - seed, 11) if seed < n_cases - 1 else (37, 31, 23)
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", volume(shape, seed))
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label_map(shape))
    describe(root, names)
    return root
