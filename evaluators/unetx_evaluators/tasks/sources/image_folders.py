"""Detection of the folders of images and masks: two folders, one for both, or a folder for each case or part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import check_inside, listed
from unetx_evaluators.tasks.sources.description import DESCRIPTION
from unetx_evaluators.tasks.sources.formats import READ, ending_of, stem_of
from unetx_evaluators.tasks.sources.naming import MASK_SUFFIX, mask_affix
from unetx_evaluators.tasks.sources.reading import ReadingOptions

IMAGES, MASK_FOLDERS = "images", ("masks", "labels")
"""Names of folders that are recognised whatever they hold."""
_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "original", "originals", "jpegimages", "inputs", "input")
_MASK_FOLDERS = (
    *("1stmanual", "masks", "labels", "mask", "label", "gt", "groundtruth", "segmentationclass", "segmentations"),
    *("segmentation", "annotations", "annotation", "manual", "targets", "target"),
)
"""Names of other folders, without their separators; ``1st_manual`` is DRIVE's, beside fields of view in ``mask``."""
_MAX_DEPTH = 2


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a dataset: a folder of images and one of masks, which may be the same."""

    images: Path
    masks: Path
    name: str = ""
    """Name of the part; empty where it is the whole dataset."""

    @property
    def is_shared(self) -> bool:
        """Whether images and masks lie in the same folder."""
        return self.images == self.masks


def find_parts(folder: Path, reading: ReadingOptions) -> tuple[Part, ...]:
    """The parts of the dataset in a folder; none where nothing looks like images and masks. Raises DataError."""
    if reading.names_folders:
        return (_stated(folder, reading),)
    whole = _part(folder, "")
    found = (whole,) if whole else _parts_below(folder, 1)
    if not found and reading.tells_kinds and _holds_images(folder):
        return (Part(folder, folder),)
    return found


def _stated(folder: Path, reading: ReadingOptions) -> Part:
    places = []
    for what, stated, usual in (("images", reading.images, _IMAGE_FOLDERS), ("masks", reading.masks, _MASK_FOLDERS)):
        place = _named(folder, usual) if stated is None else _below(folder, stated)
        if place is None or not place.is_dir():
            above = next(above for above in (place or folder / "x").parents if above.is_dir())
            there = listed([entry.name for entry in folders_in(above)], "folder")
            got = "none, and no folder is called like it" if stated is None else repr(stated)
            raise DataError(f"{folder}: --{what} is a folder in it, got {got}; {above} holds {there}")
        if ".." in place.parts[len(folder.parts) :]:
            raise DataError(
                f"{folder}: --{what} is a folder in it, got {stated!r}; give --data a folder that holds both"
            )
        places.append(check_inside(place, folder))
    return Part(places[0], places[1])


def _below(folder: Path, stated: str) -> Path:
    """The path in ``folder`` that ``stated`` names, relative to it, absolute, or relative to the working directory."""
    whole, in_full = folder.resolve(), Path.cwd() / stated
    is_seen_from_here = not (folder / stated).is_dir() or Path(stated).is_absolute()
    return (
        folder / in_full.relative_to(whole) if is_seen_from_here and in_full.is_relative_to(whole) else folder / stated
    )


def _part(folder: Path, name: str) -> Part | None:
    """The folder as one part: with a folder of images and one of masks, or with both kinds in it; None otherwise."""
    images = _named(folder, _IMAGE_FOLDERS)
    masks = _named(folder, _MASK_FOLDERS) if images else None
    if images is not None and masks is not None:
        return Part(images, masks, name)
    stems = [stem_of(file) for file in files_of(folder)]
    affix = mask_affix(stems)
    if affix is None:
        return None
    is_alone = all(affix.key(stem) is not None for stem in stems)
    return None if is_alone and affix.suffix != MASK_SUFFIX else Part(folder, folder, name)


def _named(folder: Path, names: Sequence[str]) -> Path | None:
    """The folder that has one of ``names`` and holds files that are read; None if there is none.

    Raises DataError if several may be meant.
    """
    by_name = {re.sub(r"[ _.\-]", "", entry.name).casefold(): entry for entry in folders_in(folder)}
    found = [name for name in names if name in by_name and _holds(by_name[name])]
    found = found or [name for name in (IMAGES, *MASK_FOLDERS) if name in names and (folder / name).is_dir()]
    is_masks = names is _MASK_FOLDERS
    ends = ("groundtruth",) if is_masks else ("input",)
    found += [name for name in by_name if name.endswith(ends) and name not in found and _holds(by_name[name])]
    if not found:
        return None
    if is_masks and found[0] == "mask":  # it may hold fields of view: any other folder of pictures may be meant
        found += [name for name in by_name if name not in (*_IMAGE_FOLDERS, *found) and files_of(by_name[name])]
        found.sort(key=lambda name: name == "mask")
    if len(found) > 1 and found[0] not in ("1stmanual", IMAGES, *MASK_FOLDERS):
        what, there = "masks" if is_masks else "images", [by_name[name].name for name in found]
        raise DataError(
            f"{folder}: {listed(there, 'folder')} may hold the {what}; say which does, like --{what} '{there[0]}'"
        )
    return by_name[found[0]]


def _parts_below(folder: Path, depth: int) -> tuple[Part, ...]:
    """A part for every folder that is one, all of one form; folders named test are ignored."""
    folders = [entry for entry in folders_in(folder) if not entry.name.casefold().startswith("test")]
    folders = [entry for entry in folders if not (entry / DESCRIPTION).is_file()]
    parts = [part for entry in folders if (part := _part(entry, entry.name))]
    if not parts:
        return _parts_below(folders[0], depth + 1) if len(folders) == 1 and depth < _MAX_DEPTH else ()
    forms = {(part.images.name, part.masks.name) for part in parts if not part.is_shared}
    if len(forms) + any(part.is_shared for part in parts) > 1:
        raise DataError(
            f"{folder}: {listed([part.name for part in parts], 'folder')} hold images and masks, but each in its own "
            f"way; name one of them, like --data '{folder / parts[0].name}'"
        )
    lonely = [entry.name for entry in folders if entry.name not in {part.name for part in parts} and _holds(entry)]
    if lonely:
        raise DataError(
            f"{folder}: {listed(lonely, 'folder')} hold images and no masks, unlike {parts[0].name}; add the masks, "
            "move the folders away, or say where images and masks lie with --images and --masks"
        )
    return tuple(parts) if len(parts) > 1 else (Part(parts[0].images, parts[0].masks),)


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden ones, sorted."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def files_of(folder: Path) -> list[Path]:
    """The files in a folder that are read, sorted."""
    files = (file for file in folder.iterdir() if ending_of(file) in READ and not file.name.startswith("."))
    return sorted(file for file in files if file.is_file())


def _holds_images(folder: Path) -> bool:
    return bool(files_of(folder))


def _holds(folder: Path) -> bool:
    """Whether the folder, or one in it, holds files that are read."""
    return _holds_images(folder) or any(_holds_images(below) for below in folders_in(folder))
