"""Detection of a file's kind by its first bytes, whatever its name."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.formats import CONVERTERS, READ

FIRST_BYTES = 352
"""Number of bytes that suffice to detect all kinds, those of NIfTI-1's header."""
GZIP, NIFTI = "gzip", "NIfTI"
_UNPACK, _FETCH = "unpack it", "get the file itself"
_NIFTI_HEADER_BYTES = {348, 540}


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of files, with the bytes at their beginning."""

    name: str
    """Name as in calls of ``refuse_other_contents``."""
    words: str
    """Name in messages, with its article."""
    beginnings: tuple[tuple[int, bytes], ...]
    """Offsets and values of the bytes that identify the kind."""
    ending: str = ""
    """Ending of the names of files that are read as this kind."""
    remedy: str = ""
    """Advice in messages; empty: to rename them by their ending."""


def _first(*magics: bytes) -> tuple[tuple[int, bytes], ...]:
    return tuple((0, magic) for magic in magics)


_KINDS = (
    _Kind(GZIP, "compressed (gzip)", _first(b"\x1f\x8b")),
    _Kind("PNG", "a PNG", _first(b"\x89PNG"), ".png"),
    _Kind("JPEG", "a JPEG", _first(b"\xff\xd8\xff"), ".jpg"),
    _Kind("TIFF", "a TIFF", _first(b"II*\0", b"MM\0*"), ".tif"),
    _Kind("BMP", "a BMP", _first(b"BM"), ".bmp"),
    _Kind("GIF", "a GIF", _first(b"GIF8"), ".gif"),
    _Kind("NRRD", "an NRRD volume", _first(b"NRRD"), ".nrrd"),
    _Kind("MetaImage", "a MetaImage volume", _first(b"ObjectType", b"NDims"), ".mha"),
    _Kind(NIFTI, "a NIfTI volume", ((344, b"n+1\0"), (4, b"n+2\0")), ".nii"),
    _Kind("WebP", "a WebP", ((8, b"WEBP"),), remedy=CONVERTERS[".webp"]),
    _Kind("DICOM", "a DICOM file", ((128, b"DICM"),), remedy=CONVERTERS[".dcm"]),
    _Kind("HDF5", "an HDF5 file", _first(b"\x89HDF"), remedy=CONVERTERS[".h5"]),
    _Kind("zip", "a zip archive", _first(b"PK\3\4"), remedy=_UNPACK),
    _Kind("xz", "an xz archive", _first(b"\xfd7zXZ"), remedy=_UNPACK),
    _Kind("bzip2", "a bzip2 archive", _first(b"BZh"), remedy=_UNPACK),
    _Kind("7-zip", "a 7-zip archive", _first(b"7z\xbc\xaf"), remedy=_UNPACK),
    _Kind(
        "HTML",
        "a web page, as a failed download leaves it",
        _first(b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML"),
        remedy=_FETCH,
    ),
    _Kind(
        "Git LFS",
        "a pointer of Git LFS, whose file was not fetched (git lfs pull)",
        _first(b"version https://git-lfs"),
        remedy=_FETCH,
    ),
    _Kind(
        "git-annex",
        "a pointer of git-annex, whose file was not fetched (git annex get)",
        _first(b"/annex/objects"),
        remedy=_FETCH,
    ),
)


def refuse_other_contents(file: Path, first: bytes, *, expected: str) -> None:
    """Raise DataError where the ``first`` bytes of a file are none, or those of another kind than ``expected``."""
    if not first:
        raise DataError(f"{file}: is empty (0 bytes); copy or export it again, or remove the case")
    kind = next((kind for kind in _KINDS if any(first[at:].startswith(magic) for at, magic in kind.beginnings)), None)
    if kind is None or kind.name == expected:
        return
    if kind.name == NIFTI and expected == GZIP:
        raise DataError(f"{file}: is not compressed, though its name ends in .gz; rename it to end in .nii")
    if kind.name == GZIP:
        remedy = "rename it to end in .nii.gz" if _holds_nifti(first) else _UNPACK
        raise DataError(f"{file}: is compressed (gzip), though its name does not say so; {remedy}")
    remedy = kind.remedy or f"rename it to end in {kind.ending}, or export it anew"
    if kind.ending and kind.ending not in READ:
        remedy = CONVERTERS[kind.ending]
    raise DataError(f"{file}: is {kind.words}, whatever its name says; {remedy}, or remove the case")


def _holds_nifti(packed: bytes) -> bool:
    """Whether gzip data unpack to the size of a NIfTI header, in either byte order."""
    try:
        size = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(packed)[:4]
    except zlib.error:
        return False
    return not _NIFTI_HEADER_BYTES.isdisjoint({int.from_bytes(size, "little"), int.from_bytes(size, "big")})
