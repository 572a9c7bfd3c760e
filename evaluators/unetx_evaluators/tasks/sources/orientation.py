"""The canonical orientation of volumes of all formats.

Every volume is brought to the closest canonical orientation, RAS+: axis 0 runs to the patient's right, 1 to the front,
2 to the head, so that arrays are ``[x, y, z]`` however the scanner stored them. Axes are swapped and flipped, voxels
never interpolated. A volume of one slice is a picture: the axis of size 1 is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import shape_text
from unetx_evaluators.tasks.sources.header import Header

Affine = npt.NDArray[np.float64]
"""A matrix ``[4, 4]`` from voxel indices to mm in the patient, in RAS+."""


def canonical_header(file: Path, stored_shape: Sequence[int], affine: Affine, place: str) -> Header:
    """The header of a volume stored as ``[x, y, z, c]`` (or with fewer axes), in canonical orientation.

    ``affine`` is stated by ``place``, a text on a part of the file. Raises DataError where shape or affine are invalid.
    """
    extra = [n for n in stored_shape[3:] if n != 1]
    if len(stored_shape) < 2 or len(extra) > 1:
        raise DataError(
            f"{file}: has shape {shape_text(stored_shape)}; an image is x*y, x*y*z or x*y*z*channels: split it up"
        )
    shape = (*stored_shape, 1, 1)[:3]
    axes = _axes(affine, file, place)
    from nibabel.orientations import inv_ornt_aff

    turned = np.asarray(affine @ inv_ornt_aff(axes, shape), dtype=np.float64)  # type: ignore[no-untyped-call]
    canonical = tuple(int(shape[stored]) for stored in np.argsort(axes[:, 0]))
    spacing = tuple(float(length) for length in np.sqrt((turned[:3, :3] ** 2).sum(axis=0)))
    kept = [axis for axis, n in enumerate(canonical) if n != 1 or canonical.count(1) != 1]
    n_channels = int(extra[0]) if extra else 1
    corners = np.array(list(itertools.product(*((0, n - 1) for n in canonical))), dtype=np.float64)
    return Header(
        file,
        shape=tuple(canonical[axis] for axis in kept),
        channels=tuple(f"channel {n}" for n in range(n_channels)) if n_channels > 1 else ("intensity",),
        spacing=tuple(spacing[axis] for axis in kept),
        corners=np.asarray(corners @ turned[:3, :3].T + turned[:3, 3]),
    )


def canonical_array(array: npt.NDArray[Any], affine: Affine, header: Header, place: str) -> npt.NDArray[Any]:
    """The canonical array ``[c, *spatial]`` of one as stored, ``[x, y, z, c]`` or with fewer axes."""
    from nibabel.orientations import apply_orientation

    whole = array.reshape((*array.shape, 1, 1)[:3] if array.ndim < 3 else array.shape)
    turned = apply_orientation(whole, _axes(affine, header.file, place))  # type: ignore[no-untyped-call]
    return channels_first(turned, header)


def channels_first(array: npt.NDArray[Any], header: Header) -> npt.NDArray[Any]:
    """The array ``[c, *spatial]`` of a canonical one ``[x, y, z, ...]``, without the axis of a single slice."""
    return array.reshape(*array.shape[:3], -1).transpose(3, 0, 1, 2).reshape(-1, *header.shape)


def as_stored(array: npt.NDArray[Any], stored_shape: Sequence[int], affine: Affine, file: Path) -> npt.NDArray[Any]:
    """A view of a canonical array ``[*spatial]`` with the axes of ``file``, a volume stored with that shape and
    affine."""
    order, flips = _turning(affine, file)
    shape = (*stored_shape, 1, 1)[:3]
    canonical = array.reshape([shape[stored] for stored in np.argsort(order)])
    turned: npt.NDArray[Any] = np.flip(canonical, flips).transpose(order)
    return turned.reshape(stored_shape)


def canonical_view(array: npt.NDArray[Any], affine: Affine, file: Path) -> npt.NDArray[Any]:
    """A canonical view ``[n, x, y, z]`` of an array ``[n, *stored]``."""
    order, flips = _turning(affine, file)
    whole = array.reshape((*array.shape, 1, 1)[:4])
    back = whole.transpose([0, *(int(axis) + 1 for axis in np.argsort(order))])
    found: npt.NDArray[Any] = np.flip(back, tuple(axis + 1 for axis in flips))
    return found


def _turning(affine: Affine, file: Path) -> tuple[list[int], tuple[int, ...]]:
    """The canonical axis of every stored one, and the canonical axes that are flipped."""
    axes = _axes(affine, file, "its header")
    return [int(axis) for axis, _ in axes], tuple(int(axis) for axis, direction in axes if direction < 0)


def _axes(affine: Affine, file: Path, place: str) -> npt.NDArray[np.float64]:
    """nibabel's orientation: the canonical axis of every stored one, and its direction. Raises DataError."""
    from nibabel.orientations import io_orientation

    matrix = affine[:3, :3]
    if np.isfinite(affine).all() and np.linalg.matrix_rank(matrix) == 3:
        axes: npt.NDArray[np.float64] = io_orientation(affine)  # type: ignore[no-untyped-call]
        if np.isfinite(axes).all():
            return axes
    rows = "; ".join(" ".join(f"{value:g}" for value in row) for row in matrix.tolist())
    raise DataError(
        f"{file}: {place} gives no place to its voxels: three axes of length above 0 that do not fall together are "
        f"needed, got the matrix [{rows}]; write the header anew from the original scan, or remove the case"
    )
