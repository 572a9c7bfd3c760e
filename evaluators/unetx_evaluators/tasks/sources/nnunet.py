"""The raw layout of nnU-Net, version 2 (its documentation/dataset_format.md; Isensee et al., Nature Methods 18, 2021).

``dataset.json`` names the channels (``channel_names``), the classes (``labels``) and the ending of all files
(``file_ending``). Channels are files of their own, ``imagesTr/CASE_0000.nii.gz``, ``..._0001...``; an RGB picture is
one file with three. A field ``dataset`` may list the files of every case instead.

The label ``ignore`` becomes ``IGNORED``. Regions (labels that are lists) of several values are refused: they overlap,
and a task's classes do not. ``overwrite_image_reader_writer`` changes nothing here; the ending says how a file is
read. Beside a TIFF volume, ``CASE.json`` may state its ``spacing``, as nnU-Net's Tiff3DIO has it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources.base import check_inside, check_partners, listed
from unetx_evaluators.tasks.sources.description import (
    DESCRIPTION,
    channel_names,
    inverted_mapping,
    stated_file,
    unlisted,
)
from unetx_evaluators.tasks.sources.files import CaseFiles, FileSource
from unetx_evaluators.tasks.sources.formats import LOSSLESS, LOSSY, READ, conversion, ending_of
from unetx_evaluators.tasks.sources.labels import ClassMap
from unetx_evaluators.tasks.sources.reading import DEFAULT_READING, ReadingOptions

IMAGES, LABELS = "imagesTr", "labelsTr"
CHANNEL = re.compile(r"(.+)_(\d{4})")
"""Pattern of the name of an image's file without its ending: case and channel."""


def open_nnunet(file: Path, description: dict[str, Any], reading: ReadingOptions = DEFAULT_READING) -> FileSource:
    """The dataset that an nnU-Net v2 ``dataset.json`` describes. Raises DataError."""
    folder = file.parent
    channels, class_map = channel_names(description, "channel_names", file), _class_map(description, file)
    ending, problems = _ending(description, file), Problems()
    is_listed = "dataset" in description
    if is_listed:
        cases = _listed_cases(description["dataset"], ending, file, problems)
    else:
        cases = _found_cases(folder, ending, channels, problems)
    with problems.collecting():
        _check_count(description.get("numTraining"), len(cases), file, problems)
    return FileSource.checked(
        _of_right_channels(cases, channels, problems),
        problems,
        folder=folder,
        channels=channels,
        channels_from=f"'channel_names' in {DESCRIPTION}",
        layout="nnU-Net v2 folder",
        name=str(description.get("name") or folder.resolve().name),
        stated=class_map,
        description=file,
        accepts_labels=False,
        reading=reading,
        warnings=unlisted([path for case in cases.values() for path in case.all], file) if is_listed else (),
    )


def _class_map(description: dict[str, Any], file: Path) -> ClassMap:
    labels = description.get("labels")
    if not isinstance(labels, dict):
        raise DataError(
            f'{file}: \'labels\' maps names to numbers, like {{"background": 0, "liver": 1}}; got {labels!r}'
        )
    plain = {  # a region of one value is a class
        name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in labels.items()
    }
    regions = [name for name, value in plain.items() if isinstance(value, list)]
    if regions:
        raise DataError(
            f"{file}: 'labels' holds {listed(regions, 'region')} made of several values, which is not supported: "
            "regions overlap, classes do not; give each class one number, as in the label files, and leave out "
            "'regions_class_order'"
        )
    odd = [name for name, value in plain.items() if not str(value).isdecimal()]
    if odd:
        turned = inverted_mapping(labels)
        remedy = "" if turned is None else f"; names and numbers stand as in nnU-Net's version 1: write {turned}"
        raise DataError(
            f"{file}: 'labels' maps names to whole numbers from 0; not so for {listed(odd, 'name')}{remedy}"
        )
    try:
        return ClassMap.from_labels({name: int(value) for name, value in plain.items()})
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _ending(description: dict[str, Any], file: Path) -> str:
    ending = description.get("file_ending")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise DataError(f"{file}: 'file_ending' is the ending of all files, like '.nii.gz'; got {ending!r}")
    if ending.lower() in LOSSY:
        raise DataError(f"{file}: 'file_ending' is {ending}, which is lossy: masks would not survive; save them as PNG")
    if ending.lower() not in LOSSLESS:
        remedy = conversion(Path(f"x{ending}")) or f"convert the files to one of {', '.join(LOSSLESS)}"
        raise DataError(f"{file}: 'file_ending' is {ending}, which is not read; {remedy}")
    return ending


def _check_count(stated: object, n_cases: int, file: Path, problems: Problems) -> None:
    """Raise DataError where the number of cases is not the stated one, unless other problems explain it."""
    if stated is not None and str(stated).strip() != str(n_cases) and not problems.found:
        raise DataError(
            f"{file}: 'numTraining' says {stated!r}, but there are {n_cases} cases with image and label; "
            "add what is missing or correct the number"
        )


def _of_right_channels(
    cases: dict[str, CaseFiles], channels: tuple[str, ...], problems: Problems
) -> dict[str, CaseFiles]:
    """The cases with no more files than there are channels, of which one file may hold several."""
    many = {name: case for name, case in cases.items() if len(case.images) > len(channels)}
    with problems.collecting():
        if many:
            first = next(iter(many.values()))
            raise DataError(
                f"{first.images[0]}: {listed(list(many), 'case')} with more files than channels: "
                f"{', '.join(file.name for file in first.images)}, say, but 'channel_names' in {DESCRIPTION} names "
                f"{listed(channels, 'channel')}; name the others there, or remove their files"
            )
    return {name: case for name, case in cases.items() if name not in many}


def _listed_cases(listing: object, ending: str, file: Path, problems: Problems) -> dict[str, CaseFiles]:
    """The cases in the field ``dataset``: ``{CASE: {"images": [...], "label": ...}}``."""
    if not isinstance(listing, dict) or not listing:
        raise DataError(
            f'{file}: \'dataset\' maps cases to {{"images": [...], "label": ...}}; got {json.dumps(listing)[:80]}'
        )
    cases: dict[str, CaseFiles] = {}
    for name, entry in listing.items():
        with problems.collecting():
            images = entry.get("images") if isinstance(entry, dict) else None
            if not isinstance(images, list) or not images:
                raise DataError(f"{file}: dataset[{name!r}].images lists the files of the case; got {images!r}")
            paths = [stated_file(path, (ending.lower(),), f"dataset[{name!r}].images", file) for path in images]
            label = stated_file(entry.get("label"), (ending.lower(),), f"dataset[{name!r}].label", file)
            missing = [path.relative_to(file.parent) for path in (*paths, label) if not path.is_file()]
            if missing:
                raise DataError(
                    f"{file}: dataset[{name!r}] lists {listed(missing, 'file')} not there; add or unlist them"
                )
            cases[name] = CaseFiles(tuple(paths), label, stated_spacing(paths[0], name, ending))
    return cases


def _found_cases(folder: Path, ending: str, channels: tuple[str, ...], problems: Problems) -> dict[str, CaseFiles]:
    """The cases, by the names of the files in ``imagesTr`` and ``labelsTr``."""
    images: dict[str, dict[int, Path]] = {}
    for file in _files(folder, IMAGES, ending, problems):
        with problems.collecting():
            match = CHANNEL.fullmatch(file.name.removesuffix(ending))
            if match is None:
                raise DataError(f"{file}: an image is called CASE_0000{ending}, with its channel's number; rename it")
            images.setdefault(match[1], {})[int(match[2])] = check_inside(file, folder)
    labels: dict[str, Path] = {}
    for file in _files(folder, LABELS, ending, problems):
        with problems.collecting():
            labels[file.name.removesuffix(ending)] = check_inside(file, folder)
    with problems.collecting():
        lonely_images, lonely_labels = sorted(images.keys() - labels.keys()), sorted(labels.keys() - images.keys())
        remedy = f"{IMAGES}/CASE_0000 pairs with {LABELS}/CASE: add what is missing or remove what stands alone"
        check_partners(lonely_images, lonely_labels, "label", folder, remedy)
    cases: dict[str, CaseFiles] = {}
    by_file = any(len(files) == len(channels) for files in images.values())
    for name in sorted(images.keys() & labels.keys()):
        with problems.collecting():
            numbers = sorted(images[name])
            expected = range(len(channels) if by_file else numbers[-1] + 1)
            lacking = [f"{name}_{number:04d}{ending}" for number in expected if number not in numbers]
            if lacking:
                raise DataError(
                    f"{folder / IMAGES}: case {name!r} lacks {listed(lacking, 'file')} beside "
                    f"{images[name][numbers[0]].name}; channels count from 0 without gaps, a file each: add what is "
                    "missing, or remove the case"
                )
            files = tuple(images[name][number] for number in numbers)
            cases[name] = CaseFiles(files, labels[name], stated_spacing(files[0], name, ending))
    return cases


def _files(folder: Path, part: str, ending: str, problems: Problems) -> list[Path]:
    """The files of one folder, sorted; images of another format are a problem, other files are ignored."""
    if not (folder / part).is_dir():
        raise DataError(f"{folder / part}: is not there; nnU-Net's layout keeps images in {IMAGES}, labels in {LABELS}")
    files = sorted(file for file in (folder / part).iterdir() if file.is_file() and not file.name.startswith("."))
    sound = [file for file in files if file.name.endswith(ending)]
    strange = [file for file in files if not file.name.endswith(ending)]
    others = [file for file in strange if ending_of(file) in READ or conversion(file)]
    with problems.collecting():
        if others:
            found = listed([file.name for file in others], "other file")
            raise DataError(
                f"{folder / part}: 'file_ending' is {ending}, but there is {found}; "
                f"{conversion(others[0]) or 'convert or remove them'}"
            )
    return sound


def stated_spacing(image: Path, name: str, ending: str) -> tuple[float, ...] | None:
    """The mm per page, row and column that ``CASE.json`` beside a TIFF states; None where it states none."""
    file = image.with_name(f"{name}.json")
    if ending.lower() not in (".tif", ".tiff") or not file.is_file():
        return None
    try:
        spacing = tuple(float(length) for length in json.loads(file.read_text(encoding="utf-8"))["spacing"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f'{file}: states the spacing as {{"spacing": [z, y, x]}} in mm ({error}); correct it'
        ) from error
    if len(spacing) not in (2, 3) or not all(0 < length < float("inf") for length in spacing):
        raise DataError(f"{file}: a spacing is above 0 mm along two or three axes, got {spacing}; correct it")
    return spacing
