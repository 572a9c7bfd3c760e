"""What a file says about itself before any voxel is decoded, and whether files agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import by, check_same_shape, listed

MAX_VOXELS = 2**30
"""Of one file, channels included; a small file that claims more is more likely a decompression bomb than data."""


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """One file's shape and place, in the orientation in which its array is given."""

    file: Path
    shape: tuple[int, ...]
    """Voxels per spatial axis: two or three."""
    channels: tuple[str, ...]
    spacing: tuple[float, ...]
    """mm per voxel and spatial axis; ones where the file does not say."""
    corners: npt.NDArray[np.float64] | None = None
    """``[8, 3]``: where the corner voxels lie in the patient, in mm; None for pictures."""
    coloured: bool = False
    """Whether every pixel holds red, green and blue of its own, not by way of a palette."""

    def __post_init__(self) -> None:
        n_voxels = int(np.prod(self.shape, dtype=object)) * len(self.channels)
        if n_voxels == 0:
            raise DataError(f"{self.file}: is empty (shape {by(self.shape)}); export it again or remove the case")
        if n_voxels > MAX_VOXELS:
            raise DataError(
                f"{self.file}: claims {by(self.shape)} voxels in {listed(self.channels, 'channel')}, which could be a "
                f"decompression bomb: at most {MAX_VOXELS} are read from one file; cut it into pieces"
            )


def check_agreement(images: Sequence[Header], label: Header) -> None:
    """The images of a case and its mask have the same shape and cover the same place. Raises DataError."""
    check_channels(images)
    first = images[0]
    check_same_shape(first.shape, label.shape, first.file, label.file)
    _check_same_place(first, label, "its image")
    if len(label.channels) != 1 and label.corners is not None:  # a picture may show classes as colours
        raise DataError(
            f"{label.file}: has {listed(label.channels, 'channel')}; a mask holds one number per voxel: merge them"
        )


def check_channels(images: Sequence[Header]) -> None:
    """The files of an image have the same shape and cover the same place. Raises DataError."""
    first = images[0]
    for other in images[1:]:
        if other.shape != first.shape:
            raise DataError(
                f"{other.file}: is {by(other.shape)}, but {first.file.name} of the same case is {by(first.shape)}; "
                "resample all channels of a case to one grid"
            )
        _check_same_place(first, other, "another channel of the case")


def _check_same_place(image: Header, other: Header, role: str) -> None:
    """No corner lies more than half a voxel apart."""
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
            f"apart, shape {by(other.shape)}); their headers must agree: resample one to the other's "
            "grid, or mend its header"
        )
