"""A source of cases in memory, as NumPy arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import RawCase, check_image, shape_text
from unetx_evaluators.tasks.task import IGNORED, MAX_CLASSES

ArrayPair = tuple[npt.ArrayLike, npt.ArrayLike]
"""An image ``[*spatial]``, ``[c, *spatial]`` or ``[*spatial, c]`` and its mask ``[*spatial]`` of class indices."""


@dataclass(frozen=True)
class ArraySource:
    """A source of images and masks in memory; the masks hold class indices, 0 being the background."""

    images: tuple[npt.NDArray[np.float32], ...]
    """Images ``[c, *spatial]``."""
    masks: tuple[npt.NDArray[np.uint8], ...]
    classes: tuple[str, ...]
    spacing: tuple[float, ...]
    """The mm per voxel and axis, the same for all cases."""
    identity: str
    name: str = "arrays"

    layout = "arrays"
    problems: tuple[DataError, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, pairs: Sequence[ArrayPair], *, classes: Sequence[str] = (), spacing: Sequence[float] | None = None
    ) -> ArraySource:
        """The source of ``pairs``; by default classes are named by number, and ``spacing`` is 1 mm along every axis.

        Raises DataErrors where images and masks do not fit together.
        """
        if not pairs:
            raise DataError("a dataset of arrays is a list of (image, mask) pairs, got none")
        masks = [_mask(mask, number) for number, (_, mask) in enumerate(pairs)]
        images = [
            _image(image, mask.shape, number)
            for number, ((image, _), mask) in enumerate(zip(pairs, masks, strict=True))
        ]
        dims, n_channels = masks[0].ndim, len(images[0])
        if dims not in (2, 3):
            raise DataError(f"masks have 2 or 3 axes, got {dims}")
        for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
            if (mask.ndim, len(image)) != (dims, n_channels):
                raise DataError(
                    f"pair {number}: has {mask.ndim} axes and {len(image)} channels where the first pair has {dims} "
                    f"and {n_channels}; all cases have the same"
                )
        highest = max(int(np.where(mask == IGNORED, 0, mask).max(initial=0)) for mask in masks)
        named = tuple(classes) or ("background", *(f"class_{value}" for value in range(1, highest + 1)))
        if highest >= len(named) or len(named) < 2:
            raise DataError(f"masks hold values up to {highest}, and classes name {len(named)}: {', '.join(named)}")
        lengths = tuple(map(float, spacing or (1.0,) * dims))
        if len(lengths) != dims or min(lengths) <= 0:
            raise DataError(f"spacing has {dims} lengths above 0, one an axis, got {lengths}")
        digest = hashlib.sha256(repr((named, lengths)).encode())
        for image, mask in zip(images, masks, strict=True):
            for array in (image, mask):
                digest.update(repr(array.shape).encode() + array.tobytes())
        return cls(tuple(images), tuple(masks), named, lengths, f"arrays {digest.hexdigest()}")

    @property
    def origin(self) -> str:
        return f"{len(self.images)} arrays in memory"

    @property
    def dims(self) -> Literal[2, 3]:
        return 2 if self.masks[0].ndim == 2 else 3

    @property
    def channels(self) -> tuple[str, ...]:
        n = len(self.images[0])
        return ("intensity",) if n == 1 else tuple(f"channel_{number}" for number in range(n))

    @property
    def case_names(self) -> tuple[str, ...]:
        width = len(str(len(self.images) - 1))
        return tuple(f"case_{number:0{width}d}" for number in range(len(self.images)))

    @property
    def n_bytes(self) -> int:
        return sum(image.nbytes + mask.nbytes for image, mask in zip(self.images, self.masks, strict=True))

    def read(self, name: str) -> RawCase:
        number = self.case_names.index(name)
        return RawCase(self.images[number], self.masks[number], self.spacing)


def _mask(mask: npt.ArrayLike, number: int) -> npt.NDArray[np.uint8]:
    values: npt.NDArray[Any] = np.asarray(mask)
    whole = values.astype(np.uint8) if values.dtype.kind in "biu" else None
    if whole is None or (values != whole).any() or not values.size:
        raise DataError(
            f"pair {number}: a mask holds whole numbers from 0 (background) to {MAX_CLASSES - 1} ({IGNORED}: ignored), "
            f"got {values.dtype} with values from {values.min(initial=0)} to {values.max(initial=0)}"
        )
    return whole


def _image(image: npt.ArrayLike, shape: tuple[int, ...], number: int) -> npt.NDArray[np.float32]:
    """The image as ``[c, *spatial]``; the mask's shape shows which axis holds the channels."""
    values: npt.NDArray[Any] = np.asarray(image)
    if values.shape == shape:
        values = values[None]
    elif values.ndim == len(shape) + 1 and values.shape[:-1] == shape and values.shape[1:] != shape:
        values = np.moveaxis(values, -1, 0)
    if values.shape[1:] != shape:
        raise DataError(
            f"pair {number}: the image is {shape_text(values.shape)} and its mask {shape_text(shape)}; an image has "
            "the mask's shape, with one more axis for channels at the beginning or the end"
        )
    return check_image(values, Path(f"pair {number}"))
