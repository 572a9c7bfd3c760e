from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from task_samples import Array, check_refused, deep_tiff_folder, mask, picture, picture_folder, save_pages, save_png

from unetx_evaluators.tasks.sources import open_source


def folder_with(root: Path, image: str, content: bytes | None = None, shape: tuple[int, int] = (16, 20)) -> Path:
    """One case whose image file is called ``image``; written by the caller unless its content is given."""
    save_png(root / "masks" / f"{Path(image).stem}.png", mask(shape))
    (root / "images").mkdir(parents=True, exist_ok=True)
    if content is not None:
        (root / "images" / image).write_bytes(content)
    return root


def png(bit_depth: int, colour_type: int, pixels: Array) -> bytes:
    """A PNG as its specification has it, for kinds that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(pixels.dtype.newbyteorder(">")))
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(pixels: Array, **tags: int) -> bytes:
    """An uncompressed TIFF, for kinds that Pillow does not write: little-endian, one strip."""
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    format_ = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    bits = pixels.dtype.itemsize * 8
    entries = {256: [width], 257: [height], 258: [bits] * samples, 259: [1], 262: [2 if samples == 3 else 1]}
    entries |= {273: [8], 277: [samples], 278: [height], 279: [len(data)], 339: [format_] * samples}
    entries |= {int(tag.removeprefix("tag")): [value] for tag, value in tags.items()}
    place = 8 + len(data)
    after = place + 2 + 12 * len(entries) + 4
    directory, extra = struct.pack("<H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        kind, size = (4, "I") if tag in (273, 278, 279) else (3, "H")
        packed = struct.pack(f"<{len(values)}{size}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", after + len(extra)), extra + packed
        directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", place) + data + directory + bytes(4) + extra


def test_sixteen_bits_of_a_tiff_read_like_pillow(tmp_path: Path) -> None:
    source = open_source(deep_tiff_folder(tmp_path))
    assert (source.dims, source.channels) == (2, ("grey",))
    for name in source.case_names:
        plain = np.array(Image.open(tmp_path / "images" / f"{name}.tif"))
        assert plain.max() > 50_000
        np.testing.assert_array_equal(source.read(name).image[0], plain)
        np.testing.assert_array_equal(source.read(name).label, mask((31, 25), 0, 1))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32"])
def test_every_number_type_of_a_grey_tiff_keeps_its_values(tmp_path: Path, dtype: str) -> None:
    is_float = dtype.startswith("float")
    low, high = (-1e6, 1e6) if is_float else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    pixels = np.linspace(low, high, 16 * 20).reshape(16, 20).astype(dtype)
    folder = folder_with(tmp_path, "a.tif", tiff(pixels))
    np.testing.assert_array_equal(open_source(folder).read("a").image[0], pixels.astype(np.float32))


def test_a_tiff_of_colours_is_read(tmp_path: Path) -> None:
    pixels = picture((16, 20, 3))
    folder = folder_with(tmp_path, "a.tiff", tiff(pixels))
    np.testing.assert_array_equal(open_source(folder).read("a").image, np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize("ending", ["bmp", "png", "tif"])
def test_rows_stay_rows_in_every_format(tmp_path: Path, ending: str) -> None:
    folder = folder_with(tmp_path, f"a.{ending}")
    save_png(folder / "images" / f"a.{ending}", picture((16, 20, 3)))
    np.testing.assert_array_equal(open_source(folder).read("a").image, np.moveaxis(picture((16, 20, 3)), -1, 0))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", png(16, 2, np.full((16, 20, 3), 300, np.uint16))),
        ("a.png", png(16, 6, np.full((16, 20, 4), 65535, np.uint16))),
        ("a.png", png(16, 4, np.full((16, 20, 2), 65535, np.uint16))),
        ("a.tif", tiff(np.full((16, 20, 3), 300, np.uint16))),
    ],
)
def test_colours_of_sixteen_bits_are_refused_rather_than_cut_to_eight(
    tmp_path: Path, name: str, content: bytes
) -> None:
    check_refused(folder_with(tmp_path, name, content), r"has 16 bits for each of several channels")


def test_signed_bytes_are_refused(tmp_path: Path) -> None:
    pixels = np.full((16, 20), -3, np.int8)
    check_refused(folder_with(tmp_path, "a.tif", tiff(pixels)), r"a\.tif: holds signed bytes")


def test_a_photograph_that_is_to_be_turned_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a.jpg")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(picture((16, 20, 3))).save(folder / "images" / "a.jpg", exif=exif)
    check_refused(folder, r"a\.jpg: its orientation tag \(3\) wants the pixels turned")


def test_a_tiff_that_is_to_be_turned_is_refused(tmp_path: Path) -> None:
    check_refused(folder_with(tmp_path, "a.tif", tiff(picture(), tag274=6)), r"orientation tag \(6\)")


def test_masks_that_are_jpegs_are_refused(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask(), "b": mask()})
    (folder / "masks" / "a.png").unlink()
    save_png(folder / "masks" / "a.jpg", mask())
    check_refused(folder, r"masks/a\.jpg: is a JPEG, whose compression invents values")
    assert open_source(folder).case_names == ("b",)


def test_pages_of_a_tiff_are_the_slices_of_a_volume(tmp_path: Path) -> None:
    pages, masks = picture((4, 11, 13)), np.stack([mask((11, 13), 0, 1)] * 4)
    save_pages(tmp_path / "images" / "a.tif", pages)
    save_pages(tmp_path / "masks" / "a.tif", masks)
    source = open_source(tmp_path)
    case = source.read("a")
    assert (source.dims, case.spacing) == (3, (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(case.image[0], pages)
    np.testing.assert_array_equal(case.label, masks)


def test_pages_may_be_colours(tmp_path: Path) -> None:
    pages = picture((3, 11, 13, 3))
    save_pages(tmp_path / "images" / "a.tif", pages)
    save_pages(tmp_path / "masks" / "a.tif", np.stack([mask((11, 13), 0, 1)] * 3))
    np.testing.assert_array_equal(open_source(tmp_path).read("a").image, np.moveaxis(pages, -1, 0))


def test_pages_of_differing_size_are_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a.tif")
    thumbnail = Image.fromarray(picture((4, 5)))
    Image.fromarray(picture()).save(folder / "images" / "a.tif", save_all=True, append_images=[thumbnail])
    check_refused(folder, r"a\.tif: page 2 differs from the first in size or kind")


@pytest.mark.parametrize(
    "description",
    [
        "ImageJ=1.54f\nimages=30\nslices=30\n",
        "ImageJ=1.54f\nimages=2\nchannels=2\n",
        '<OME><Pixels SizeC="2" SizeT="1"/></OME>',
    ],
)
def test_stacks_of_channels_or_hidden_slices_are_refused(tmp_path: Path, description: str) -> None:
    folder = folder_with(tmp_path, "a.tif")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270] = description
    pages = [Image.fromarray(page) for page in picture((2, 16, 20))]
    pages[0].save(folder / "images" / "a.tif", save_all=True, append_images=pages[1:], tiffinfo=tags)
    check_refused(folder, r"a\.tif: its description tells of more than the slices of one volume")


def test_pictures_and_volumes_do_not_mix(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask(), "b": mask()})
    save_pages(folder / "images" / "c.tif", picture((4, 11, 13)))
    save_pages(folder / "masks" / "c.tif", np.stack([mask((11, 13))] * 4))
    check_refused(folder, r"c\.tif: is 3D, but a\.png is 2D")


@pytest.mark.parametrize(("ending", "kind"), [("jpg", "JPEG"), ("tif", "TIFF"), ("bmp", "BMP"), ("png", "PNG")])
def test_a_file_that_ends_early_is_refused_with_its_name(tmp_path: Path, ending: str, kind: str) -> None:
    folder = folder_with(tmp_path, f"a.{ending}", shape=(64, 64))
    file = folder / "images" / f"a.{ending}"
    save_png(file, picture((64, 64, 3)))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    check_refused(folder, rf"a\.{ending}: cannot be read as {kind}")


def test_many_pages_that_claim_too_much_are_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pages(tmp_path / "images" / "a.tif", picture((4, 11, 13)))
    save_pages(tmp_path / "masks" / "a.tif", np.stack([mask((11, 13))] * 4))
    monkeypatch.setattr("unetx_evaluators.tasks.sources.header.MAX_VOXELS", 500)
    check_refused(tmp_path, r"a\.tif: claims 4x11x13 voxels .*decompression bomb: at most 500")


def test_nan_in_a_float_tiff_is_refused(tmp_path: Path) -> None:
    pixels: Any = picture().astype(np.float32)
    pixels[2, 3] = np.nan
    check_refused(folder_with(tmp_path, "a.tif", tiff(pixels)), r"a\.tif: 1 of 320 voxels are NaN or infinite")


def test_cmyk_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a.jpg")
    Image.fromarray(picture((16, 20, 4)), mode="CMYK").save(folder / "images" / "a.jpg")
    check_refused(folder, r"a\.jpg: JPEG mode 'CMYK' is not read; convert it to grey or RGB")


def test_an_animation_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a.png")
    frames = [Image.fromarray(page) for page in picture((2, 16, 20))]
    frames[0].save(folder / "images" / "a.png", save_all=True, append_images=frames[1:])
    check_refused(folder, r"a\.png: is animated")
