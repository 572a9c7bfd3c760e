"""Hints on paths at which no dataset is recognised: what is missing, or where one may be."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from itertools import islice
from pathlib import Path

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import listed
from unetx_evaluators.tasks.sources.description import DESCRIPTION, read_description
from unetx_evaluators.tasks.sources.formats import ending_of
from unetx_evaluators.tasks.sources.image_folders import find_parts, folders_in
from unetx_evaluators.tasks.sources.msd import is_listing
from unetx_evaluators.tasks.sources.nnunet import IMAGES, LABELS
from unetx_evaluators.tasks.sources.reading import DEFAULT_READING

_MAX_LISTS = 20
_MAX_FOLDERS = 200


def data_list(folder: Path) -> Path | None:
    """The JSON file in ``folder`` that lists cases; None where there is none. Raises DataError for several."""
    found = [file for file in islice(sorted(folder.glob("*.json")), _MAX_LISTS) if _is_list(file)]
    if len(found) > 1:
        raise DataError(
            f"{folder}: {listed([file.name for file in found], 'file')} list cases, and one is read; name it, "
            f"as {found[0]}, or say where images and masks lie with --images and --masks"
        )
    return found[0] if found else None


def hint(folder: Path) -> str | None:
    """A message on what is missing from a folder that is nearly a dataset, or which folder is one; None for others."""
    if (folder / IMAGES).is_dir():
        return (
            f"{folder}: holds {IMAGES}/, but no {DESCRIPTION} beside it, which names channels and classes; nnU-Net's "
            f"form is {json.dumps(_example(folder))}"
        )
    if (folder.resolve().parent / DESCRIPTION).is_file():
        return f"{folder}: is a folder of a dataset; give the one above, {folder.parent}, where {DESCRIPTION} lies"
    below: list[Path] = []
    for entry in islice(folders_in(folder), _MAX_FOLDERS):
        below += [entry] if _is_dataset(entry) else filter(_is_dataset, islice(folders_in(entry), _MAX_FOLDERS))
    if below:
        which = "it is" if len(below) == 1 else "one of them is"
        found = listed([place.relative_to(folder) for place in below], "dataset")
        return f"{folder}: is no dataset itself, but holds {found} below; if {which} what you mean, give {below[0]}"
    return None


def _is_list(file: Path) -> bool:
    try:
        return is_listing(read_description(file))
    except DataError:
        return False


def _is_dataset(folder: Path) -> bool:
    if (folder / DESCRIPTION).is_file() or (folder / IMAGES).is_dir():
        return True
    with suppress(DataError):
        return bool(find_parts(folder, DEFAULT_READING))
    return False


def _example(folder: Path) -> dict[str, object]:
    """A ``dataset.json`` that fits the files, with placeholders for the names of channels and classes."""
    masks = [file for file in folder.glob(f"{LABELS}/*") if not file.name.startswith(".")]
    endings = Counter(ending_of(file) for file in masks)
    ending = endings.most_common(1)[0][0] if endings else ""
    return {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "tumour": 1},
        "numTraining": endings[ending],
        "file_ending": ending or ".nii.gz",
    }
