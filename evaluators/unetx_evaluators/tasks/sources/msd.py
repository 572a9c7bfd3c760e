"""The layout of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 13, 4128, 2022).

``dataset.json`` names the channels (``modality``), the classes (``labels``) and the pairs (``training``) of NIfTI files
in ``imagesTr`` and ``labelsTr``. Volumes are 3D, or 4D with the channels last. ``test`` cases have no labels and are
not read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources.base import listed
from unetx_evaluators.tasks.sources.description import DESCRIPTION, channel_names, numbered, stated_file
from unetx_evaluators.tasks.sources.files import CaseFiles, FileSource
from unetx_evaluators.tasks.sources.formats import NIFTI, stem_of
from unetx_evaluators.tasks.sources.labels import ClassMap


def open_msd(folder: Path, description: dict[str, Any]) -> FileSource:
    """The dataset that a Decathlon ``dataset.json`` describes. Raises DataError."""
    file = folder / DESCRIPTION
    channels, class_map, problems = (
        channel_names(description, "modality", file),
        _class_map(description, file),
        Problems(),
    )
    return FileSource.checked(
        _cases(description, folder, problems),
        problems,
        folder=folder,
        channels=channels,
        channels_from=f"'modality' in {DESCRIPTION}",
        layout="MSD folder",
        name=str(description.get("name") or folder.resolve().name),
        stated=class_map,
        remedy=f"correct the file, or 'labels' in {DESCRIPTION}",
        description=file,
    )


def _class_map(description: dict[str, Any], file: Path) -> ClassMap:
    """The values of the label files; gaps between them are closed."""
    labels = numbered(description, "labels", file)
    if 0 not in labels or len(labels) < 2:
        raise DataError(f"{file}: 'labels' names 0 (the background) and at least one class; got {list(labels)}")
    if len(set(labels.values())) < len(labels):
        raise DataError(f"{file}: 'labels' names each number once, and differently; got {list(labels.values())}")
    return ClassMap(tuple(labels.values()), tuple(labels))


def _cases(description: dict[str, Any], folder: Path, problems: Problems) -> dict[str, CaseFiles]:
    file = folder / DESCRIPTION
    training = description.get("training")
    if not isinstance(training, list) or not training:
        raise DataError(
            f'{file}: \'training\' lists {{"image": ..., "label": ...}} pairs; got {json.dumps(training)[:80]}'
        )
    cases: dict[str, CaseFiles] = {}
    for number, entry in enumerate(training):
        with problems.collecting():
            image, label = (_entry_file(entry, part, number, folder) for part in ("image", "label"))
            name = stem_of(image)
            if name in cases:
                raise DataError(
                    f"{file}: 'training' lists case {name!r} twice ({cases[name].images[0]}, {image}); remove one"
                )
            cases[name] = CaseFiles((image,), label)
    with problems.collecting():
        _check_present(cases, folder)
    return {name: case for name, case in cases.items() if all(path.is_file() for path in case.all)}


def _entry_file(entry: Any, part: str, number: int, folder: Path) -> Path:
    stated = entry.get(part) if isinstance(entry, dict) else None
    return stated_file(stated, NIFTI, f"training[{number}].{part}", folder)


def _check_present(cases: dict[str, CaseFiles], folder: Path) -> None:
    missing = [path for case in cases.values() for path in case.all if not path.is_file()]
    if not missing:
        return
    by_channel = [path for path in missing if path.with_name(f"{stem_of(path)}_0000.nii.gz").is_file()]
    remedy = (
        "this looks like nnU-Net version 1, whose files end in _0000: convert it "
        "(nnUNetv2_convert_old_nnUNet_dataset), or list the files as they are called"
        if by_channel
        else "add or unlist them"
    )
    names = listed([path.relative_to(folder) for path in missing], "file")
    raise DataError(f"{folder / DESCRIPTION}: 'training' lists {names} not there; {remedy}")
