"""The file formats that are read, and advice on those that are not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from unetx_evaluators.evaluation import DataError

NIFTI = (".nii.gz", ".nii")
ITK = (".mha", ".mhd", ".seg.nrrd", ".nrrd")
"""Endings of MetaImage and NRRD files, which are read where SimpleITK is installed."""
PICTURES = {
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".gif": "GIF",
}
"""Pillow's name of the format of a picture by its ending."""
LOSSY = (".jpg", ".jpeg")
"""Endings of formats whose compression changes values, which images tolerate and masks do not."""
HAS_ITK = find_spec("SimpleITK") is not None
READ = (*NIFTI, *(ITK if HAS_ITK else ()), *PICTURES)
LOSSLESS = tuple(ending for ending in READ if ending not in LOSSY)
"""Endings of the formats in which masks are read."""

_DICOM = "convert DICOM series to NIfTI, with dcm2niix for instance (dcm2niix -z y -o OUT IN)"
_VOLUME = "convert it to .nii.gz, with SimpleITK (WriteImage(ReadImage(IN), OUT)) or 3D Slicer"
_EXTRA = (
    'reading it needs SimpleITK: pip install "unetx-search[simpleitk]", or convert it to .nii.gz, with 3D Slicer say'
)
_ARRAY = "write its arrays as .nii.gz (nibabel) or as PNG or TIFF (Pillow)"
_MICROSCOPE = (
    "convert it to TIFF or NIfTI, with Bio-Formats (bfconvert IN OUT.tif) or Fiji; cut whole slides into tiles"
)
_PICTURE = "convert it to PNG, with Pillow or ImageMagick for instance"

_CONVERSIONS: dict[str, tuple[str, ...]] = {
    _DICOM: (".dcm", ".dicom", ".ima"),
    _EXTRA: () if HAS_ITK else ITK,
    _VOLUME: (".nhdr", ".mgz", ".mgh", ".hdr", ".img", ".mnc", ".gipl", ".v3d"),
    _ARRAY: (".npy", ".npz", ".h5", ".hdf5", ".mat", ".zarr", ".pt", ".pkl", ".b2nd"),
    _MICROSCOPE: (".czi", ".lif", ".nd2", ".lsm", ".oib", ".oif", ".svs", ".ndpi", ".vsi", ".scn", ".mrxs"),
    _PICTURE: (".webp", ".jp2", ".heic", ".ppm", ".pgm", ".tga"),
}
CONVERTERS = {ending: remedy for remedy, endings in _CONVERSIONS.items() for ending in endings}
"""Advice on how to convert image formats that are not read, by ending."""

_KNOWN = sorted((*READ, *CONVERTERS), key=len, reverse=True)
_DICOM_MAGIC_AT = 128
_MAX_LOOKED_AT = 500


def ending_of(file: Path) -> str:
    """The ending of a file's name, like ``.nii.gz``, in lower case; empty where it is not one of an image format."""
    name = file.name.lower()
    return next((ending for ending in _KNOWN if name.endswith(ending)), "")


def stem_of(file: Path) -> str:
    """The file's name without its ending."""
    return file.name[: len(file.name) - len(ending_of(file))]


def is_nifti(file: Path) -> bool:
    return ending_of(file) in NIFTI


def is_itk(file: Path) -> bool:
    return ending_of(file) in ITK


def conversion(file: Path) -> str | None:
    """Advice on how to convert an image file that is not read; None for a file that is read, or that is no image."""
    ending = ending_of(file)
    if ending in READ:
        return None
    return _DICOM if not ending and is_dicom(file) else CONVERTERS.get(ending)


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM, by its ending, its name, or the letters after the preamble (PS3.10, section 7.1)."""
    if file.name.upper() == "DICOMDIR" or CONVERTERS.get(ending_of(file)) == _DICOM:
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(_DICOM_MAGIC_AT + 4)[_DICOM_MAGIC_AT:] == b"DICM"
    except OSError:
        return False


def refuse_dicom(place: Path) -> None:
    """Raise DataError if ``place``, a file or a folder without a known layout, holds DICOM files."""
    below = (Path(parent) / name for parent, _, names in os.walk(place) for name in sorted(names))
    files: Iterable[Path] = islice(below, _MAX_LOOKED_AT) if place.is_dir() else [place]
    found = next((file for file in files if is_dicom(file)), None)
    if found is not None:
        raise DataError(f"{found}: is a DICOM file, which is not read; {_DICOM}, then arrange images and masks")
