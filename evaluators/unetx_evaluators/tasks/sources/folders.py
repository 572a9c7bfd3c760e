"""Folders of images and masks: ``images/`` beside ``masks/`` or ``labels/``, or both kinds in one folder.

``x.png`` pairs with a mask ``x.png`` or ``x_mask.png`` (in one folder, the latter); the endings of the two may differ,
as with a JPEG and its PNG mask. Sizes may differ between cases.

What the values of the masks mean is decided over all masks together, for one mask may hold background alone or
foreground alone: 0 and one other value (0/1, 0/255, ...) are background and foreground; anything else, and colours,
need ``labels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources.base import check_inside, listed
from unetx_evaluators.tasks.sources.files import CaseFiles, FileSource
from unetx_evaluators.tasks.sources.formats import LOSSY, READ, conversion, ending_of, stem_of
from unetx_evaluators.tasks.sources.labels import ClassMap, Labels

IMAGES = "images"
MASK_FOLDERS = ("masks", "labels")
MASK_SUFFIX = "_mask"


def open_folder(folder: Path, *, labels: Labels | None = None) -> FileSource:
    """Pairs the files and checks their headers. Raises DataError."""
    stated = None if labels is None else ClassMap.from_labels(labels)  # a wrong request is told before any file is read
    problems = Problems()
    return FileSource.checked(
        _cases(folder, problems),
        problems,
        folder=folder,
        layout="image/mask folder",
        name=folder.resolve().name,
        stated=stated,
        remedy="name every value with --labels NAME=VALUE,... or correct the file",
    )


def is_image_folder(folder: Path) -> bool:
    """Whether the folder looks like this layout."""
    return _mask_folder(folder) is not None or any(_is_mask(file) for file in folder.iterdir())


def _is_mask(file: Path) -> bool:
    return ending_of(file) in READ and stem_of(file).endswith(MASK_SUFFIX)


def _mask_folder(folder: Path) -> Path | None:
    if not (folder / IMAGES).is_dir():
        return None
    return next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)


def _cases(folder: Path, problems: Problems) -> dict[str, CaseFiles]:
    images, masks = _images_and_masks(folder, problems)
    by_stem = {stem_of(image): image for image in images}
    paired: dict[str, Path] = {}
    strays: list[str] = []
    for mask in masks:
        whole = stem_of(mask)
        stem = whole if whole in by_stem and mask not in images else whole.removesuffix(MASK_SUFFIX)
        with problems.collecting():
            if stem in paired:
                raise DataError(f"{mask}: image {stem!r} has another mask, {paired[stem].name}; remove one")
            if stem in by_stem:
                paired[stem] = mask
            else:
                strays.append(mask.name)
    with problems.collecting():
        _check_partners([image.name for stem, image in by_stem.items() if stem not in paired], strays, folder)
    return {stem: CaseFiles((by_stem[stem],), mask) for stem, mask in paired.items() if _is_lossless(mask, problems)}


def _images_and_masks(folder: Path, problems: Problems) -> tuple[list[Path], list[Path]]:
    mask_folder = _mask_folder(folder)
    if mask_folder is not None:
        return _image_files(folder / IMAGES, folder, problems), _image_files(mask_folder, folder, problems)
    files = _image_files(folder, folder, problems)
    return [file for file in files if not _is_mask(file)], [file for file in files if _is_mask(file)]


def _image_files(folder: Path, root: Path, problems: Problems) -> list[Path]:
    """The images of a folder, sorted; those of formats that are not read are noted rather than silently left out."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.is_file()]
    with problems.collecting():
        below = [entry.name for entry in entries if folder != root and entry.is_dir() and _holds_images(entry)]
        if below:
            raise DataError(
                f"{folder}: {listed(below, 'folder')} below it holds images, which are not read; move them up"
            )
    with problems.collecting():
        others = [file for file in files if conversion(file) is not None]
        if others:
            raise DataError(
                f"{folder}: {', '.join(READ)} are read, found {listed([file.name for file in others], 'other file')}; "
                f"{conversion(others[0])}"
            )
    images: list[Path] = []
    for file in files:
        with problems.collecting():
            if ending_of(file) in READ:
                images.append(check_inside(file, root))
    if not images:
        problems.raise_all()
        raise DataError(f"{folder}: holds no image file ({', '.join(READ)}); put the data there, or give another path")
    return _without_doubles(images, folder, problems)


def _holds_images(folder: Path) -> bool:
    return any(ending_of(file) in READ for file in folder.iterdir())


def _without_doubles(images: Sequence[Path], folder: Path, problems: Problems) -> list[Path]:
    """Files whose stem is theirs alone."""
    alike = [list(group) for _, group in groupby(sorted(images, key=stem_of), key=stem_of)]
    doubles = [stem_of(group[0]) for group in alike if len(group) > 1]
    with problems.collecting():
        if doubles:
            example = ", ".join(file.name for group in alike if len(group) > 1 for file in group[:2])
            raise DataError(
                f"{folder}: {listed(doubles, 'name')} stands for two files each ({example}); remove or rename one"
            )
    return [group[0] for group in alike if len(group) == 1]


def _is_lossless(mask: Path, problems: Problems) -> bool:
    with problems.collecting():
        if ending_of(mask) in LOSSY:
            raise DataError(
                f"{mask}: is a JPEG, whose compression invents values between the classes; save masks as PNG, from "
                "where they were drawn"
            )
        return True
    return False


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
