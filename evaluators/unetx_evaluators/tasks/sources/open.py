"""From a path to a source: which layout is this?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import Source, following_links, listed
from unetx_evaluators.tasks.sources.description import DESCRIPTION, read_description
from unetx_evaluators.tasks.sources.elsewhere import data_list, hint
from unetx_evaluators.tasks.sources.folders import open_folder
from unetx_evaluators.tasks.sources.formats import refuse_dicom
from unetx_evaluators.tasks.sources.labels import Labels
from unetx_evaluators.tasks.sources.layouts import find_parts
from unetx_evaluators.tasks.sources.msd import is_listing, open_msd
from unetx_evaluators.tasks.sources.nnunet import open_nnunet
from unetx_evaluators.tasks.sources.reading import AS_IT_IS, Reading

KNOWN_LAYOUTS = """\
  MSD folder          dataset.json ('modality') with imagesTr/ and labelsTr/ (NIfTI)
  nnU-Net v2 folder   dataset.json ('channel_names', 'file_ending') with imagesTr/ and labelsTr/
  MONAI data list     a JSON file whose 'training' lists {"image": ..., "label": ...}; its folder, or the file itself
  image/mask folder   images/ with masks/ or labels/ (NIfTI, PNG, TIFF, BMP, GIF, JPEG images; x.png pairs with x.png or
                      x_mask.png), or x.png and x_mask.png side by side; others with --images DIR --masks DIR and
                      --mask-suffix _segmentation"""


def open_source(path: Path | str, *, labels: Labels | None = None, reading: Reading = AS_IT_IS) -> Source:
    """The dataset at ``path``, its layout recognised, its listing and headers checked; arrays are read case by case.

    ``labels`` says what the values of masks mean, like ``{"background": 0, "liver": 100}``, where no file of the
    dataset does; ``reading`` where images and masks lie and how they are called, likewise. What is wrong with single
    cases is in the source's ``problems``. Raises DataError when nothing can be listed.
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
                raise DataError(f"{place}: a dataset is a folder, this is a file; known layouts:\n{KNOWN_LAYOUTS}")
            return _recognised(place, labels, reading)
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error}); check the path and its permissions") from error


def _recognised(folder: Path, labels: Labels | None, reading: Reading) -> Source:
    """A description goes before what names tell, unless the user says where images and masks lie."""
    file = folder / DESCRIPTION
    is_said = reading.images is not None or reading.masks is not None
    if not is_said:
        described = file if _is_of_ours(file) else None if file.is_file() else data_list(folder)
        if described is not None:
            return _described(described, read_description(described), labels, reading)
    if parts := find_parts(folder, reading):
        source = open_folder(folder, parts, labels=labels, reading=reading)
        warning = f"{file}: is in no form that is known here, and not read; images and masks are paired by their names"
        return replace(source, warnings=(warning,)) if file.is_file() and not is_said else source
    if file.is_file():
        return _described(file, read_description(file), labels, reading)
    refuse_dicom(folder)
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    told = hint(folder)
    if told is not None:
        raise DataError(told)
    words = f"found {listed(entries, 'entry', 'entries')}" if entries else "the folder is empty"
    raise DataError(f"{folder}: no layout that is known; {words}. Known layouts:\n{KNOWN_LAYOUTS}")


def _is_of_ours(file: Path) -> bool:
    """Whether a description lists or names cases: it may be a JSON file of somebody else's, or none at all."""
    try:
        description = read_description(file) if file.is_file() else {}
    except DataError:
        return False
    return _is_nnunet(description) or is_listing(description)


def _is_nnunet(description: dict[str, Any]) -> bool:
    return "channel_names" in description or "file_ending" in description


def _described(file: Path, description: dict[str, Any], labels: Labels | None, reading: Reading) -> Source:
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
