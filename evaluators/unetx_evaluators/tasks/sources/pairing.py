"""Pairing of image files with their masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unetx_evaluators.tasks.sources.formats import stem_of
from unetx_evaluators.tasks.sources.image_folders import Part
from unetx_evaluators.tasks.sources.naming import Naming
from unetx_evaluators.tasks.sources.volumes import volume_reader

_SEPARATORS = " _.-"


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask file."""

    file: Path
    stem: str
    word: str = ""
    """Name of the class that it shows: its folder's name, or the part of its name that the image's lacks."""


@dataclass(frozen=True, slots=True)
class FilePair:
    """The image files of one case with its masks, of which there is at least one."""

    name: str
    part: str
    images: tuple[Path, ...]
    masks: tuple[MaskFile, ...]
    channels: tuple[str, ...] = ()
    """Names of the channels of several images: the parts of their names that the case's lacks."""


def pair_files(
    part: Part, images: Sequence[Path], masks: Sequence[MaskFile], naming: Naming, *, several: bool
) -> tuple[list[FilePair], list[Path], list[Path]]:
    """The pairs of one part, the images without a mask, and the masks without an image.

    ``several``: whether an image may have several masks, so that a single one may have a longer name.
    """
    files = {stem_of(image): image for image in images}
    keys = naming.image_keys(files)
    found: dict[str, list[MaskFile]] = {}
    rest: list[MaskFile] = []
    for mask in masks:
        key = naming.mask_key(mask.stem, keys)
        if key is None:
            rest.append(mask)
        else:
            found.setdefault(key, []).append(_with_word(mask, key, naming))
    whole = _case_folder(part, images, rest) if not found else None
    if whole is not None:
        return [whole], [], []
    if part.name and not found and len(images) == 1 and not part.is_shared:
        key, rest = next(iter(keys), part.name), []
        found = {key: [_with_word(mask, key, naming) for mask in masks]}
    strays = _add_further_masks(rest, keys, found, naming, n_least=1 if several else 2)
    pairs = [FilePair(key or part.name, part.name, (files[keys[key]],), tuple(of)) for key, of in found.items()]
    return pairs, [files[stem] for key, stem in keys.items() if key not in found], [mask.file for mask in strays]


def _add_further_masks(
    rest: Sequence[MaskFile], keys: Mapping[str, str], found: dict[str, list[MaskFile]], naming: Naming, *, n_least: int
) -> list[MaskFile]:
    """Add masks whose names extend an image's to that image, and return the others.

    Fewer than ``n_least`` masks of an image are not added.
    """
    more: dict[str, list[MaskFile]] = {}
    strays: list[MaskFile] = []
    by_length = sorted(keys, key=len, reverse=True)
    for mask in rest:
        key = next((key for key in by_length if _extends(mask.stem, key)), None)
        if key is None:
            strays.append(mask)
        else:
            more.setdefault(key, []).append(_with_word(mask, key, naming))
    for key, several in more.items():
        if len(several) + len(found.get(key, ())) >= n_least:
            found.setdefault(key, []).extend(several)
        else:
            strays += several
    return strays


def extends_another(stem: str, stems: Iterable[str]) -> bool:
    """Whether the stem extends another of ``stems``."""
    return any(_extends(stem, other) for other in stems)


def _extends(stem: str, key: str) -> bool:
    return bool(key) and stem.startswith(key) and stem[len(key) :].startswith(tuple(_SEPARATORS))


def _case_folder(part: Part, images: Sequence[Path], masks: Sequence[MaskFile]) -> FilePair | None:
    """The pair of a folder that holds one case: its only mask, and its image or the channels of it; None otherwise."""
    is_case = part.name and part.is_shared and len(masks) == 1 and images
    if not is_case or (len(images) > 1 and not all(map(volume_reader, images))):
        return None
    words = tuple(stem_of(image).removeprefix(part.name).strip(_SEPARATORS) for image in images)
    return FilePair(part.name, part.name, tuple(images), (masks[0],), words if len(images) > 1 else ())


def _with_word(mask: MaskFile, key: str, naming: Naming) -> MaskFile:
    """The mask with its word, like ``liver`` of ``a_liver_mask`` where masks end in ``_mask``."""
    more = mask.stem.removeprefix(key)
    endings = [affix.suffix for affix in naming.masks if affix.suffix and more != affix.suffix]
    short = next((more.removesuffix(ending) for ending in endings if more.endswith(ending)), more)
    return mask if mask.word else MaskFile(mask.file, mask.stem, short.strip(_SEPARATORS))
