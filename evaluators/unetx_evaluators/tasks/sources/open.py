"""From a path to a source: which layout is this?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import Source, listed
from unetx_evaluators.tasks.sources.description import DESCRIPTION, read_description
from unetx_evaluators.tasks.sources.elsewhere import data_list, hint
from unetx_evaluators.tasks.sources.folders import is_image_folder, open_folder
from unetx_evaluators.tasks.sources.formats import refuse_dicom
from unetx_evaluators.tasks.sources.labels import Labels
from unetx_evaluators.tasks.sources.msd import is_listing, open_msd
from unetx_evaluators.tasks.sources.nnunet import open_nnunet

KNOWN_LAYOUTS = """\
  MSD folder          dataset.json ('modality') with imagesTr/ and labelsTr/ (NIfTI)
  nnU-Net v2 folder   dataset.json ('channel_names', 'file_ending') with imagesTr/ and labelsTr/
  MONAI data list     a JSON file whose 'training' lists {"image": ..., "label": ...}; its folder, or the file itself
  image/mask folder   images/ with masks/ or labels/ (NIfTI, PNG, TIFF, BMP, JPEG images; x.png pairs with x.png or
                      x_mask.png), or x.png and x_mask.png side by side"""


def open_source(path: Path | str, *, labels: Labels | None = None) -> Source:
    """The dataset at ``path``, its layout recognised, its listing and headers checked; arrays are read case by case.

    ``labels`` says what the values of masks mean, like ``{"background": 0, "liver": 100}``, where no file of the
    dataset does. What is wrong with single cases is in the source's ``problems``. Raises DataError when nothing can be
    listed.
    """
    place = Path(path)
    if not place.exists():
        raise DataError(f"{place}: there is nothing at this path; give the folder that holds the dataset")
    try:
        if place.suffix == ".json" and place.is_file():
            return _described(place, read_description(place), labels)
        if not place.is_dir():
            refuse_dicom(place)
            raise DataError(f"{place}: a dataset is a folder, this is a file; known layouts:\n{KNOWN_LAYOUTS}")
        return _recognised(place, labels)
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error}); check the path and its permissions") from error


def _recognised(folder: Path, labels: Labels | None) -> Source:
    file = folder / DESCRIPTION
    if is_image_folder(folder):
        description = _of_ours(file)
        if description is not None:
            return _described(file, description, labels)
        source = open_folder(folder, labels=labels)
        warning = f"{file}: is in no form that is known here, and not read; images and masks are paired by their names"
        return replace(source, warnings=(*source.warnings, warning)) if file.is_file() else source
    if file.is_file():
        return _described(file, read_description(file), labels)
    found = data_list(folder)
    if found is not None:
        return _described(found, read_description(found), labels)
    refuse_dicom(folder)
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    told = hint(folder)
    if told is not None:
        raise DataError(told)
    words = f"found {listed(entries, 'entry', 'entries')}" if entries else "the folder is empty"
    raise DataError(f"{folder}: no layout that is known; {words}. Known layouts:\n{KNOWN_LAYOUTS}")


def _of_ours(file: Path) -> dict[str, Any] | None:
    """A description that lists or names cases; None for a JSON file of somebody else's, or none at all."""
    try:
        description = read_description(file) if file.is_file() else {}
    except DataError:
        return None
    return description if _is_nnunet(description) or is_listing(description) else None


def _is_nnunet(description: dict[str, Any]) -> bool:
    return "channel_names" in description or "file_ending" in description


def _described(file: Path, description: dict[str, Any], labels: Labels | None) -> Source:
    if labels is not None and "labels" in description:
        raise DataError(f"{file.parent}: its {file.name} already names the labels; leave --labels out")
    return open_nnunet(file, description) if _is_nnunet(description) else open_msd(file, description, labels)
