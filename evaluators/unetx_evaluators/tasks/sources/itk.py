"""Reading and writing of MetaImage (.mha, .mhd) and NRRD volumes by SimpleITK, in the orientation of ``orientation``.

nnU-Net, too, reads these formats with SimpleITK; it is an extra, for it takes 260 MB. Its axes, which run to the
patient's left and back (LPS), are flipped to RAS. Errors that it would ignore or only print are checked before: invalid
headers, voxels that are incomplete or damaged, and voxels in files outside of the dataset.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import check_inside, unreadable
from unetx_evaluators.tasks.sources.file_kinds import FIRST_BYTES, refuse_other_contents
from unetx_evaluators.tasks.sources.header import Header
from unetx_evaluators.tasks.sources.orientation import Affine, as_stored, canonical_array, canonical_header

_PLACE = "its header (spacing and direction)"
_LOCAL = "LOCAL"
_MAX_HEADER_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_BYTES_OF = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
"""Bytes per number, by ElementType."""


def read_header(file: Path) -> Header:
    """The header of a volume: shape, spacing and position; no voxel is read."""
    with _reader(file) as reader:
        return _header(reader, file)


def read_array(file: Path) -> tuple[Header, npt.NDArray[Any]]:
    """Header and array ``[c, *spatial]`` of a volume, in the file's own type."""
    import SimpleITK

    with _reader(file) as reader:
        header = _header(reader, file)
        if _is_metaimage(file):
            _check_voxels(file)
        image = reader.Execute()
        stored = SimpleITK.GetArrayFromImage(image)  # [(t,) z, y, x (, c)]
    n_axes = image.GetDimension()
    array = stored.transpose(*reversed(range(n_axes)), *range(n_axes, stored.ndim))
    array = array if n_axes > 2 else array[:, :, None]
    return header, canonical_array(array, _affine(image), header, _PLACE)


def stored_grid(file: Path) -> tuple[tuple[int, ...], Affine]:
    """The shape of a volume as stored, and its affine in RAS."""
    with _reader(file) as reader:
        return tuple(reader.GetSize())[:3], _affine(reader)


def write_like(file: Path, like: Path, values: npt.NDArray[Any]) -> None:
    """Write a label map ``[*spatial]`` into ``file``, in the format of the volume ``like`` and on its grid."""
    import SimpleITK

    shape, affine = stored_grid(like)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(as_stored(values, shape, affine, like).T))
    with _reader(like) as reader:
        n, n_axes = len(shape), reader.GetDimension()
        direction = np.array(reader.GetDirection()).reshape(n_axes, n_axes)[:n, :n]
        image.SetSpacing(reader.GetSpacing()[:n])
        image.SetOrigin(reader.GetOrigin()[:n])
        image.SetDirection(direction.ravel().tolist())
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("MetaImageIO" if _is_metaimage(like) else "NrrdImageIO")
    writer.UseCompressionOn()
    writer.SetFileName(str(file))
    writer.Execute(image)


def voxel_file(file: Path) -> Path | None:
    """The file beside a ``.mhd`` that holds its voxels; None where they are in ``file`` itself. Raises DataError."""
    if not _is_metaimage(file):
        return None
    with file.open("rb") as stream:
        stated = _read_fields(stream, file)["ElementDataFile"]
    if stated.upper() == _LOCAL:
        return None
    beside = file.parent / Path(stated).name
    if stated in ("", "LIST") or Path(stated).name != stated or not check_inside(beside, file.parent).is_file():
        raise DataError(
            f"{file}: keeps its voxels in {stated[:200]!r}, and not in a file of that name beside it; put it there, or "
            "write the volume as one file (.mha)"
        )
    return beside


@contextmanager
def _reader(file: Path) -> Iterator[Any]:
    """SimpleITK's reader, which has read the header; errors that it raises inside become DataErrors."""
    import SimpleITK

    with file.open("rb") as stream:
        refuse_other_contents(file, stream.read(FIRST_BYTES), expected="MetaImage" if _is_metaimage(file) else "NRRD")
    reader = SimpleITK.ImageFileReader()
    if _is_metaimage(file):
        voxel_file(file)
        reader.SetImageIO("MetaImageIO")
    else:
        _check_attached(file)
        reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        yield reader
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1]
        raise _broken(file, last.rpartition(": ")[2]) from error


def _header(reader: Any, file: Path) -> Header:
    n_components = reader.GetNumberOfComponents()
    size = tuple(reader.GetSize())
    shape = (*size, *(1,) * (3 - len(size)), n_components) if n_components > 1 else size
    return canonical_header(file, shape, _affine(reader), _PLACE)


def _affine(image: Any) -> Affine:
    """The affine ``[4, 4]`` in RAS of a volume with two axes or more, of which a fourth has no position."""
    n = image.GetDimension()
    affine = np.eye(4)
    m = min(n, 3)
    direction = np.array(image.GetDirection()).reshape(n, n)[:m, :m]
    affine[:m, :m] = direction * np.array(image.GetSpacing())[:m]
    affine[:m, 3] = image.GetOrigin()[:m]
    return np.asarray(_LPS_TO_RAS @ affine)


def _is_metaimage(file: Path) -> bool:
    return file.suffix.lower() in (".mha", ".mhd")


def _read_fields(stream: BinaryIO, file: Path) -> dict[str, str]:
    """The fields of MetaImage's header: ``Name = Value`` lines, the last of which is ElementDataFile. Raises DataError.

    The stream is then at the beginning of the voxels, if they are in the same file.
    """
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        name, equals, value = stream.readline(_MAX_HEADER_BYTES).decode("latin-1").partition("=")
        if not equals or stream.tell() > _MAX_HEADER_BYTES:
            raise _broken(file, "its header ends without ElementDataFile")
        fields[name.strip()] = value.strip()
    missing = {"NDims", "DimSize", "ElementType"} - fields.keys()
    if missing:
        raise _broken(file, f"its header lacks {', '.join(sorted(missing))}")
    return fields


def _check_voxels(file: Path) -> None:
    """Raise DataError where voxels are missing, or compressed ones are damaged, which MetaIO does not notice."""
    with file.open("rb") as stream:
        fields = _read_fields(stream, file)
        expected = _n_bytes(fields, file)
        beside = voxel_file(file)
        is_packed = fields.get("CompressedData", "False").lower() == "true"
        if beside is None:
            n_bytes = _unpacked(stream, expected, file) if is_packed else file.stat().st_size - stream.tell()
        elif is_packed:
            with beside.open("rb") as voxels:
                n_bytes = _unpacked(voxels, expected, file)
        else:
            n_bytes = beside.stat().st_size
    if n_bytes < expected:
        raise _broken(file, f"its voxels take {expected} bytes, {n_bytes} are there")


def _n_bytes(fields: dict[str, str], file: Path) -> int:
    try:
        sizes = [int(size) for size in fields["DimSize"].split()]
        return math.prod(sizes) * int(fields.get("ElementNumberOfChannels", "1")) * _BYTES_OF[fields["ElementType"]]
    except (ValueError, KeyError) as error:
        raise _broken(file, f"a size or type in its header is none that is known ({error})") from error


def _unpacked(stream: BinaryIO, expected: int, file: Path) -> int:
    """The number of bytes that zlib data unpack to, counted up to ``expected``. Raises DataError where damaged."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # zlib's own form or gzip's
    n_bytes, waiting = 0, b""
    try:
        while not unpacker.eof and n_bytes <= expected:
            waiting = waiting or stream.read(_CHUNK_BYTES)
            if not waiting:
                break
            n_bytes += len(unpacker.decompress(waiting, _CHUNK_BYTES))
            waiting = unpacker.unconsumed_tail
    except zlib.error as error:
        raise _broken(file, str(error)) from error
    return n_bytes


def _check_attached(file: Path) -> None:
    """Raise DataError where an NRRD header, which ends with an empty line, names other files for the voxels."""
    with file.open("rb") as stream:
        for line in stream.read(_MAX_HEADER_BYTES).split(b"\n"):
            if not line.strip():
                return
            if line.lower().replace(b" ", b"").startswith(b"datafile:"):
                raise DataError(f"{file}: keeps its voxels in another file; write the volume as one file (.nrrd)")


def _broken(file: Path, reason: str) -> DataError:
    return unreadable(file, "MetaImage" if _is_metaimage(file) else "NRRD", reason)
