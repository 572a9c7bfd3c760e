"""The layout of folders of images and masks: two folders, both kinds in one, or a folder for each case or part.

``x.png`` pairs with a mask ``x.png`` or ``x_mask.png`` (in one folder, the latter); the endings of the two may differ,
as with a JPEG and its PNG mask. Other folders and names are recognised where they are usual (``image_folders``,
``naming``) or stated (``ReadingOptions``). Sizes may differ between cases.

The meaning of mask values is inferred from all masks together, for a mask may hold background or foreground alone: 0
and one other value (0/1, 0/255, ...) are background and foreground; other values, and colours, need ``labels`` or a
threshold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources.base import check_inside, check_partners, listed
from unetx_evaluators.tasks.sources.files import CaseFiles, FileSource
from unetx_evaluators.tasks.sources.formats import LOSSY, READ, conversion, ending_of, stem_of
from unetx_evaluators.tasks.sources.image_folders import IMAGES, MASK_FOLDERS, Part, files_of, folders_in
from unetx_evaluators.tasks.sources.labels import Labels, classes_from_options
from unetx_evaluators.tasks.sources.mask_values import midpoint_threshold
from unetx_evaluators.tasks.sources.naming import (
    MASK_SUFFIX,
    Affix,
    Naming,
    detect_naming,
    is_other_annotation,
    mask_affix,
)
from unetx_evaluators.tasks.sources.pairing import FilePair, MaskFile, extends_another, pair_files
from unetx_evaluators.tasks.sources.reading import CLASSES, DEFAULT_READING, UNION, ReadingOptions

_PARTNERS = (
    f"x.png pairs with a mask x.png or x{MASK_SUFFIX}.png: add what is missing, remove what stands alone, or say how "
    "names end with --image-suffix and --mask-suffix"
)
_MAX_JPEGS_READ = 8
"""Largest number of JPEG masks that are read to propose a threshold."""


@dataclass(frozen=True, slots=True)
class _PartFiles:
    """The files of one part."""

    part: Part
    images: tuple[Path, ...]
    masks: tuple[MaskFile, ...]

    @property
    def stems(self) -> tuple[list[str], list[str]]:
        """The stems of images and of masks."""
        return [stem_of(image) for image in self.images], [mask.stem for mask in self.masks]


def open_folder(
    folder: Path, parts: Sequence[Part], *, labels: Labels | None = None, reading: ReadingOptions = DEFAULT_READING
) -> FileSource:
    """Pair the files of ``parts`` and check their headers. Raises DataError."""
    stated = classes_from_options(labels, reading)  # fails before any file is read
    problems = Problems()
    listing = _listing(parts, folder, reading, problems)
    naming = _naming(listing, reading)
    pairs, passed_over = _pairs(listing, naming, folder, reading, problems)
    pairs = _without_jpegs(pairs, folder, problems, is_divided=reading.threshold is not None)
    pairs, channels = _with_usual_channels(pairs, problems)
    layers = _layers(pairs, folder, reading)
    return FileSource.checked(
        _cases(pairs, layers, folder, reading, problems),
        problems,
        folder=folder,
        channels=channels,
        channels_from="the names of the files in the case folders",
        layout=f"image/mask folder{_layout_details(listing, naming, folder, passed_over)}",
        name=folder.resolve().name,
        stated=stated,
        reading=reading,
        layers=layers,
    )


def _listing(parts: Sequence[Part], folder: Path, reading: ReadingOptions, problems: Problems) -> list[_PartFiles]:
    """The images and masks of every part, distinguished by their names where both share a folder."""
    files = {part: _image_files(part.images, folder, problems, is_flat=not part.is_shared) for part in parts}
    stems = [stem_of(file) for part, several in files.items() if part.is_shared for file in several]
    affix = mask_affix(stems) if reading.mask_suffix is None else Affix(suffix=reading.mask_ending or "")
    suffix, listing = Affix(suffix=reading.image_ending or ""), []
    for part, images in files.items():
        if part.is_shared:
            by_stem = {stem_of(file): file for file in images}
            masks = [MaskFile(file, stem) for stem, file in by_stem.items() if affix and _is_mask(stem, affix, by_stem)]
            if affix is None and reading.several_masks is not None:
                masks = [MaskFile(file, stem) for stem, file in by_stem.items() if extends_another(stem, by_stem)]
        else:
            masks = _mask_files(part.masks, folder, problems)
            if reading.mask_suffix:
                masks = [one for one in masks if affix and _is_mask(one.stem, affix, ())]
        taken = {mask.file for mask in masks}
        images = [file for file in images if file not in taken and suffix.key(stem_of(file)) is not None]
        listing.append(_PartFiles(part, tuple(images), tuple(masks)))
    _check_suffixes(listing, reading)
    return listing


def _check_suffixes(listing: Sequence[_PartFiles], reading: ReadingOptions) -> None:
    """Raise DataError where no name has the suffix that the user states."""
    first = listing[0].part
    for kind, suffix, folder, files in (
        ("mask", reading.mask_suffix, first.masks, [mask for one in listing for mask in one.masks]),
        ("image", reading.image_suffix, first.images, [image for one in listing for image in one.images]),
    ):
        if suffix and not files:
            there = listed([file.name for file in files_of(folder)], "image file")
            raise DataError(f"{folder}: no {kind}'s name ends in --{kind}-suffix {suffix}; there are {there}")


def _is_mask(stem: str, affix: Affix, images: Sequence[str] | dict[str, Path]) -> bool:
    further = affix.numbered_key(stem)
    return affix.key(stem) is not None or (further is not None and (not images or f"{further}{affix.suffix}" in images))


def _naming(listing: Sequence[_PartFiles], reading: ReadingOptions) -> Naming:
    stems = [one.stems for one in listing]
    images = Affix(suffix=reading.image_ending or "")
    keys = [([images.key(stem) or "" for stem in several], masks) for several, masks in stems]
    shared = [
        stem_of(file) for one in listing if one.part.is_shared for file in (*one.images, *(m.file for m in one.masks))
    ]
    affix = mask_affix(shared) if reading.mask_suffix is None else Affix(suffix=reading.mask_ending or "")
    naming = detect_naming(stems if reading.image_suffix is None else keys, affix)
    return naming if reading.image_suffix is None else replace(naming, images=images)


def _pairs(
    listing: Sequence[_PartFiles], naming: Naming, folder: Path, reading: ReadingOptions, problems: Problems
) -> tuple[list[FilePair], list[Path]]:
    """Images with their masks, and files that are neither; images and masks without a partner are a problem."""
    pairs: list[FilePair] = []
    lonely: list[Path] = []
    strays: list[Path] = []
    for one in listing:
        found, alone, left = pair_files(
            one.part, one.images, one.masks, naming, several=reading.several_masks is not None
        )
        pairs, lonely, strays = [*pairs, *found], [*lonely, *alone], [*strays, *left]
    images = [stem_of(image) for pair in pairs for image in pair.images]
    passed_over = [file for file in lonely if images and is_other_annotation(stem_of(file), images)]
    with problems.collecting():
        without_mask = [file.name for file in lonely if file not in passed_over]
        check_partners(without_mask, [file.name for file in strays], "mask", folder, _PARTNERS)
    return _named(pairs), passed_over


def _named(pairs: Sequence[FilePair]) -> list[FilePair]:
    """The pairs with unique names: keys that several parts have get the part's name as a prefix."""
    count = Counter(pair.name for pair in pairs)
    return [
        replace(pair, name=f"{pair.part}_{pair.name}") if count[pair.name] > 1 and pair.part else pair for pair in pairs
    ]


def _layers(pairs: Sequence[FilePair], folder: Path, reading: ReadingOptions) -> tuple[str, ...]:
    """The classes, where every mask shows one, in the user's order or in that of the words in the masks' names."""
    if reading.several_masks in (None, UNION):
        return ()
    words = sorted({mask.word for pair in pairs for mask in pair.masks})
    wordless = next((mask.file for pair in pairs for mask in pair.masks if not mask.word), None)
    if wordless is not None:
        raise DataError(
            f"{wordless}: --several-masks {reading.several_masks} names classes by what the masks' names add to their "
            "images', or by the folders in which the masks lie; this one adds nothing: rename it, or use "
            f"--several-masks {UNION}"
        )
    if reading.drawn is not None and sorted(reading.drawn) != words:
        raise DataError(
            f"{folder}: --several-masks names {', '.join(reading.drawn)}, but the masks are called "
            f"{listed(words, 'word')}; name each once, the topmost last"
        )
    return reading.drawn or tuple(words)


def _with_usual_channels(
    pairs: Sequence[FilePair], problems: Problems
) -> tuple[list[FilePair], tuple[str, ...] | None]:
    """The pairs with the most frequent channels, and the names of these; None where each has one image."""
    usual = Counter(pair.channels for pair in pairs).most_common(1)[0][0] if pairs else ()
    kept = []
    for pair in pairs:
        with problems.collecting():
            if pair.channels != usual:
                has, have = (", ".join(names) or "one image" for names in (pair.channels, usual))
                raise DataError(
                    f"{pair.images[0].parent}: case {pair.name!r} has {has}, but most have {have}; add, remove or "
                    "rename its files"
                )
            kept.append(pair)
    return kept, usual or None


def _cases(
    pairs: Sequence[FilePair], layers: tuple[str, ...], folder: Path, reading: ReadingOptions, problems: Problems
) -> dict[str, CaseFiles]:
    crowded = [pair for pair in pairs if len(pair.masks) > 1]
    with problems.collecting():
        if crowded and reading.several_masks is None:
            raise DataError(_several_masks_message(crowded, folder))
    cases: dict[str, CaseFiles] = {}
    for pair in sorted(pairs, key=lambda pair: pair.name):
        if reading.several_masks is None:
            cases[pair.name] = CaseFiles(pair.images, pair.masks[0].file)
            continue
        masks = sorted(pair.masks, key=lambda mask: layers.index(mask.word) if layers else 0)
        shown = tuple(1 + layers.index(mask.word) for mask in masks) if layers else ()
        first, *others = [mask.file for mask in masks]
        cases[pair.name] = CaseFiles(pair.images, first, more_labels=tuple(others), shown=shown)
    return cases


def _several_masks_message(crowded: Sequence[FilePair], folder: Path) -> str:
    first = crowded[0]
    remedy = (
        f"remove all but one, or add --several-masks {UNION} (what any of them shows), or --several-masks {CLASSES} "
        "(a class each)"
    )
    if len(crowded) == 1:
        return f"{first.masks[1].file}: image {first.name!r} has another mask, {first.masks[0].file.name}; {remedy}"
    example = listed([f"{mask.file.parent.name}/{mask.file.name}" for mask in first.masks], "mask")
    names = listed([pair.name for pair in crowded], "image")
    return f"{folder}: {names} have several masks each, {first.name!r} {example}; {remedy}"


def _layout_details(listing: Sequence[_PartFiles], naming: Naming, folder: Path, passed_over: Sequence[Path]) -> str:
    """A text, in brackets, on the layout where it is other than ``images/`` with ``masks/``; empty otherwise.

    It appears in reports, so that it names no case and no case's folder.
    """
    details = []
    first = listing[0].part
    places = [place.relative_to(folder).as_posix() for place in (first.images, first.masks)]
    if len(listing) > 1:
        details.append(f"{len(listing)} folders")
    elif not first.is_shared and (places[0] != IMAGES or places[1] not in MASK_FOLDERS):
        details.append(" with ".join(places))
    if not naming.is_usual and naming.masks != (Affix(suffix=MASK_SUFFIX),):
        details.append(str(naming))
    if passed_over:
        details.append(f"without {len(passed_over)} files of further observers or frames")
    return f" ({'; '.join(details)})" if details else ""


def _mask_files(folder: Path, root: Path, problems: Problems) -> list[MaskFile]:
    """The masks of a folder, or of the folders in it, one for each class."""
    below = [entry for entry in folders_in(folder) if _holds_images(entry)]
    if len(below) < 2 or _holds_images(folder):
        return [MaskFile(file, stem_of(file)) for file in _image_files(folder, root, problems)]
    return [
        MaskFile(file, stem_of(file), entry.name) for entry in below for file in _image_files(entry, root, problems)
    ]


def _image_files(folder: Path, root: Path, problems: Problems, *, is_flat: bool = True) -> list[Path]:
    """The images of a folder, sorted; those of formats that are not read are problems rather than silently ignored.

    With ``is_flat``, folders in it must not hold images.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.is_file()]
    with problems.collecting():
        below = [entry.name for entry in entries if is_flat and entry.is_dir() and _holds_images(entry)]
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
    for file in entries:
        with problems.collecting():
            if ending_of(file) in READ and file.is_symlink() and not file.exists():
                raise DataError(
                    f"{file}: is a link to a file that is not there; fetch it (datalad get, for one), or remove it"
                )
            if ending_of(file) in READ and file.is_file():
                images.append(check_inside(file, root))
    if not images:
        problems.raise_all()
        raise DataError(f"{folder}: holds no image file ({', '.join(READ)}); put the data there, or give another path")
    return _without_doubles(images, folder, problems)


def _holds_images(folder: Path) -> bool:
    return any(ending_of(file) in READ for file in folder.iterdir())


def _without_doubles(images: Sequence[Path], folder: Path, problems: Problems) -> list[Path]:
    """The files whose stem no other file has; the others are a problem."""
    alike = [list(group) for _, group in groupby(sorted(images, key=stem_of), key=stem_of)]
    doubles = [stem_of(group[0]) for group in alike if len(group) > 1]
    with problems.collecting():
        if doubles:
            example = ", ".join(file.name for group in alike if len(group) > 1 for file in group[:2])
            raise DataError(
                f"{folder}: {listed(doubles, 'name')} stands for two files each ({example}); remove or rename one"
            )
    return [group[0] for group in alike if len(group) == 1]


def _without_jpegs(pairs: Sequence[FilePair], folder: Path, problems: Problems, *, is_divided: bool) -> list[FilePair]:
    """The pairs without JPEG masks, which are a problem; all pairs where a threshold divides their values."""
    jpegs = [mask.file for pair in pairs for mask in pair.masks if ending_of(mask.file) in LOSSY]
    if is_divided or not jpegs:
        return list(pairs)
    with problems.collecting():
        who = f"{jpegs[0]}: is a JPEG"
        if len(jpegs) > 1:
            who = f"{folder}: {listed([file.name for file in jpegs], 'mask')} are each a JPEG"
        raise DataError(
            f"{who}, whose compression invents values between the classes; --threshold "
            f"{midpoint_threshold(jpegs[:_MAX_JPEGS_READ])} makes what is above it foreground; with more "
            "classes save masks as PNG, from where they were drawn"
        )
    return [pair for pair in pairs if not any(ending_of(mask.file) in LOSSY for mask in pair.masks)]
