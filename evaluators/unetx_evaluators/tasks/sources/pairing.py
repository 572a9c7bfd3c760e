"""Which masks belong to which image."""

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
class Mask:
    """A file that shows what is in an image."""

    file: Path
    stem: str
    word: str = ""
    """What it shows, by the folder it lies in or by what its name adds to the image's."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The images of one case, its channels, with at least one mask."""

    name: str
    part: str
    images: tuple[Path, ...]
    masks: tuple[Mask, ...]
    channels: tuple[str, ...] = ()
    """What the names of several images add to the case's."""


def paired(
    part: Part, images: Sequence[Path], masks: Sequence[Mask], naming: Naming, *, several: bool
) -> tuple[list[Pair], list[Path], list[Path]]:
    """The pairs of one part, the images without a mask, and the masks without an image.

    ``several``: whether an image may have several masks, so that one alone may say more than its image's name.
    """
    files = {stem_of(image): image for image in images}
    keys = naming.image_keys(files)
    found: dict[str, list[Mask]] = {}
    rest: list[Mask] = []
    for mask in masks:
        key = naming.mask_key(mask.stem, keys)
        if key is None:
            rest.append(mask)
        else:
            found.setdefault(key, []).append(_worded(mask, key, naming))
    whole = _case_folder(part, images, rest) if not found else None
    if whole is not None:
        return [whole], [], []
    if part.name and not found and len(images) == 1 and not part.is_shared:
        key, rest = next(iter(keys), part.name), []
        found = {key: [_worded(mask, key, naming) for mask in masks]}
    strays = _further(rest, keys, found, naming, n_least=1 if several else 2)
    pairs = [Pair(key or part.name, part.name, (files[keys[key]],), tuple(of)) for key, of in found.items()]
    return pairs, [files[stem] for key, stem in keys.items() if key not in found], [mask.file for mask in strays]


def _further(
    rest: Sequence[Mask], keys: Mapping[str, str], found: dict[str, list[Mask]], naming: Naming, *, n_least: int
) -> list[Mask]:
    """Adds masks whose names say more than the image's to those of the image; what belongs to none comes back.

    So do fewer than ``n_least`` masks of one image, which may be anything.
    """
    more: dict[str, list[Mask]] = {}
    strays: list[Mask] = []
    by_length = sorted(keys, key=len, reverse=True)
    for mask in rest:
        key = next((key for key in by_length if _extends(mask.stem, key)), None)
        if key is None:
            strays.append(mask)
        else:
            more.setdefault(key, []).append(_worded(mask, key, naming))
    for key, several in more.items():
        if len(several) + len(found.get(key, ())) >= n_least:
            found.setdefault(key, []).extend(several)
        else:
            strays += several
    return strays


def extends_another(stem: str, stems: Iterable[str]) -> bool:
    """Whether the stem says more than another of ``stems``."""
    return any(_extends(stem, other) for other in stems)


def _extends(stem: str, key: str) -> bool:
    return bool(key) and stem.startswith(key) and stem[len(key) :].startswith(tuple(_SEPARATORS))


def _case_folder(part: Part, images: Sequence[Path], masks: Sequence[Mask]) -> Pair | None:
    """All of a folder that holds one case: its only mask, and its image or the channels of it."""
    is_case = part.name and part.is_shared and len(masks) == 1 and images
    if not is_case or (len(images) > 1 and not all(map(volume_reader, images))):
        return None
    words = tuple(stem_of(image).removeprefix(part.name).strip(_SEPARATORS) for image in images)
    return Pair(part.name, part.name, tuple(images), (masks[0],), words if len(images) > 1 else ())


def _worded(mask: Mask, key: str, naming: Naming) -> Mask:
    """With what the name adds to the image's: ``liver`` of ``a_liver_mask`` where masks end in ``_mask``."""
    more = mask.stem.removeprefix(key)
    endings = [affix.suffix for affix in naming.masks if affix.suffix and more != affix.suffix]
    short = next((more.removesuffix(ending) for ending in endings if more.endswith(ending)), more)
    return mask if mask.word else Mask(mask.file, mask.stem, short.strip(_SEPARATORS))
