"""A source of image and label files, which all layouts on disk become once their files are paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources import itk, pictures
from unetx_evaluators.tasks.sources.base import (
    RawCase,
    check_case_name,
    check_image,
    following_links,
    identity_of,
    listed,
)
from unetx_evaluators.tasks.sources.formats import is_itk
from unetx_evaluators.tasks.sources.header import Header, check_agreement
from unetx_evaluators.tasks.sources.labels import ClassMap, Threshold
from unetx_evaluators.tasks.sources.mask_values import check_palettes, infer_class_map, read_mask
from unetx_evaluators.tasks.sources.reading import DEFAULT_READING, ReadingOptions
from unetx_evaluators.tasks.sources.volumes import volume_reader
from unetx_evaluators.tasks.task import Label


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """The files of one case."""

    images: tuple[Path, ...]
    """Files of the image, whose channels are concatenated."""
    label: Path
    spacing: tuple[float, ...] | None = None
    """The mm per voxel and axis, if a file beside them states it."""
    more_labels: tuple[Path, ...] = ()
    """Further masks of the same image, drawn over the first in turn."""
    shown: tuple[int, ...] = ()
    """The class that each of the masks shows; empty: masks hold values of classes."""

    @property
    def masks(self) -> tuple[Path, ...]:
        """All masks of the image."""
        return (self.label, *self.more_labels)

    @property
    def all(self) -> tuple[Path, ...]:
        """All files of the case."""
        return (*self.images, *self.masks)


@dataclass(frozen=True, eq=False)
class FileSource:
    """A dataset of image and label files in a folder."""

    layout: str
    folder: Path
    name: str
    dims: Literal[2, 3]
    channels: tuple[str, ...]
    cases: Mapping[str, CaseFiles]
    """Files of every case by its name, sorted."""
    problems: tuple[DataError, ...]
    stated: ClassMap | Threshold | None
    """Meaning of label values as stated by a file or the user; None: 0 and one other value that the masks hold."""
    description: Path | None = None
    """The file that describes the dataset, if there is one."""
    accepts_labels: bool = True
    """Whether the user may state the meaning of label values, because no description does."""
    warnings: tuple[str, ...] = ()
    reading: ReadingOptions = DEFAULT_READING
    """The user's options for reading the files."""
    layers: tuple[str, ...] = ()
    """Names of the classes, where every mask shows one of them; empty: they are those of ``class_map``."""
    is_indexed: bool = False
    """Whether some masks are pictures with a palette."""

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
        """The source of those ``cases`` whose names and headers are valid; errors on the others join ``problems``.

        ``channels`` are those that ``channels_from`` states; without them, the most frequent ones are expected. Raises
        DataError where no case is left.
        """
        headers, indexed = _sound_headers(cases, problems)
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
            is_indexed=not indexed.isdisjoint(kept),
            **fields,
        )

    @property
    def remedy(self) -> str:
        """A text on how to state the meaning of unknown label values."""
        if self.accepts_labels or self.description is None:
            return "name every value with --labels NAME=VALUE,..., divide them with --threshold N, or correct the file"
        return f"correct the file, or 'labels' in {self.description.name}"

    @property
    def origin(self) -> str:
        return f"{self.layout} {self.folder}"

    @cached_property
    def identity(self) -> str:
        described = [] if self.description is None else [self.description]
        spacings = {name: case.spacing for name, case in self.cases.items() if case.spacing is not None}
        labels = None if self.stated is None else self.stated.stated
        more: dict[str, Any] = {"reading": self.reading.stated} if self.reading.stated else {}
        if self.is_indexed:
            more["palettes"] = "compared"
        files = [*described, *self._files]
        return identity_of(self.layout, self.folder, files, labels=labels, spacings=spacings, **more)

    @property
    def n_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._files)

    @property
    def _files(self) -> list[Path]:
        files = [file for case in self.cases.values() for file in case.all]
        with following_links(self.reading.follow_links):
            beside = [itk.voxel_file(file) for file in files if is_itk(file)]
        return [*files, *(file for file in beside if file is not None)]

    @cached_property
    def class_map(self) -> ClassMap | Threshold:
        """The meaning of label values; on first use every mask is read, unless it is stated."""
        masks = [mask for case in self.cases.values() for mask in case.masks]
        with following_links(self.reading.follow_links):
            if self.stated is None:
                return infer_class_map(masks, self.folder)
            if self.is_indexed and self.stated.mask_kind == "number":
                check_palettes(masks, self.folder, allows_colours=self.accepts_labels)
        return self.stated

    @property
    def classes(self) -> tuple[str, ...]:
        names = self.class_map.names
        return (names[0], *self.layers) if self.layers else names

    @property
    def case_names(self) -> tuple[str, ...]:
        return tuple(self.cases)

    def read(self, name: str) -> RawCase:
        """Read a case, its image ``[c, x, y, z]`` in RAS+ for volumes (see ``orientation``), ``[c, h, w]`` for
        pictures."""
        case = self.cases[name]
        with following_links(self.reading.follow_links):
            images = [read_image(file) for file in case.images]
            first = images[0][0]
            label = self._read_label(case, [header for header, _ in images])
        parts = [check_image(array, header.file) for header, array in images]
        image = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return RawCase(image, label, case.spacing or first.spacing)

    def _read_label(self, case: CaseFiles, images: Sequence[Header]) -> Label:
        """The label map of a case, on which later masks are drawn over earlier ones.

        Raises DataError where masks contradict each other and the user has stated no order.
        """
        drawn = [self._read_class_mask(case, number, images) for number in range(len(case.masks))]
        label = drawn[0]
        for number, another in enumerate(drawn[1:], start=1):
            if self.reading.drawn is None and ((label > 0) & (another > 0) & (label != another)).any():
                remedy = self._overlap_remedy(case, drawn)
                raise DataError(f"{case.masks[number]}: overlaps with another mask of its image; {remedy}")
            label = np.where(another > 0, another, label)
        return label

    def _read_class_mask(self, case: CaseFiles, number: int, images: Sequence[Header]) -> Label:
        """Read one mask of a case as class indices."""
        file = case.masks[number]
        header, mask = read_mask(file, self.class_map.mask_kind)
        check_agreement(images, header)
        label = self.class_map.encode(mask, file, self.remedy)
        return (label > 0).astype(np.uint8) * np.uint8(case.shown[number]) if case.shown else label

    def _overlap_remedy(self, case: CaseFiles, drawn: Sequence[Label]) -> str:
        """Advice on masks that overlap, which proposes to draw the smaller ones last."""
        if not case.shown:
            return "a voxel has one class: correct one of the masks"
        sizes = {shown: int((label > 0).sum()) for shown, label in zip(case.shown, drawn, strict=True)}
        by_size = sorted(range(1, len(self.layers) + 1), key=lambda shown: -sizes.get(shown, 0))
        order = ",".join(self.layers[shown - 1] for shown in by_size)
        return f"name the classes in the order in which to draw them, the topmost last, like --several-masks '{order}'"


def read_header(file: Path) -> Header:
    """The header of an image or mask file. Raises DataError."""
    volumes = volume_reader(file)
    return volumes.read_header(file) if volumes else pictures.read_header(file)


def read_image(file: Path) -> tuple[Header, npt.NDArray[Any]]:
    """Header and array ``[c, *spatial]`` of a file, in its own type and its format's orientation. Raises DataError."""
    volumes = volume_reader(file)
    return volumes.read_array(file) if volumes else pictures.read_image(file)


def _sound_headers(cases: Mapping[str, CaseFiles], problems: Problems) -> tuple[dict[str, Header], set[str]]:
    """For every case whose files agree, its first image's header with the channels of all; and cases with palettes."""
    sound: dict[str, Header] = {}
    indexed: set[str] = set()
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
            masks = [read_header(file) for file in case.masks]
            for mask in masks:
                check_agreement(images, mask)
            channels = tuple(channel for header in images for channel in header.channels)
            sound[name] = Header(images[0].file, images[0].shape, channels, images[0].spacing)
            alike[name.casefold()] = name
            if any(mask.corners is None and mask.channels == pictures.RGB and not mask.coloured for mask in masks):
                indexed.add(name)
    return sound, indexed


def _kind(header: Header) -> tuple[int, tuple[str, ...]]:
    return len(header.shape), header.channels


def _check_kind(header: Header, usual: Header, channels: tuple[str, ...] | None, channels_from: str) -> None:
    """Raise DataError where a case has other axes or channels than ``usual``, or other channels than stated."""
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
