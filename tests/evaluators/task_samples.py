"""Small datasets on disk for the tests of task sources."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from unetx_evaluators.tasks import open_source

Array = npt.NDArray[Any]

nib: Any = importlib.import_module("nibabel")
"""Typed in part only, which strict mypy does not take."""


def read_all(folder: Path, labels: Mapping[str, int] | None = None) -> None:
    """Opens a dataset and reads every case."""
    source = open_source(folder, labels=labels)
    for name in source.case_names:
        source.read(name)


def picture(shape: tuple[int, ...] = (16, 20), seed: int = 0) -> Array:
    """Random 8-bit pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def mask(shape: tuple[int, int] = (16, 20), *values: int) -> Array:
    """Horizontal bands, one for each value (0 and 255 by default)."""
    bands = np.array(values or (0, 255), dtype=np.uint8)
    return np.repeat(bands[np.arange(shape[0]) * len(bands) // shape[0]][:, None], shape[1], axis=1)


def save_png(file: Path, array: Array) -> None:
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
