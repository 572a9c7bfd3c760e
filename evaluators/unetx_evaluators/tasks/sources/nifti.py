"""NIfTI volumes as arrays, in one orientation.

nibabel reads them (MONAI's NibabelReader would call the same functions and import torch first). Every volume is brought
to the closest canonical orientation, RAS+: axis 0 runs to the patient's right, 1 to the front, 2 to the head, so that
arrays are ``[x, y, z]`` however the scanner stored them. Axes are swapped and flipped, voxels never interpolated.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import by


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """An array with its place in the patient."""

    file: Path
    array: npt.NDArray[Any]
    """``[x, y, z]`` or ``[x, y, z, c]`` in RAS+; intensities scaled as the header says."""
    affine: npt.NDArray[np.float64]
    """4x4, voxel index to mm, of the reoriented array."""

    @property
    def spacing(self) -> tuple[float, ...]:
        """mm per voxel along x, y, z."""
        return tuple(float(length) for length in np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))


def read_volume(file: Path, *, intensities: bool) -> Volume:
    """The volume in a ``.nii`` or ``.nii.gz`` file: float32 intensities, or label values in the file's own type."""
    import nibabel as nib  # a quarter of a second that a task without NIfTI does not pay

    unreadable = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError)
    unusable = (nib.orientations.OrientationError, OSError, EOFError, ValueError, TypeError, MemoryError, zlib.error)
    try:
        _check_compression(file)
        stored = nib.as_closest_canonical(nib.load(file))  # type: ignore[no-untyped-call]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which check_image refuses
            array = stored.get_fdata(dtype=np.float32) if intensities else np.asanyarray(stored.dataobj)
    except (*unreadable, *unusable) as error:
        raise _broken(file, str(error)) from error
    volume = Volume(file, array.reshape(stored.shape), np.asarray(stored.affine, dtype=np.float64))
    if not np.isfinite(volume.affine).all() or min(volume.spacing) <= 0:
        raise _broken(file, f"its affine gives a spacing of {volume.spacing}")
    return volume


def _check_compression(file: Path) -> None:
    """Reads a gzip file to its end, where its checksum stands: nibabel stops before and would miss a damage."""
    if file.suffix == ".gz":
        with gzip.open(file) as stream:
            while stream.read(1 << 22):
                pass


def check_same_grid(image: Volume, label: Volume) -> None:
    """Image and label cover the same place: no corner lies more than half a voxel apart."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in label.array.shape[:3]))), dtype=np.float64)
    corners = np.column_stack([corners, np.ones(len(corners))])
    apart_mm = float(np.abs(corners @ (image.affine - label.affine).T).max())
    if apart_mm > min(image.spacing) / 2:
        raise DataError(
            f"{label.file}: lies elsewhere in the patient than its image {image.file.name} (up to {apart_mm:.3g} mm "
            f"apart, shape {by(label.array.shape)}); their headers must agree: resample the label to the image's grid"
        )


def _broken(file: Path, reason: str) -> DataError:
    why = reason or "the file ends early"
    return DataError(f"{file}: cannot be read as NIfTI ({why}); copy or export it again, or remove the case")
