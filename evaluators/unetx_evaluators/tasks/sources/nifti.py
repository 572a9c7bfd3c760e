"""NIfTI volumes as arrays, in one orientation.

Every volume is brought to the closest canonical orientation, RAS+: axis 0 runs to the patient's right, 1 to the front,
2 to the head, so that arrays are ``[x, y, z]`` however the scanner stored them. Axes are swapped and flipped, voxels
never interpolated. A volume of one slice is a picture: the axis of size 1 is left out.

The array comes from MONAI's NibabelReader, the header from nibabel. The reader's own opening is passed by: it would
read a compressed file only as far as the voxels, before the checksum, and where a header contradicts itself (sform
beside pixdim) it would silently put the volume elsewhere.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import by
from unetx_evaluators.tasks.sources.header import Header

_NIFTI_2_HEADER_BYTES = 540
_MAX_TRAILING_BYTES = 1 << 20


def read_header(file: Path) -> Header:
    """Shape, spacing and place; a compressed file is unpacked no further than that."""
    with _opened(file) as stream:
        return _header(_image(stream), file)


def read_array(file: Path) -> tuple[Header, npt.NDArray[Any]]:
    """``[c, *spatial]`` in the file's own type, or float64 where its header scales the values."""
    with _opened(file) as stream:
        image = _image(stream)
        header = _header(image, file)
        array = _canonical_array(image, file)
        _check_end(stream, file)
    return header, array.reshape(*array.shape[:3], -1).transpose(3, 0, 1, 2).reshape(-1, *header.shape)


@contextmanager
def _opened(file: Path) -> Iterator[BufferedIOBase]:
    """The unpacked bytes; whatever nibabel or gzip finds wrong with them is a DataError."""
    import nibabel as nib  # a quarter of a second that a task without NIfTI does not pay

    unreadable = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError)
    unusable = (nib.orientations.OrientationError, OSError, EOFError, ValueError, TypeError, MemoryError, zlib.error)
    try:
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as stream:
            yield stream
    except (*unreadable, *unusable) as error:
        raise _broken(file, str(error)) from error


def _image(stream: BufferedIOBase) -> Any:
    """nibabel's image, its voxels still in the stream."""
    import nibabel as nib

    size = stream.read(4)
    stream.seek(0)
    second = _NIFTI_2_HEADER_BYTES in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
    return (nib.Nifti2Image if second else nib.Nifti1Image).from_stream(stream)


def _header(image: Any, file: Path) -> Header:
    from nibabel.orientations import inv_ornt_aff, io_orientation

    stored_shape = tuple(int(n) for n in image.shape)
    extra = [n for n in stored_shape[3:] if n != 1]
    if len(stored_shape) < 2 or len(extra) > 1:
        raise DataError(f"{file}: has shape {by(stored_shape)}; an image is x*y, x*y*z or x*y*z*channels: split it up")
    if image.get_data_dtype().kind not in "buif":
        raise DataError(
            f"{file}: holds values of type {image.get_data_dtype()}, not numbers; write channels one after the other"
        )
    shape = (*stored_shape, 1)[:3]
    axes = io_orientation(image.affine)  # type: ignore[no-untyped-call]
    affine = np.asarray(image.affine @ inv_ornt_aff(axes, shape), dtype=np.float64)  # type: ignore[no-untyped-call]
    canonical = tuple(shape[stored] for stored in np.argsort(axes[:, 0]))
    spacing = tuple(float(length) for length in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    if not np.isfinite(affine).all() or min(spacing) <= 0:
        raise _broken(file, f"its affine gives a spacing of {spacing}")
    kept = [axis for axis, n in enumerate(canonical) if n != 1 or canonical.count(1) != 1]
    n_channels = extra[0] if extra else 1
    return Header(
        file,
        shape=tuple(canonical[axis] for axis in kept),
        channels=tuple(f"channel {n}" for n in range(n_channels)) if n_channels > 1 else ("intensity",),
        spacing=tuple(spacing[axis] for axis in kept),
        corners=_corners(canonical, affine),
    )


def _corners(shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    indices = np.array(list(itertools.product(*((0, n - 1) for n in shape))), dtype=np.float64)
    return np.asarray(indices @ affine[:3, :3].T + affine[:3, 3])


def _canonical_array(image: Any, file: Path) -> npt.NDArray[Any]:
    """``[x, y, z, ...]`` in RAS+, by MONAI's reader."""
    from monai.data.image_reader import NibabelReader  # seconds, and torch with it

    if image.ndim == 2:  # neither knows how to turn a picture
        image = type(image)(np.asanyarray(image.dataobj)[..., None], image.affine, image.header)
    reader = NibabelReader(as_closest_canonical=True)
    reader.filenames = (str(file),)  # what its read() would have left behind
    array, _ = reader.get_data(image)
    return np.asarray(array)


def _check_end(stream: BufferedIOBase, file: Path) -> None:
    """Reads to the end, where the checksum of a gzip file stands: a damage shows there if nowhere else."""
    n_bytes = 0
    while chunk := stream.read(1 << 16):
        n_bytes += len(chunk)
        if n_bytes > _MAX_TRAILING_BYTES:
            raise _broken(file, "it goes on after the last voxel that its header tells of")


def _broken(file: Path, reason: str) -> DataError:
    why = reason or "the file ends early"
    return DataError(f"{file}: cannot be read as NIfTI ({why}); copy or export it again, or remove the case")
