"""Which files are read, and what to do with those that are not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from unetx_evaluators.evaluation import DataError

NIFTI = (".nii.gz", ".nii")
PICTURES = {
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".gif": "GIF",
}
"""Pillow's name of the format by ending."""
LOSSY = (".jpg", ".jpeg")
"""Good enough for images; at the edges of a mask they invent values."""
READ = (*NIFTI, *PICTURES)

_DICOM = "convert DICOM series to NIfTI, with dcm2niix for instance (dcm2niix -z y -o OUT IN)"
_VOLUME = "convert it to .nii.gz, with SimpleITK (WriteImage(ReadImage(IN), OUT)) or 3D Slicer"
_ARRAY = "write its arrays as .nii.gz (nibabel) or as PNG or TIFF (Pillow)"
_MICROSCOPE = (
    "convert it to TIFF or NIfTI, with Bio-Formats (bfconvert IN OUT.tif) or Fiji; cut whole slides into tiles"
)
_PICTURE = "convert it to PNG, with Pillow or ImageMagick for instance"

_CONVERSIONS: dict[str, tuple[str, ...]] = {
    _DICOM: (".dcm", ".dicom", ".ima"),
    _VOLUME: (".nrrd", ".nhdr", ".seg.nrrd", ".mha", ".mhd", ".mgz", ".mgh", ".hdr", ".img", ".mnc", ".gipl", ".v3d"),
    _ARRAY: (".npy", ".npz", ".h5", ".hdf5", ".mat", ".zarr", ".pt", ".pkl", ".b2nd"),
    _MICROSCOPE: (".czi", ".lif", ".nd2", ".lsm", ".oib", ".oif", ".svs", ".ndpi", ".vsi", ".scn", ".mrxs"),
    _PICTURE: (".webp", ".jp2", ".heic", ".ppm", ".pgm", ".tga"),
}
CONVERTERS = {ending: remedy for remedy, endings in _CONVERSIONS.items() for ending in endings}
"""Formats that hold images but are not read, with the way to one that is."""

_KNOWN = sorted((*READ, *CONVERTERS), key=len, reverse=True)
_DICOM_MAGIC_AT = 128
_BEGINNINGS: dict[str, tuple[int, tuple[bytes, ...], str]] = {
    "a PNG": (0, (b"\x89PNG",), ".png"),
    "a JPEG": (0, (b"\xff\xd8\xff",), ".jpg"),
    "a GIF": (0, (b"GIF87a", b"GIF89a"), ".gif"),
    "a TIFF": (0, (b"II*\0", b"MM\0*"), ".tif"),
    "a BMP": (0, (b"BM",), ".bmp"),
    "a NIfTI volume": (344, (b"n+1\0",), ".nii"),
    "compressed with gzip": (0, (b"\x1f\x8b",), ""),
    "a DICOM file": (_DICOM_MAGIC_AT, (b"DICM",), ""),
    "a WebP": (8, (b"WEBP",), ""),
    "a ZIP archive": (0, (b"PK\3\4",), ""),
    "an HDF5 file": (0, (b"\x89HDF",), ""),
    "a pointer of Git LFS, not the file it stands for": (0, (b"version https://git-lfs",), ""),
    "a web page": (0, (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML"), ""),
}
"""What a file is by its first bytes: where they stand, what they are, and the ending that is read, if one is."""
_REMEDIES = {
    "compressed with gzip": "unpack it (gunzip)",
    "a DICOM file": _DICOM,
    "a WebP": _PICTURE,
    "a ZIP archive": "unpack it",
    "an HDF5 file": _ARRAY,
    "a pointer of Git LFS, not the file it stands for": "fetch the files (git lfs pull)",
    "a web page": "download the file again",
}
_MAX_LOOKED_AT = 500


def ending_of(file: Path) -> str:
    """``.nii.gz`` of ``a.nii.gz``, in lower case; empty where the ending is not one of an image format."""
    name = file.name.lower()
    return next((ending for ending in _KNOWN if name.endswith(ending)), "")


def stem_of(file: Path) -> str:
    """The name without its ending."""
    return file.name[: len(file.name) - len(ending_of(file))]


def is_nifti(file: Path) -> bool:
    return ending_of(file) in NIFTI


def conversion(file: Path) -> str | None:
    """How an image file that is not read becomes one that is; None for a file that is read, or that is no image."""
    ending = ending_of(file)
    if ending in READ:
        return None
    return _DICOM if not ending and is_dicom(file) else CONVERTERS.get(ending)


def is_dicom(file: Path) -> bool:
    """By its ending, its name, or the four letters after DICOM's preamble (PS3.10, section 7.1)."""
    if file.name.upper() == "DICOMDIR" or CONVERTERS.get(ending_of(file)) == _DICOM:
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(_DICOM_MAGIC_AT + 4)[_DICOM_MAGIC_AT:] == b"DICM"
    except OSError:
        return False


def mistaken_for(file: Path) -> str | None:
    """What a file really is that cannot be read by its ending, with the remedy; None where its first bytes do not tell.

    ``for it is a JPEG; rename it to c03.jpg``.
    """
    try:
        with file.open("rb") as stream:
            beginning = stream.read(512)
    except OSError:
        return None
    if not beginning:
        return "for it is empty (0 bytes); copy or export it again, or remove the case"
    for kind, (at, magics, ending) in _BEGINNINGS.items():
        if beginning[at:].startswith(magics) and kind != f"a {PICTURES.get(ending_of(file))}":
            return f"for it is {kind}; {_REMEDIES.get(kind) or f'rename it to {stem_of(file)}{ending}'}"
    return None


def refuse_dicom(place: Path) -> None:
    """Raises DataError if ``place``, a file or a folder without any layout that is known, holds DICOM files."""
    files: Iterable[Path] = _files_below(place) if place.is_dir() else [place]
    found = next((file for file in files if is_dicom(file)), None)
    if found is not None:
        raise DataError(f"{found}: is a DICOM file, which is not read; {_DICOM}, then arrange images and masks")


def _files_below(folder: Path) -> Iterable[Path]:
    below = (Path(parent) / name for parent, _, names in os.walk(folder) for name in sorted(names))
    return islice(below, _MAX_LOOKED_AT)
