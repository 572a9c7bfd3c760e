"""Images without masks, for prediction: one file, or those of a folder, in any format that is read.

A file is an image, or a channel of one where it is named as in nnU-Net: ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``. All
headers are checked before the first image is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources import pictures
from unetx_evaluators.tasks.sources.base import check_case_name, check_image, listed
from unetx_evaluators.tasks.sources.files import read_header, read_image
from unetx_evaluators.tasks.sources.formats import PICTURES, READ, conversion, ending_of, stem_of
from unetx_evaluators.tasks.sources.header import Header, check_channels
from unetx_evaluators.tasks.sources.nnunet import CHANNEL, stated_spacing
from unetx_evaluators.tasks.sources.orientation import canonical_view
from unetx_evaluators.tasks.sources.volumes import volume_reader
from unetx_evaluators.tasks.task import Image

_MASK_ENDINGS = {
    ".mhd": ".mha",
    **{ending: ".png" for ending, kind in PICTURES.items() if kind != "TIFF"},
}


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """One image on disk."""

    name: str
    files: tuple[Path, ...]
    """Files of the image, whose channels are concatenated."""
    spacing: tuple[float, ...]
    """The mm per voxel and axis."""

    @property
    def mask_name(self) -> str:
        """The file name of a mask, which is one file in the image's format, and of pictures TIFF or PNG."""
        ending = ending_of(self.files[0])
        return f"{self.name}{_MASK_ENDINGS.get(ending, ending)}"

    def read(self) -> Image:
        """Read the image ``[c, *spatial]`` in float32. Raises DataError."""
        parts = [check_image(array, header.file) for header, array in map(read_image, self.files)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def write_mask(self, file: Path, values: npt.NDArray[Any]) -> None:
        """Write a mask on the image's grid into ``file``, in the format of ``mask_name``."""
        writer: ModuleType = volume_reader(self.files[0]) or pictures
        writer.write_like(file, self.files[0], values)

    def create_arrays(self, file: Path, n: int) -> npt.NDArray[np.float32]:
        """Create a ``.npy`` file of ``n`` float32 arrays on the image's grid, and return it memory-mapped.

        The result is ``[n, *spatial]`` in the orientation of ``read``; the file has that of the stored image.
        """
        volumes = volume_reader(self.files[0])
        grid = volumes.stored_grid(self.files[0]) if volumes else None
        shape = read_header(self.files[0]).shape if grid is None else grid[0]
        stored = np.lib.format.open_memmap(file, "w+", np.float32, (n, *shape))
        if grid is None:
            return stored
        return canonical_view(stored, grid[1], self.files[0]).reshape(n, *read_header(self.files[0]).shape)


def list_images(place: Path, dims: int, channels: Sequence[str]) -> tuple[ImageFiles, ...]:
    """The images at a path, by name. Raises DataErrors on all that do not have these ``dims`` and ``channels``."""
    files = _files(place)
    headers: dict[Path, Header] = {}
    problems = Problems()
    for file in files:
        with problems.collecting():
            headers[file] = read_header(file)
    images: dict[str, ImageFiles] = {}
    for name, of_image in _grouped(headers, len(channels)):
        with problems.collecting():
            check_case_name(name, of_image[0])
            own = [headers[file] for file in of_image]
            _check_fit(own, dims, channels)
            spacing = stated_spacing(of_image[0], name, ending_of(of_image[0])) or own[0].spacing
            if name in images:
                raise DataError(
                    f"{of_image[0]}: is image {name!r} like {images[name].files[0].name}; rename one of them, for both "
                    "masks would have one name"
                )
            images[name] = ImageFiles(name, of_image, spacing)
    problems.raise_all()
    return tuple(images[name] for name in sorted(images))


def _files(place: Path) -> list[Path]:
    if not place.exists():
        raise DataError(f"{place}: there is nothing at this path; give an image, or a folder of images")
    candidates = [place] if place.is_file() else sorted(entry for entry in place.iterdir() if entry.is_file())
    seen = [file for file in candidates if not file.name.startswith(".")]
    found = [file for file in seen if ending_of(file) in READ]
    other = next((file for file in seen if conversion(file)), None)
    if other is not None:
        raise DataError(f"{other}: is not read; {conversion(other)}")
    if not found:
        raise DataError(f"{place}: holds no image; those are read that end in {', '.join(READ)}")
    return found


def _grouped(headers: Mapping[Path, Header], n_channels: int) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Yield the files of each image: as nnU-Net names them, where the number of channels fits; else one each."""
    by_case: dict[tuple[str, str], dict[int, Path]] = {}
    for file in headers:
        match = CHANNEL.fullmatch(stem_of(file))
        if match:
            by_case.setdefault((match[1], ending_of(file)), {})[int(match[2])] = file
    taken: set[Path] = set()
    for (case, _), numbered in sorted(by_case.items()):
        files = tuple(numbered[number] for number in sorted(numbered))
        n_there = sum(len(headers[file].channels) for file in files)
        are_whole = all(len(headers[file].channels) == n_channels for file in files)
        if sorted(numbered) == [*range(len(numbered))] and (n_there == n_channels or not are_whole):
            yield case, files
            taken.update(files)
    yield from ((stem_of(file), (file,)) for file in headers if file not in taken)


def _check_fit(headers: Sequence[Header], dims: int, channels: Sequence[str]) -> None:
    """Raise DataError where an image has other dimensions or channels than the model reads."""
    first = headers[0]
    if len(first.shape) != dims:
        raise DataError(
            f"{first.file}: is {len(first.shape)}D, and the model reads {dims}D images; give such, or train a model on "
            f"{len(first.shape)}D data"
        )
    there = [channel for header in headers for channel in header.channels]
    if len(there) != len(channels):
        names = first.file.name if len(headers) == 1 else f"{first.file.name} and {len(headers) - 1} more"
        raise DataError(
            f"{first.file}: {names} hold{'s' if len(headers) == 1 else ''} {listed(there, 'channel')}, and the model "
            f"reads {listed(channels, 'channel')}; several files of one image are called CASE_0000, CASE_0001, ..."
        )
    check_channels(headers)
