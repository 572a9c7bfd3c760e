"""Folders of pictures and masks: ``images/`` beside ``masks/`` or ``labels/``, or both kinds in one folder.

``x.png`` pairs with a mask ``x.png`` or ``x_mask.png`` (in one folder, the latter). Sizes may differ between cases.

What the values of the masks mean is decided over all masks together, for one mask may hold background alone or
foreground alone: 0 and one other value (0/1, 0/255, ...) are background and foreground; anything else needs ``labels``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import (
    ClassMap,
    RawCase,
    check_case_name,
    check_image,
    check_inside,
    check_same_shape,
    identity_of,
    listed,
)
from unetx_evaluators.tasks.sources.pictures import read_header, read_mask, read_picture

IMAGES = "images"
MASK_FOLDERS = ("masks", "labels")
MASK_SUFFIX = "_mask"
ENDING = ".png"
OTHER_ENDINGS = (".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".dcm", ".nii", ".gz", ".npy")
"""Endings of data that are not read here; any other file (a README, a table) is passed over."""


@dataclass(frozen=True, eq=False)
class FolderSource:
    """A 2D dataset of PNG pictures with their masks."""

    folder: Path
    channels: tuple[str, ...]
    pairs: dict[str, tuple[Path, Path]]
    """Image and mask file of every case, by the case's name, sorted."""
    labels: Mapping[str, int] | None = None
    """The user's word on what mask values mean."""

    layout: ClassVar[str] = "image/mask folder"
    dims: ClassVar[Literal[2]] = 2

    @classmethod
    def open(cls, folder: Path, *, labels: Mapping[str, int] | None = None) -> Self:
        """Pairs the files and checks their headers. Raises DataError."""
        if labels is not None:
            ClassMap.from_labels(labels)  # a wrong request is told before any file is read
        pairs = _pairs(folder)
        return cls(folder, _check_headers(pairs), pairs, labels)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def origin(self) -> str:
        return f"{self.layout} {self.folder}"

    @cached_property
    def identity(self) -> str:
        files = [file for pair in self.pairs.values() for file in pair]
        return identity_of(self.layout, self.folder, files, labels=dict(self.labels) if self.labels else None)

    @cached_property
    def class_map(self) -> ClassMap:
        """Reads every mask on first use, unless the user said what the values mean."""
        if self.labels is not None:
            return ClassMap.from_labels(self.labels)
        return _two_valued(self.folder, (mask for _, mask in self.pairs.values()))

    @property
    def classes(self) -> tuple[str, ...]:
        return self.class_map.names

    @property
    def case_names(self) -> tuple[str, ...]:
        return tuple(self.pairs)

    def read(self, name: str) -> RawCase:
        """``[c, h, w]`` with spacing 1: a PNG says nothing reliable about millimetres."""
        image_file, mask_file = self.pairs[name]
        image, mask = read_picture(image_file), read_mask(mask_file)
        check_same_shape(image.shape[1:], mask.shape, image_file, mask_file)
        remedy = "name every value with --labels NAME=VALUE,... or correct the file"
        return RawCase(check_image(image, image_file), self.class_map.encode(mask, mask_file, remedy), (1.0, 1.0))


def is_picture_folder(folder: Path) -> bool:
    """Whether the folder looks like this layout."""
    return _mask_folder(folder) is not None or any(folder.glob(f"*{MASK_SUFFIX}{ENDING}"))


def _mask_folder(folder: Path) -> Path | None:
    if not (folder / IMAGES).is_dir():
        return None
    return next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)


def _pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    images, masks = _images_and_masks(folder)
    by_stem = {image.stem: image for image in images}
    paired: dict[str, Path] = {}
    strays: list[str] = []
    for mask in masks:
        stem = mask.stem if mask.stem in by_stem and mask not in images else mask.stem.removesuffix(MASK_SUFFIX)
        if stem in paired:
            raise DataError(f"{mask}: image {stem!r} has another mask, {paired[stem].name}; remove one")
        if stem in by_stem:
            paired[stem] = mask
        else:
            strays.append(mask.name)
    _check_partners([image.name for stem, image in by_stem.items() if stem not in paired], strays, folder)
    return {check_case_name(stem, by_stem[stem]): (by_stem[stem], paired[stem]) for stem in sorted(paired)}


def _images_and_masks(folder: Path) -> tuple[list[Path], list[Path]]:
    mask_folder = _mask_folder(folder)
    if mask_folder is not None:
        return _png_files(folder / IMAGES, folder), _png_files(mask_folder, folder)
    files = _png_files(folder, folder)
    masks = [file for file in files if file.stem.endswith(MASK_SUFFIX)]
    return [file for file in files if file not in set(masks)], masks


def _png_files(folder: Path, root: Path) -> list[Path]:
    """The PNG files of a folder, sorted; other pictures among them are refused rather than silently left out."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    others = [file.name for file in files if file.suffix.lower() in OTHER_ENDINGS]
    pictures = [check_inside(file, root) for file in files if file.suffix.lower() == ENDING]
    if others:
        raise DataError(
            f"{folder}: only PNG files are read, found {listed(others, 'other file')}; convert or move them"
        )
    if not pictures:
        raise DataError(f"{folder}: holds no PNG file; put the data there, or give another path")
    doubles = [stem for stem, count in Counter(file.stem for file in pictures).items() if count > 1]
    if doubles:
        raise DataError(f"{folder}: {listed(doubles, 'name')} stands for two files each (.png and .PNG); remove one")
    return pictures


def _check_partners(lonely_images: list[str], lonely_masks: list[str], folder: Path) -> None:
    faults = []
    if lonely_images:
        faults.append(f"{listed(lonely_images, 'image')} without a mask")
    if lonely_masks:
        faults.append(f"{listed(lonely_masks, 'mask')} without an image")
    if faults:
        raise DataError(
            f"{folder}: {' and '.join(faults)}; x.png pairs with a mask x.png or x{MASK_SUFFIX}.png: add "
            "what is missing or remove what stands alone"
        )


def _check_headers(pairs: dict[str, tuple[Path, Path]]) -> tuple[str, ...]:
    """Every mask has its image's size and all images the same channels, which are given back."""
    first = next(iter(pairs.values()))[0]
    channels = read_header(first).channels
    for image, mask in pairs.values():
        header = read_header(image)
        check_same_shape(header.shape, read_header(mask).shape, image, mask)
        if header.channels != channels:
            raise DataError(
                f"{image}: has channels {', '.join(header.channels)}, but {first.name} has {', '.join(channels)}; "
                "convert all images to grey or all to RGB"
            )
    return channels


def _two_valued(folder: Path, masks: Iterable[Path]) -> ClassMap:
    """Background 0 and one foreground value, if that is what all masks together hold."""
    values: set[int] = set()
    for mask in masks:
        values.update(int(value) for value in np.unique(read_mask(mask)))
    found = sorted(values)
    if len(found) != 2 or found[0] != 0:
        raise DataError(
            f"{folder}: without --labels the masks hold 0 and one other value, such as 0 and 255; all together hold "
            f"{listed(found, 'value')}; {_remedy(found)}"
        )
    return ClassMap(("background", "foreground"), (0, found[1]))


def _remedy(found: list[int]) -> str:
    if len(found) < 2:
        return "there is nothing to tell apart: give masks that outline something"
    example = ",".join(f"{'background' if n == 0 else f'class{n}'}={value}" for n, value in enumerate(found[:4]))
    return f"say what they mean, like --labels {example}"
