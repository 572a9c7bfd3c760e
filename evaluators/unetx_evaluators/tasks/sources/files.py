"""Cases made of image and label files: what every layout on disk has in common once its files are paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources import itk, nifti, pictures
from unetx_evaluators.tasks.sources.base import RawCase, check_case_name, check_image, identity_of, listed
from unetx_evaluators.tasks.sources.formats import is_itk, is_nifti
from unetx_evaluators.tasks.sources.header import Header, check_agreement
from unetx_evaluators.tasks.sources.labels import ClassMap, as_whole_numbers, two_valued


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """Where one case lies."""

    images: tuple[Path, ...]
    """Their channels follow each other."""
    label: Path
    spacing: tuple[float, ...] | None = None
    """mm per voxel and axis, if something beside the files states it."""

    @property
    def all(self) -> tuple[Path, ...]:
        return (*self.images, self.label)


@dataclass(frozen=True, eq=False)
class FileSource:
    """A dataset of image and label files in a folder."""

    layout: str
    folder: Path
    name: str
    dims: Literal[2, 3]
    channels: tuple[str, ...]
    cases: Mapping[str, CaseFiles]
    """By name, sorted."""
    problems: tuple[DataError, ...]
    stated: ClassMap | None
    """What label values mean; None: 0 and one other value, whichever the masks hold."""
    remedy: str
    """Where to say what an unknown label value means."""
    description: Path | None = None
    """The file that describes the dataset, if one does."""
    warnings: tuple[str, ...] = ()

    @classmethod
    def checked(
        cls,
        cases: Mapping[str, CaseFiles],
        problems: Problems,
        *,
        folder: Path,
        channels: tuple[str, ...] | None = None,
        channels_from: str = "",
        **fields: Any,
    ) -> Self:
        """The source of those ``cases`` whose names and headers are sound; what is wrong joins ``problems``.

        ``channels`` are what ``channels_from`` states; without them, most cases decide. Raises DataError when no case
        is left.
        """
        headers = _sound_headers(cases, problems)
        kept: dict[str, CaseFiles] = {}
        kinds = Counter(_kind(header) for header in headers.values())
        usual = max(headers.values(), key=lambda header: kinds[_kind(header)], default=None)
        for name, header in headers.items():
            with problems.collecting():
                _check_kind(header, usual or header, channels, channels_from)
                kept[name] = cases[name]
        if usual is None or not kept:
            problems.raise_all()
            raise DataError(f"{folder}: holds no case; put images and their masks there, or give another path")
        return cls(
            folder=folder,
            dims=2 if len(usual.shape) == 2 else 3,
            channels=channels or usual.channels,
            cases=kept,
            problems=tuple(problems.found),
            **fields,
        )

    @property
    def origin(self) -> str:
        return f"{self.layout} {self.folder}"

    @cached_property
    def identity(self) -> str:
        described = [] if self.description is None else [self.description]
        spacings = {name: case.spacing for name, case in self.cases.items() if case.spacing is not None}
        labels = None if self.stated is None else [*self.stated.names, *self.stated.meaning.items()]
        return identity_of(self.layout, self.folder, [*described, *self._files], labels=labels, spacings=spacings)

    @property
    def n_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._files)

    @property
    def _files(self) -> list[Path]:
        files = [file for case in self.cases.values() for file in case.all]
        beside = [itk.voxel_file(file) for file in files if is_itk(file)]
        return [*files, *(file for file in beside if file is not None)]

    @cached_property
    def class_map(self) -> ClassMap:
        """Reads every mask on first use, unless something states what the values mean."""
        return self.stated or _found_in([case.label for case in self.cases.values()], self.folder)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.class_map.names

    @property
    def case_names(self) -> tuple[str, ...]:
        return tuple(self.cases)

    def read(self, name: str) -> RawCase:
        """``[c, x, y, z]`` in RAS+ for volumes (see ``orientation``), ``[c, h, w]`` for pictures."""
        case = self.cases[name]
        images = [_read_image(file) for file in case.images]
        label_header, mask = _read_mask(case.label, coloured=self.class_map.coloured)
        first = images[0][0]
        check_agreement([header for header, _ in images], label_header)
        parts = [check_image(array, header.file) for header, array in images]
        image = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return RawCase(image, self.class_map.encode(mask, case.label, self.remedy), case.spacing or first.spacing)


def read_header(file: Path) -> Header:
    """What the file's first bytes tell. Raises DataError."""
    volumes = _volumes(file)
    return volumes.read_header(file) if volumes else pictures.read_header(file)


def _read_image(file: Path) -> tuple[Header, npt.NDArray[Any]]:
    volumes = _volumes(file)
    return volumes.read_array(file) if volumes else pictures.read_image(file)


def _read_mask(file: Path, *, coloured: bool) -> tuple[Header, npt.NDArray[Any]]:
    volumes = _volumes(file)
    if volumes is None:
        return pictures.read_mask(file, coloured=coloured)
    if coloured:
        raise DataError(f"{file}: the mask of a volume holds numbers, no colours; give --labels values instead")
    header, array = volumes.read_array(file)
    return header, array[0]


def _volumes(file: Path) -> ModuleType | None:
    """The module that reads the format; None for pictures."""
    return nifti if is_nifti(file) else itk if is_itk(file) else None


def _sound_headers(cases: Mapping[str, CaseFiles], problems: Problems) -> dict[str, Header]:
    """The first image's header with the channels of all, for every case whose files agree."""
    sound: dict[str, Header] = {}
    alike: dict[str, str] = {}
    for name in sorted(cases):
        with problems.collecting():
            case = cases[name]
            check_case_name(name, case.images[0])
            if name.casefold() in alike:
                raise DataError(
                    f"{case.images[0]}: case {name!r} differs from {alike[name.casefold()]!r} in upper and lower case "
                    "alone, which not every file system tells apart; rename one"
                )
            images = [read_header(file) for file in case.images]
            check_agreement(images, read_header(case.label))
            channels = tuple(channel for header in images for channel in header.channels)
            sound[name] = Header(images[0].file, images[0].shape, channels, images[0].spacing)
            alike[name.casefold()] = name
    return sound


def _kind(header: Header) -> tuple[int, tuple[str, ...]]:
    return len(header.shape), header.channels


def _check_kind(header: Header, usual: Header, channels: tuple[str, ...] | None, channels_from: str) -> None:
    """A case has as many axes as most, and the channels that are stated or that most have. Raises DataError."""
    if len(header.shape) != len(usual.shape):
        raise DataError(
            f"{header.file}: is {len(header.shape)}D, but {usual.file.name} is {len(usual.shape)}D; keep pictures and "
            "volumes in folders of their own"
        )
    if channels is not None and len(header.channels) != len(channels):
        raise DataError(
            f"{header.file}: holds {listed(header.channels, 'channel')}, but {channels_from} names "
            f"{listed(channels, 'channel')}; correct one or the other"
        )
    if channels is None and header.channels != usual.channels:
        raise DataError(
            f"{header.file}: has channels {', '.join(header.channels)}, but {usual.file.name} has "
            f"{', '.join(usual.channels)}; convert all images to the same channels (grey, or RGB), or remove the case"
        )


def _found_in(masks: list[Path], folder: Path) -> ClassMap:
    """What all masks together hold. One that cannot be read is passed over here: reading its case tells."""
    coloured = any(read_header(mask).coloured for mask in masks)
    problems = Problems()
    values: set[int] = set()
    for mask in masks:
        with problems.collecting():
            _, array = _read_mask(mask, coloured=coloured)
            values.update(np.unique(as_whole_numbers(array, mask)).tolist())
    if len(problems.found) == len(masks):
        problems.raise_all()
    found = sorted(values)
    if coloured and all(value == (value & 0xFF) * 0x010101 for value in found):  # grey levels, stored as colours
        coloured, found = False, [value & 0xFF for value in found]
    return two_valued(found, coloured=coloured, folder=folder)
