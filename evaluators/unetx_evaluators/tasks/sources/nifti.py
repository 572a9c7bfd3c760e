"""Reading and writing of NIfTI volumes, in the orientation of ``orientation``.

The array comes from MONAI's NibabelReader, the header from nibabel. Files are not opened by the reader: it would read a
compressed file only as far as the voxels, before the checksum, and where a header contradicts itself (sform and pixdim)
it would silently change the volume's position.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import unreadable
from unetx_evaluators.tasks.sources.file_kinds import FIRST_BYTES, GZIP, NIFTI, refuse_other_contents
from unetx_evaluators.tasks.sources.formats import ending_of
from unetx_evaluators.tasks.sources.header import Header
from unetx_evaluators.tasks.sources.orientation import Affine, as_stored, canonical_header, channels_first

_NIFTI_2_HEADER_BYTES = 540
_MAX_TRAILING_BYTES = 1 << 20


def read_header(file: Path) -> Header:
    """The header of a volume: shape, spacing and position; a compressed file is unpacked no further than that."""
    with _opened(file) as stream:
        return _header(_image(stream), file)


def read_array(file: Path) -> tuple[Header, npt.NDArray[Any]]:
    """Header and array ``[c, *spatial]`` of a volume, in the file's own type, or float64 where it scales values."""
    with _opened(file) as stream:
        image = _image(stream)
        header = _header(image, file)
        array = _canonical_array(image, file)
        _check_end(stream, file)
    return header, channels_first(array, header)


def stored_grid(file: Path) -> tuple[tuple[int, ...], Affine]:
    """The shape of a volume as stored, and its affine."""
    with _opened(file) as stream:
        image = _image(stream)
    return tuple(int(n) for n in image.shape[:3]), np.asarray(image.affine, dtype=np.float64)


def write_like(file: Path, like: Path, values: npt.NDArray[Any]) -> None:
    """Write a label map ``[*spatial]`` into ``file`` (``.nii`` or ``.nii.gz``) with the shape, affine, orientation and
    units of the volume ``like``."""
    with _opened(like) as stream:
        image = _image(stream)
    header = image.header.copy()
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    stored = as_stored(values, *stored_grid(like), like)
    made = type(image)(stored, image.affine, header)
    with file.open("wb") as target:
        if ending_of(file) == ".nii":
            made.to_stream(target)
        else:
            with gzip.GzipFile(filename="", fileobj=target, mode="wb", compresslevel=6, mtime=0) as packed:
                made.to_stream(packed)


@contextmanager
def _opened(file: Path) -> Iterator[BufferedIOBase]:
    """The unpacked bytes of a file; errors that nibabel or gzip raise inside become DataErrors, and are not logged."""
    import nibabel as nib  # a quarter of a second that a task without NIfTI does not pay
    from nibabel.imageglobals import logger

    unreadable = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError)
    unusable = (nib.orientations.OrientationError, OSError, EOFError, ValueError, TypeError, zlib.error)
    is_packed = file.suffix.lower() == ".gz"
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # it raises what it logs
    try:
        with file.open("rb") as stored:
            refuse_other_contents(file, stored.read(FIRST_BYTES), expected=GZIP if is_packed else NIFTI)
            stored.seek(0)
            yield gzip.GzipFile(fileobj=stored) if is_packed else stored
    except (*unreadable, *unusable) as error:
        raise _broken(file, str(error)) from error
    finally:
        logger.setLevel(level)


def _image(stream: BufferedIOBase) -> Any:
    """nibabel's image, whose voxels are not read yet."""
    import nibabel as nib

    size = stream.read(4)
    stream.seek(0)
    second = _NIFTI_2_HEADER_BYTES in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
    return (nib.Nifti2Image if second else nib.Nifti1Image).from_stream(stream)


def _header(image: Any, file: Path) -> Header:
    if image.get_data_dtype().kind not in "buif":
        raise DataError(
            f"{file}: holds values of type {image.get_data_dtype()}, not numbers; write channels one after the other"
        )
    shape = tuple(int(n) for n in image.shape)
    return canonical_header(file, shape, np.asarray(image.affine, dtype=np.float64), _place(image.header))


def _place(header: Any) -> str:
    """A text on the header fields of the affine that nibabel uses: the sform, else the qform, else the voxels'
    sizes."""
    if header["sform_code"] > 0:
        return "its sform (header fields srow_x, srow_y, srow_z)"
    if header["qform_code"] > 0:
        return "its qform (header fields quatern_b to quatern_d and pixdim)"
    return "its header field pixdim (sform_code and qform_code are 0)"


def _canonical_array(image: Any, file: Path) -> npt.NDArray[Any]:
    """The array ``[x, y, z, ...]`` in RAS+, by MONAI's reader."""
    from monai.data.image_reader import NibabelReader  # seconds, and torch with it

    if image.ndim == 2:  # neither knows how to turn a picture
        image = type(image)(np.asanyarray(image.dataobj)[..., None], image.affine, image.header)
    reader = NibabelReader(as_closest_canonical=True)
    reader.filenames = (str(file),)  # what its read() would have left behind
    array, _ = reader.get_data(image)
    return np.asarray(array)


def _check_end(stream: BufferedIOBase, file: Path) -> None:
    """Read to the end, where gzip checks its checksum. Raises DataError where too much follows the voxels."""
    n_bytes = 0
    while chunk := stream.read(1 << 16):
        n_bytes += len(chunk)
        if n_bytes > _MAX_TRAILING_BYTES:
            raise _broken(file, "it goes on after the last voxel that its header tells of")


def _broken(file: Path, reason: str) -> DataError:
    return unreadable(file, "NIfTI", " ".join(reason.split()) or "the file ends early")
