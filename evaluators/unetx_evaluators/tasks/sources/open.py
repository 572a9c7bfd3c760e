"""Opening of a dataset: its layout is recognised, and it becomes a source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import Source, following_links, listed
from unetx_evaluators.tasks.sources.description import DESCRIPTION, read_description
from unetx_evaluators.tasks.sources.folders import open_folder
from unetx_evaluators.tasks.sources.formats import refuse_dicom
from unetx_evaluators.tasks.sources.hints import data_list, hint
from unetx_evaluators.tasks.sources.image_folders import find_parts
from unetx_evaluators.tasks.sources.labels import Labels
from unetx_evaluators.tasks.sources.msd import is_listing, open_msd
from unetx_evaluators.tasks.sources.nnunet import open_nnunet
from unetx_evaluators.tasks.sources.reading import DEFAULT_READING, ReadingOptions


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout of datasets in a folder."""

    title: str
    form: str
    """A description for the list of known layouts, in which lines after the first are indented."""
    open: Callable[[Path, Labels | None, ReadingOptions], Source | None]
    """Opens the dataset in a folder; None for another layout. Raises DataError where it cannot be read."""


def open_source(path: Path | str, *, labels: Labels | None = None, reading: ReadingOptions = DEFAULT_READING) -> Source:
    """Open the dataset at ``path``: its layout is recognised, listing and headers are checked, arrays are read later.

    Where no file of the dataset states it, ``labels`` states the meaning of mask values, like ``{"background": 0,
    "liver": 100}``, and ``reading`` the location and names of images and masks. Errors on single cases are in the
    source's ``problems``. Raises DataError where nothing can be listed.
    """
    place = Path(path)
    if not place.exists():
        raise DataError(f"{place}: there is nothing at this path; give the folder that holds the dataset")
    try:
        with following_links(reading.follow_links):
            if place.suffix == ".json" and place.is_file():
                return _described(place, read_description(place), labels, reading)
            if not place.is_dir():
                refuse_dicom(place)
                raise DataError(f"{place}: a dataset is a folder, this is a file; known layouts:\n{_known_layouts()}")
            return _recognised(place, labels, reading)
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error}); check the path and its permissions") from error


def _recognised(folder: Path, labels: Labels | None, reading: ReadingOptions) -> Source:
    """The dataset by the first of ``LAYOUTS`` that it fits."""
    for layout in LAYOUTS:
        source = layout.open(folder, labels, reading)
        if source is not None:
            return source
    file = folder / DESCRIPTION
    if file.is_file():
        return _described(file, read_description(file), labels, reading)
    refuse_dicom(folder)
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    message = hint(folder)
    if message is not None:
        raise DataError(message)
    words = f"found {listed(entries, 'entry', 'entries')}" if entries else "the folder is empty"
    raise DataError(f"{folder}: no layout that is known; {words}. Known layouts:\n{_known_layouts()}")


def _description(folder: Path, reading: ReadingOptions) -> dict[str, Any]:
    """The content of the folder's ``dataset.json``; empty where there is none, it is not one of ours, or the user
    states where images and masks lie."""
    try:
        is_used = not reading.names_folders and (folder / DESCRIPTION).is_file()
        return read_description(folder / DESCRIPTION) if is_used else {}
    except DataError:
        return {}


def _open_msd(folder: Path, labels: Labels | None, reading: ReadingOptions) -> Source | None:
    description = _description(folder, reading)
    is_msd = is_listing(description) and not _is_nnunet(description)
    return _described(folder / DESCRIPTION, description, labels, reading) if is_msd else None


def _open_nnunet(folder: Path, labels: Labels | None, reading: ReadingOptions) -> Source | None:
    description = _description(folder, reading)
    return _described(folder / DESCRIPTION, description, labels, reading) if _is_nnunet(description) else None


def _open_data_list(folder: Path, labels: Labels | None, reading: ReadingOptions) -> Source | None:
    is_used = not reading.names_folders and not (folder / DESCRIPTION).is_file()
    file = data_list(folder) if is_used else None
    return None if file is None else _described(file, read_description(file), labels, reading)


def _open_folder(folder: Path, labels: Labels | None, reading: ReadingOptions) -> Source | None:
    parts, file = find_parts(folder, reading), folder / DESCRIPTION
    if not parts:
        return None
    source = open_folder(folder, parts, labels=labels, reading=reading)
    warning = f"{file}: is in no form that is known here, and not read; images and masks are paired by their names"
    return replace(source, warnings=(warning,)) if file.is_file() and not reading.names_folders else source


LAYOUTS: tuple[Layout, ...] = (
    Layout("MSD folder", "dataset.json ('modality') with imagesTr/ and labelsTr/ (NIfTI)", _open_msd),
    Layout(
        "nnU-Net v2 folder",
        "dataset.json ('channel_names', 'file_ending') with imagesTr/ and labelsTr/",
        _open_nnunet,
    ),
    Layout(
        "MONAI data list",
        'a JSON file whose \'training\' lists {"image": ..., "label": ...}; its folder, or the file itself',
        _open_data_list,
    ),
    Layout(
        "image/mask folder",
        "images/ with masks/ or labels/ (NIfTI, PNG, TIFF, BMP, GIF, JPEG images; x.png pairs with x.png or\n"
        "x_mask.png), or x.png and x_mask.png side by side; others with --images DIR --masks DIR and\n"
        "--mask-suffix _segmentation",
        _open_folder,
    ),
)
"""All layouts in the order in which they are tried, those with a description first."""


def _known_layouts() -> str:
    return "\n".join(f"  {layout.title:<20}" + layout.form.replace("\n", "\n" + 22 * " ") for layout in LAYOUTS)


def _is_nnunet(description: dict[str, Any]) -> bool:
    return "channel_names" in description or "file_ending" in description


def _described(file: Path, description: dict[str, Any], labels: Labels | None, reading: ReadingOptions) -> Source:
    of_classes = {"labels": labels, "threshold": reading.threshold} if "labels" in description else {}
    of_files = ("images", "masks", "image_suffix", "mask_suffix", "several_masks")
    for option, said in {**of_classes, **{option: getattr(reading, option) for option in of_files}}.items():
        if said is not None:
            named = "the labels" if option in of_classes else "the files"
            way = "" if option in of_classes else f", or give the folder {file.parent} with --images and --masks"
            flag = option.replace("_", "-")
            raise DataError(f"{file.parent}: its {file.name} already names {named}; leave --{flag} out{way}")
    if _is_nnunet(description):
        return open_nnunet(file, description, reading)
    return open_msd(file, description, labels, reading)
