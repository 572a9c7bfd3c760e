"""The naming of image and mask files: the affixes of both kinds, and the keys by which they pair.

Names of one kind share an affix, a prefix and a suffix; the rest of a name is its key, and equal keys pair.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MASK_SUFFIX = "_mask"

_SEPARATOR = r"[ _.\-]"
_MASK_WORD = r"(?:masks?|segmentations?|segm?|labels?|lbl|gt|ground[ _-]?truth|manual1?|1stHO|annotations?)"
_OTHER_WORD = r"(?:2nd\w*|second\w*|manual[2-9]|observer[2-9]\w*|4d)"
_MASK_ENDING = re.compile(rf".*?((?:{_SEPARATOR}|^){_MASK_WORD})", re.I)
_MASK_BEGINNING = re.compile(rf"({_MASK_WORD}{_SEPARATOR}).+", re.I)
_OTHER = re.compile(rf".*{_SEPARATOR}{_OTHER_WORD}", re.I)
_IMAGE_ENDING = re.compile(rf".*({_SEPARATOR}(?:images?|imgs?|training|test))", re.I)
_NUMBERED = rf"{_SEPARATOR}?\(?\d+\)?"


@dataclass(frozen=True, slots=True)
class Affix:
    """The prefix and suffix of names of one kind."""

    prefix: str = ""
    suffix: str = ""

    def key(self, stem: str) -> str | None:
        """The part of a stem that differs between files of this kind; None if the file is not of this kind."""
        is_kind = stem.startswith(self.prefix) and stem[len(self.prefix) :].endswith(self.suffix)
        return stem.removeprefix(self.prefix).removesuffix(self.suffix) if is_kind else None

    def numbered_key(self, stem: str) -> str | None:
        """The key of a further file of the kind, like ``a`` of ``a_mask_1`` beside ``a_mask``; None for others."""
        if not self.suffix:
            return None
        match = re.fullmatch(rf"{re.escape(self.prefix)}(.+){re.escape(self.suffix)}{_NUMBERED}", stem)
        return match[1] if match else None

    def __str__(self) -> str:
        is_whole = re.fullmatch(_MASK_WORD, self.suffix, re.I)
        return self.suffix if is_whole else f"{self.prefix}x{self.suffix}"


PLAIN = Affix()


@dataclass(frozen=True, slots=True)
class Naming:
    """The affixes of images and masks; a mask's key is that by the first affix which leads to an image."""

    images: Affix = PLAIN
    masks: tuple[Affix, ...] = (PLAIN, Affix(suffix=MASK_SUFFIX))

    @property
    def is_usual(self) -> bool:
        """Whether it is the default naming."""
        return self == Naming()

    def image_keys(self, stems: Iterable[str]) -> dict[str, str]:
        """The stems of images by their keys."""
        keys = {stem: self.images.key(stem) for stem in stems}
        return {key: stem for stem, key in keys.items() if key is not None}

    def mask_key(self, stem: str, images: Mapping[str, str]) -> str | None:
        """The key of the image, among ``images`` (stem by key), whose key or stem a mask's name holds; None if none."""
        keys = [key for affix in self.masks if (key := affix.key(stem)) is not None]
        if (found := next((key for key in keys if key in images), None)) is not None:
            return found
        whole = (key for stem in keys if (key := self.images.key(stem)) is not None)
        return next((key for key in whole if key in images), None)

    def __str__(self) -> str:
        return f"{self.images} with {' or '.join(map(str, self.masks))}"


def mask_affix(stems: Sequence[str]) -> Affix | None:
    """The affix of most masks among ``stems``: ``_mask`` if that occurs, else another usual word; None without any."""
    if any(stem.endswith(MASK_SUFFIX) for stem in stems):
        return Affix(suffix=MASK_SUFFIX)
    found: Counter[Affix] = Counter()
    for stem in stems:
        if ending := _MASK_ENDING.fullmatch(stem):
            found[Affix(suffix=ending[1])] += 1
        elif beginning := _MASK_BEGINNING.fullmatch(stem):
            found[Affix(prefix=beginning[1])] += 1
    return found.most_common(1)[0][0] if found else None


def is_other_annotation(stem: str, images: Iterable[str]) -> bool:
    """Whether a file is another observer's mask of one of the ``images``, or a series of frames."""
    is_mask = _MASK_ENDING.fullmatch(stem) is not None and stem.startswith(tuple(images))
    return is_mask or _OTHER.fullmatch(stem) is not None


def detect_naming(parts: Sequence[tuple[Sequence[str], Sequence[str]]], masks: Affix | None = None) -> Naming:
    """The naming by which most masks of ``parts`` (stems of images, stems of masks) pair, by preference the usual one.

    ``masks`` is the affix of masks, where it is known already.
    """
    image_stems = [stem for images, _ in parts for stem in images]
    mask_stems = [stem for _, several in parts for stem in several]
    known = mask_affix(mask_stems) if masks is None else masks
    by_affix = [(known,)] if known else []
    candidates = [*([Naming()] if masks is None else []), *(Naming(PLAIN, one) for one in by_affix)]
    if masks is None and (common := _common_suffix(mask_stems)):
        candidates.append(Naming(PLAIN, (Affix(suffix=common),)))
    for images in _image_affixes(image_stems):  # images that end in a word of their own: only beside masks that do so
        candidates += [Naming(images, one) for one in by_affix]
    return max(candidates, key=lambda naming: _n_pairs(naming, parts)) if candidates else Naming()


def _image_affixes(stems: Sequence[str]) -> list[Affix]:
    found: list[Affix] = []
    if suffix := _common_suffix(stems):
        found.append(Affix(suffix=suffix))
    endings = Counter(match[1] for stem in stems if (match := _IMAGE_ENDING.fullmatch(stem)))
    found += [Affix(suffix=ending) for ending, _ in endings.most_common(1)]
    prefix = re.match(rf"\D+{_SEPARATOR}", _common(stems)) if len(stems) > 1 else None
    return [*found, *([Affix(prefix=prefix[0])] if prefix else [])]


def _common_suffix(stems: Sequence[str]) -> str:
    """The common ending of all stems, from a separator on."""
    if len(set(stems)) < 2:
        return ""
    common = _common([stem[::-1] for stem in stems])[::-1]
    start = re.search(_SEPARATOR, common)
    return common[start.start() :] if start else ""


def _common(names: Sequence[str]) -> str:
    """The common beginning of all names."""
    first, last = min(names), max(names)
    return first[: next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _n_pairs(naming: Naming, parts: Sequence[tuple[Sequence[str], Sequence[str]]]) -> int:
    n_pairs = 0
    for images, masks in parts:
        keys = naming.image_keys(images)
        n_pairs += sum(naming.mask_key(stem, keys) is not None for stem in masks)
    return n_pairs
