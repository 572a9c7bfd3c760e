"""What a file's first bytes say it is, whatever its name says."""

from __future__ import annotations

import zlib
from pathlib import Path

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.formats import stem_of

GZIP = "gzip"
_MAGIC: dict[bytes, tuple[str, str]] = {
    b"\x1f\x8b": (GZIP, ".gz"),
    b"\x89PNG": ("PNG", ".png"),
    b"\xff\xd8\xff": ("JPEG", ".jpg"),
    b"II*\0": ("TIFF", ".tif"),
    b"MM\0*": ("TIFF", ".tif"),
    b"BM": ("BMP", ".bmp"),
    b"GIF8": ("GIF", ".gif"),
    b"NRRD": ("NRRD", ".nrrd"),
    b"ObjectType": ("MetaImage", ".mha"),
    b"NDims": ("MetaImage", ".mha"),
    b"PK\3\4": ("zip archive", ".zip"),
    b"\xfd7zXZ": ("xz archive", ".xz"),
    b"BZh": ("bzip2 archive", ".bz2"),
    b"7z\xbc\xaf": ("7-zip archive", ".7z"),
    **dict.fromkeys((b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML"), ("web page, as a failed download leaves it", "")),
    b"version https://git-lfs": ("pointer of Git LFS, whose file was not fetched (git lfs pull)", ""),
    b"/annex/objects": ("pointer of git-annex, whose file was not fetched (git annex get)", ""),
}
"""The kind of a file and the ending it ought to have, by its first bytes."""
FIRST_BYTES = 352
"""Enough to tell, and the header of NIfTI-1."""
_NIFTI_NAMES = (b"n+1\0", b"n+2\0", b"ni1\0", b"ni2\0")


def refuse_other_contents(file: Path, first: bytes, *, expected: str | None) -> None:
    """DataError where the ``first`` bytes of a file are those of another kind than ``expected``.

    None expects a kind that is not known here.
    """
    kind, ending = next((known for magic, known in _MAGIC.items() if first.startswith(magic)), (None, ""))
    if kind == expected or not first:
        return
    if kind is None:
        if expected == GZIP and any(name in (first[344:348], first[4:8]) for name in _NIFTI_NAMES):
            raise DataError(f"{file}: is not compressed, though its name ends in .gz; rename it to {file.stem}")
        return
    if kind == GZIP:
        try:
            inside = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(first)[:4]
        except zlib.error:
            inside = b""
        is_nifti = {348, 540} & {int.from_bytes(inside, "little"), int.from_bytes(inside, "big")}
        remedy = f"rename it to {stem_of(file)}.nii.gz" if is_nifti else "unpack it"
        raise DataError(f"{file}: is compressed (gzip), though its name does not say so; {remedy}")
    remedy = f"rename it to end in {ending}, or export it anew" if ending else "get the file itself"
    raise DataError(f"{file}: is a {kind}, whatever its name says; {remedy}, or remove the case")
