"""Reading and writing of PNG, TIFF, JPEG, BMP and GIF pictures.

Rows come first: ``[h, w]``; a TIFF's pages are a volume ``[n, h, w]``.

Pillow opens them and MONAI's PILReader gives the array, without swapping rows and columns. Pictures that Pillow would
silently change are refused: colours of 16 bits (it keeps 8), signed bytes, pixels that a tag wants rotated.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import unreadable
from unetx_evaluators.tasks.sources.file_kinds import FIRST_BYTES, refuse_other_contents
from unetx_evaluators.tasks.sources.formats import PICTURES, ending_of
from unetx_evaluators.tasks.sources.header import Header

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
    "F": GREY,
    "P": RGB,
    "PA": RGB,
    "RGB": RGB,
    "RGBA": RGB,
}
"""Channels of a picture by Pillow's mode: palettes become colours, opaque alpha channels are dropped."""

_EXPANDED = {"P": "RGBA", "PA": "RGBA", "1": "L"}
_PALETTES = ("P", "PA")

MaskKind = Literal["number", "colour", "brightness"]
"""How a mask's pixels are read: as grey levels or palette indices; as colours ``0xRRGGBB``, also of the palette; or as
grey levels, those of colours being their largest component."""

_ORIENTATION, _DESCRIPTION, _BITS_PER_SAMPLE, _SAMPLE_FORMAT = 0x0112, 270, 258, 339
"""Tags of TIFF 6.0 and Exif."""
_UNSIGNED, _SIGNED = 1, 2
"""Values of the tag SampleFormat."""


def read_header(file: Path) -> Header:
    """The header of a picture: size and channels, without decoding pixels."""
    with _opened(file) as picture:
        return _header(picture, file)


def read_image(file: Path) -> tuple[Header, npt.NDArray[Any]]:
    """Header and array ``[c, *spatial]`` of a picture, in its own number type."""
    with _opened(file) as picture:
        header = _header(picture, file)
        pages = [_pixels(page.convert(_EXPANDED.get(page.mode, page.mode)), page) for page in _pages(picture)]
    array = _without_alpha(_stacked(pages, header), header)
    return header, array[None] if array.ndim == len(header.shape) else np.moveaxis(array, -1, 0)


def read_mask(file: Path, *, kind: MaskKind = "number") -> tuple[Header, npt.NDArray[Any]]:
    """Header and values ``[*spatial]`` of a mask, read as that ``kind``, whatever the file's mode."""
    with _opened(file) as picture:
        header = _header(picture, file)
        pages = [_pixels(_as_kind(page, kind, file), page) for page in _pages(picture)]
    array = _without_alpha(_stacked(pages, header), header)
    if array.ndim == len(header.shape):
        return header, array.astype(np.uint8) if array.dtype == np.bool_ else array
    colours = array.astype(np.int32)
    if kind == "colour":
        return header, (colours[..., 0] << 16) | (colours[..., 1] << 8) | colours[..., 2]
    if kind == "number" and (colours != colours[..., :1]).any():
        raise DataError(
            f"{file}: is a colour mask; say what its colours mean, like --labels cell=#ff0000, or save one grey level "
            "per class"
        )
    return header, colours.max(axis=-1)


def write_like(file: Path, like: Path, values: npt.NDArray[Any]) -> None:
    """Write a mask ``[h, w]``, ``[n, h, w]`` or of colours ``[h, w, 3]`` into ``file``: as TIFF if ``like`` is one,
    else as PNG."""
    from PIL import Image as pillow  # noqa: N813 - a module named like its class

    if PICTURES[ending_of(like)] != "TIFF":
        pillow.fromarray(values).save(file, format="PNG")
        return
    is_stack = len(read_header(like).shape) == 3
    first, *others = [pillow.fromarray(page) for page in (values if is_stack else values[None])]
    first.save(file, format="TIFF", save_all=True, append_images=others, compression="tiff_deflate")


def read_palette(file: Path) -> dict[int, int] | None:
    """The palette's colours as ``0xRRGGBB`` by index; None for a picture without palette."""
    with _opened(file) as picture:
        if picture.mode not in _PALETTES:
            return None
        parts = list(picture.getpalette("RGB") or ())
    return {index: int.from_bytes(parts[3 * index : 3 * index + 3], "big") for index in range(len(parts) // 3)}


def _header(picture: Image, file: Path) -> Header:
    if picture.mode not in CHANNELS:
        raise DataError(f"{file}: {picture.format} mode {picture.mode!r} is not read; convert it to grey or RGB")
    _check_faithful(picture, file)
    n_pages, size, mode = 0, picture.size, picture.mode
    for page in _pages(picture):
        n_pages += 1
        if (page.size, page.mode) != (size, mode):
            raise DataError(
                f"{file}: page {n_pages} differs from the first in size or kind; pages of one size are read, as the "
                "slices of a volume: save the others as files of their own"
            )
    shape = (size[1], size[0]) if n_pages == 1 else (n_pages, size[1], size[0])
    return Header(file, shape, CHANNELS[mode], (1.0,) * len(shape), coloured=mode in ("RGB", "RGBA"))


def _check_faithful(picture: Any, file: Path) -> None:
    """Raise DataError on pictures whose values Pillow would change."""
    args: Any = picture.tile[0].args if picture.tile else ""
    raw_mode = str(args if isinstance(args, str) else args[0] if args else "")  # as in the file, ``RGB;16B``
    if ";16" in raw_mode and not raw_mode.startswith("I"):
        raise DataError(
            f"{file}: has 16 bits for each of several channels, of which only 8 would be read; save it with 8 bits, or "
            "its channels as grey files of 16 bits (in nnU-Net's layout)"
        )
    turned = picture.getexif().get(_ORIENTATION, 1) if picture.format in ("JPEG", "MPO", "TIFF") else 1
    if turned not in (0, 1):
        raise DataError(
            f"{file}: its orientation tag ({turned}) wants the pixels turned, and whether its mask was drawn before or "
            "after that is not known; save both upright, without the tag"
        )
    if picture.format == "BMP" and picture.mode == "1" and _bits_of_bmp(file) != 1:
        raise DataError(
            f"{file}: is a BMP of {_bits_of_bmp(file)} bits with a palette of two colours, which would be read as if "
            "it had 1 bit; save it as PNG"
        )
    if picture.format == "TIFF":
        _check_tiff(picture, file)
    elif picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
        raise DataError(f"{file}: is animated; save the frames as files of their own")


def _bits_of_bmp(file: Path) -> int:
    """The number of bits of a pixel, by the header field biBitCount."""
    with file.open("rb") as stream:
        return int.from_bytes(stream.read(30)[28:], "little")


def _check_tiff(picture: Any, file: Path) -> None:
    bits, formats = picture.tag_v2.get(_BITS_PER_SAMPLE, (1,)), picture.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,))
    if bits[0] == 8 and formats[0] == _SIGNED:
        raise DataError(f"{file}: holds signed bytes, which would be read as unsigned; save it with 16 bits")
    text = str(picture.tag_v2.get(_DESCRIPTION, ""))
    stated = dict(re.findall(r"^(images|channels|frames)=(\d+)\s*$", text, re.M)) if text.startswith("ImageJ=") else {}
    more = {name: int(n) for name, n in stated.items() if name != "images"}
    more |= {f"Size{axis}": int(n) for axis, n in re.findall(r'\bSize([CT])="(\d+)"', text) if "<OME" in text}
    samples = len(bits)
    if int(stated.get("images", picture.n_frames)) != picture.n_frames or any(
        n not in (1, samples) for n in more.values()
    ):
        raise DataError(
            f"{file}: its description tells of more than the slices of one volume "
            f"({', '.join(f'{name} {n}' for name, n in {**stated, **more}.items())}); save each channel and time as a "
            "file of its own, uncompressed stacks with one page per slice"
        )


def _pages(picture: Image) -> Iterator[Image]:
    """Yield the picture at each of its pages; files other than TIFF have one."""
    n_pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
    for number in range(n_pages):
        if n_pages > 1:
            picture.seek(number)
        yield picture
    if n_pages > 1:
        picture.seek(0)


def _pixels(converted: Image, page: Any) -> npt.NDArray[Any]:
    """The pixels ``[h, w]`` or ``[h, w, c]``, by MONAI's reader."""
    from monai.data.image_reader import PILReader  # seconds, and torch with it

    array = np.asarray(PILReader(reverse_indexing=False).get_data(converted)[0])
    if page.mode == "I" and page.format == "TIFF" and page.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED:
        return array.view(np.uint32)  # Pillow knows 32 bits as signed only
    return array


def _stacked(pages: list[npt.NDArray[Any]], header: Header) -> npt.NDArray[Any]:
    return pages[0] if len(header.shape) == 2 else np.stack(pages)


def _as_kind(page: Image, kind: MaskKind, file: Path) -> Image:
    if kind == "brightness" and page.mode == "1":
        return page.convert("L")
    if kind == "number" or (kind == "brightness" and page.mode not in _PALETTES):
        return page
    if page.mode not in ("1", "L", "LA", "RGB", "RGBA", *_PALETTES):
        raise DataError(f"{file}: holds grey levels of more than 8 bits, no colours; give --labels values instead")
    return page.convert("RGBA")


def _without_alpha(array: npt.NDArray[Any], header: Header) -> npt.NDArray[Any]:
    """The array without an alpha channel (the last of 2 or 4). Raises DataError where that is not opaque."""
    if array.ndim == len(header.shape):
        return array
    if array.shape[-1] in (2, 4):
        if (array[..., -1] != np.iinfo(array.dtype).max).any():
            raise DataError(
                f"{header.file}: has transparent pixels, whose value is not defined; save it without alpha channel"
            )
        array = array[..., :-1]
    return array[..., 0] if array.shape[-1] == 1 else array


@contextmanager
def _opened(file: Path) -> Iterator[Image]:
    """The opened picture; errors that Pillow raises inside, also when pixels are decoded, become DataErrors."""
    from PIL import Image as pillow  # noqa: N813 - a module named like its class

    kind = PICTURES[ending_of(file)]
    try:
        with pillow.open(file, formats=(kind,)) as picture:
            yield picture
    except pillow.DecompressionBombError as error:
        raise DataError(f"{file}: {error}; cut it into tiles") from error
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError, MemoryError, zlib.error) as error:
        with suppress(OSError), file.open("rb") as stream:
            refuse_other_contents(file, stream.read(FIRST_BYTES), expected=kind)
        raise unreadable(file, kind, error) from error
