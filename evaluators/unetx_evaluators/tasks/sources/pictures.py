"""PNG pictures as arrays. Rows come first: ``[h, w]`` and ``[c, h, w]``."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

GREY, RGB = ("grey",), ("red", "green", "blue")

CHANNELS = {
    "1": GREY,
    "L": GREY,
    "LA": GREY,
    "I;16": GREY,
    "I;16B": GREY,
    "I": GREY,
    "P": RGB,
    "PA": RGB,
    "RGB": RGB,
    "RGBA": RGB,
}
"""Channels of a picture by Pillow's mode: a palette stands for colours, an opaque alpha channel is dropped."""

_EXPANDED = {"P": "RGBA", "PA": "RGBA", "1": "L"}


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture's first bytes tell."""

    channels: tuple[str, ...]
    shape: tuple[int, int]
    """Height, width."""


def read_header(file: Path) -> Header:
    """Size and channels, without decoding the pixels."""
    with _opened(file) as picture:
        if picture.mode not in CHANNELS:
            raise DataError(f"{file}: PNG mode {picture.mode!r} is not read; convert it to grey or RGB")
        return Header(CHANNELS[picture.mode], (picture.height, picture.width))


def read_picture(file: Path) -> npt.NDArray[Any]:
    """``[c, h, w]`` in the file's own integer type."""
    with _opened(file) as picture:
        array = np.asarray(picture.convert(_EXPANDED.get(picture.mode, picture.mode)))
    return array[None] if array.ndim == 2 else np.moveaxis(_without_alpha(array, file), -1, 0)


def read_mask(file: Path) -> npt.NDArray[Any]:
    """``[h, w]``: grey levels or palette indices; a colour mask only if its three channels are equal."""
    with _opened(file) as picture:
        array = np.asarray(picture)
    if array.ndim == 2:
        return array.astype(np.uint8) if array.dtype == np.bool_ else array
    colours = _without_alpha(array, file)
    if (colours != colours[..., :1]).any():
        raise DataError(f"{file}: is a colour mask, which is not read; save one grey level per class")
    return colours[..., 0]


def _without_alpha(array: npt.NDArray[Any], file: Path) -> npt.NDArray[Any]:
    """Drops an opaque alpha channel (the last of 2 or 4); one that hides anything is refused."""
    if array.shape[-1] not in (2, 4):
        return array
    if (array[..., -1] != np.iinfo(array.dtype).max).any():
        raise DataError(f"{file}: has transparent pixels, whose value is not defined; save it without alpha channel")
    return array[..., :-1]


@contextmanager
def _opened(file: Path) -> Iterator[Image]:
    """The picture; whatever Pillow finds wrong with it, now or when its pixels are decoded, is a DataError."""
    from PIL import Image as pillow  # noqa: N813 - a module named like its class

    try:
        with pillow.open(file, formats=("PNG",)) as picture:
            yield picture
    except pillow.DecompressionBombError as error:
        raise DataError(f"{file}: {error}; cut it into tiles") from error
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise DataError(
            f"{file}: cannot be read as PNG ({error}); copy or export it again, or remove the case"
        ) from error
