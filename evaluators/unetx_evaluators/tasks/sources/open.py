"""From a path to a source: which layout is this?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import Source, listed
from unetx_evaluators.tasks.sources.folders import FolderSource, is_picture_folder
from unetx_evaluators.tasks.sources.msd import DESCRIPTION, MsdSource
from unetx_space.errors import RequestError

KNOWN_LAYOUTS = """\
  MSD folder          dataset.json with imagesTr/ and labelsTr/ (NIfTI)
  image/mask folder   images/ with masks/ or labels/ (PNG; x.png pairs with x.png or x_mask.png),
                      or x.png and x_mask.png side by side"""

_MAX_VALUE = 65535
_LABEL = re.compile(r"\s*([^=,]*[^=,\s])\s*=\s*(\d{1,5})\s*")


def open_source(path: Path | str, *, labels: Mapping[str, int] | None = None) -> Source:
    """The dataset at ``path``, its layout recognised and its listing checked; arrays are read case by case.

    ``labels`` says what the values of masks mean, like ``{"background": 0, "liver": 100}``; image/mask folders only.
    Raises DataError.
    """
    folder = Path(path)
    if not folder.exists():
        raise DataError(f"{folder}: there is nothing at this path; give the folder that holds the dataset")
    if not folder.is_dir():
        raise DataError(f"{folder}: a dataset is a folder, this is a file; known layouts:\n{KNOWN_LAYOUTS}")
    try:
        return _recognised(folder, labels)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error}); check the path and its permissions") from error


def _recognised(folder: Path, labels: Mapping[str, int] | None) -> Source:
    if (folder / DESCRIPTION).is_file():
        if labels is not None:
            raise DataError(f"{folder}: its {DESCRIPTION} already names the labels; leave --labels out")
        return MsdSource.open(folder)
    if is_picture_folder(folder):
        return FolderSource.open(folder, labels=labels)
    raise _unknown_layout(folder)


def parse_labels(text: str) -> dict[str, int]:
    """``liver=100,tumour=200`` as a mapping. Raises RequestError."""
    labels: dict[str, int] = {}
    for part in text.split(","):
        match = _LABEL.fullmatch(part)
        if match is None or int(match[2]) > _MAX_VALUE:
            raise RequestError(
                f"--labels is NAME=VALUE,NAME=VALUE,... with values from 0 to {_MAX_VALUE}, like "
                f"'background=0,liver=100'; got {part!r} in {text!r}"
            )
        if match[1] in labels:
            raise RequestError(f"--labels names each class once; got {match[1]!r} twice in {text!r}")
        labels[match[1]] = int(match[2])
    return labels


def _unknown_layout(folder: Path) -> DataError:
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    found = f"found {listed(entries, 'entry', 'entries')}" if entries else "the folder is empty"
    return DataError(f"{folder}: no layout that is known; {found}. Known layouts:\n{KNOWN_LAYOUTS}")
