"""Headers of image files, which are read without decoding voxels, and checks that they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import check_same_shape, listed, shape_text

MAX_VOXELS = 2**30
"""Largest number of voxels of a file, channels included; one that claims more may be a decompression bomb."""


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """The shape and position of one file, in the orientation in which its array is read."""

    file: Path
    shape: tuple[int, ...]
    """Voxels along the two or three spatial axes."""
    channels: tuple[str, ...]
    spacing: tuple[float, ...]
    """The mm per voxel and spatial axis; ones where the file does not say."""
    corners: npt.NDArray[np.float64] | None = None
    """Positions ``[8, 3]`` of the corner voxels in the patient, in mm; None for pictures."""
    coloured: bool = False
    """Whether pixels hold red, green and blue themselves, and not by a palette."""

    def __post_init__(self) -> None:
        n_voxels = int(np.prod(self.shape, dtype=object)) * len(self.channels)
        if n_voxels == 0:
            raise DataError(
                f"{self.file}: is empty (shape {shape_text(self.shape)}); export it again or remove the case"
            )
        if n_voxels > MAX_VOXELS:
            raise DataError(
                f"{self.file}: claims {shape_text(self.shape)} voxels in {listed(self.channels, 'channel')}, which "
                f"could be a decompression bomb: at most {MAX_VOXELS} are read from one file; cut it into pieces"
            )


def check_agreement(images: Sequence[Header], label: Header) -> None:
    """Raise DataError unless the images of a case and its mask have the same shape and position."""
    check_channels(images)
    first = images[0]
    check_same_shape(first.shape, label.shape, first.file, label.file)
    _check_same_place(first, label, "its image")
    if len(label.channels) != 1 and label.corners is not None:  # a picture may show classes as colours
        raise DataError(
            f"{label.file}: has {listed(label.channels, 'channel')}; a mask holds one number per voxel: merge them"
        )


def check_channels(images: Sequence[Header]) -> None:
    """Raise DataError unless the files of an image have the same shape and position."""
    first = images[0]
    for other in images[1:]:
        if other.shape != first.shape:
            raise DataError(
                f"{other.file}: is {shape_text(other.shape)}, but {first.file.name} of the same case is "
                f"{shape_text(first.shape)}; resample all channels of a case to one grid"
            )
        _check_same_place(first, other, "another channel of the case")


def _check_same_place(image: Header, other: Header, role: str) -> None:
    """Raise DataError where a corner of one lies more than half a voxel from that of the other."""
    if image.corners is None or other.corners is None:
        if (image.corners is None) is not (other.corners is None):
            raise DataError(
                f"{other.file}: volumes and pictures order their axes differently, so that {image.file.name} does not "
                "pair with it; store both in the same format"
            )
        return
    apart_mm = float(np.abs(image.corners - other.corners).max())
    if apart_mm > min(image.spacing) / 2:
        raise DataError(
            f"{other.file}: lies elsewhere in the patient than {role} {image.file.name} (up to {apart_mm:.3g} mm "
            f"apart, shape {shape_text(other.shape)}); their headers must agree: resample one to the other's "
            "grid, or mend its header"
        )
