"""From a path to a source: which layout is this?"""

from __future__ import annotations

from pathlib import Path

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import Source, following_links, listed
from unetx_evaluators.tasks.sources.description import DESCRIPTION, read_description
from unetx_evaluators.tasks.sources.folders import open_folder
from unetx_evaluators.tasks.sources.formats import refuse_dicom
from unetx_evaluators.tasks.sources.labels import Labels
from unetx_evaluators.tasks.sources.layouts import find_parts
from unetx_evaluators.tasks.sources.msd import open_msd
from unetx_evaluators.tasks.sources.nnunet import open_nnunet
from unetx_evaluators.tasks.sources.reading import AS_IT_IS, Reading

KNOWN_LAYOUTS = """\
  MSD folder          dataset.json ('modality') with imagesTr/ and labelsTr/ (NIfTI)
  nnU-Net v2 folder   dataset.json ('channel_names', 'file_ending') with imagesTr/ and labelsTr/
  image/mask folder   images/ with masks/ or labels/ (NIfTI, PNG, TIFF, BMP, GIF, JPEG images; x.png pairs with x.png or
                      x_mask.png), or x.png and x_mask.png side by side; others with --images DIR --masks DIR and
                      --mask-suffix _segmentation"""


def open_source(path: Path | str, *, labels: Labels | None = None, reading: Reading = AS_IT_IS) -> Source:
    """The dataset at ``path``, its layout recognised, its listing and headers checked; arrays are read case by case.

    ``labels`` says what the values of masks mean, like ``{"background": 0, "liver": 100}``, ``reading`` where images
    and masks lie; image/mask folders only. What is wrong with single cases is in the source's ``problems``. Raises
    DataError when nothing can be listed.
    """
    folder = Path(path)
    if not folder.exists():
        raise DataError(f"{folder}: there is nothing at this path; give the folder that holds the dataset")
    if not folder.is_dir():
        refuse_dicom(folder)
        raise DataError(f"{folder}: a dataset is a folder, this is a file; known layouts:\n{KNOWN_LAYOUTS}")
    try:
        with following_links(reading.follow_links):
            return _recognised(folder, labels, reading)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error}); check the path and its permissions") from error


def _recognised(folder: Path, labels: Labels | None, reading: Reading) -> Source:
    if (folder / DESCRIPTION).is_file() and reading.images is None and reading.masks is None:
        said = {"labels": labels, "threshold": reading.threshold, "several-masks": reading.several_masks}
        for option, value in said.items():
            if value is not None:
                raise DataError(f"{folder}: its {DESCRIPTION} already names the labels; leave --{option} out")
        for option, value in {"image-suffix": reading.image_suffix, "mask-suffix": reading.mask_suffix}.items():
            if value is not None:
                raise DataError(
                    f"{folder}: its {DESCRIPTION} already names the files; leave --{option} out, or say where they lie "
                    "with --images and --masks"
                )
        description = read_description(folder)
        is_nnunet = "channel_names" in description or "file_ending" in description
        return open_nnunet(folder, description) if is_nnunet else open_msd(folder, description)
    if parts := find_parts(folder, reading):
        return open_folder(folder, parts, labels=labels, reading=reading)
    refuse_dicom(folder)
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    found = f"found {listed(entries, 'entry', 'entries')}" if entries else "the folder is empty"
    raise DataError(f"{folder}: no layout that is known; {found}. Known layouts:\n{KNOWN_LAYOUTS}")
