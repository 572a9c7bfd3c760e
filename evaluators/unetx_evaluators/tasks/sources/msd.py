"""The layouts whose cases a JSON file lists: that of the Medical Segmentation Decathlon, and MONAI's data lists.

``training`` lists ``{"image": ..., "label": ...}`` pairs, paths in the file's folder. The Decathlon's ``dataset.json``
(Antonelli et al., Nature Communications 13, 4128, 2022) names the channels (``modality``) and the classes (``labels``)
too; volumes are 3D, or 4D with the channels last. A data list, as Auto3DSeg and MONAI's tutorials have it, may leave
both out, list several files as the channels of one image, and mark folds or a ``validation`` part. These are cases like
the others, and the split decides which train. ``test`` cases have no labels and are not read.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources.base import listed
from unetx_evaluators.tasks.sources.description import (
    channel_names,
    numbered_names,
    stated_file,
    unlisted,
    without_dots,
)
from unetx_evaluators.tasks.sources.files import CaseFiles, FileSource
from unetx_evaluators.tasks.sources.formats import LOSSY, READ, stem_of
from unetx_evaluators.tasks.sources.labels import IGNORE, ClassMap, Labels, classes_from_options
from unetx_evaluators.tasks.sources.reading import DEFAULT_READING, ReadingOptions

PARTS = ("training", "validation")
_TESTS = ("test", "testing")
_FROM_WHERE_DRAWN = "save masks as PNG, from where they were drawn"


def open_msd(
    file: Path, description: dict[str, Any], labels: Labels | None = None, reading: ReadingOptions = DEFAULT_READING
) -> FileSource:
    """The dataset that ``file`` lists; ``labels`` or a threshold state its classes if it does not. Raises DataError."""
    is_msd = "modality" in description
    channels = channel_names(description, "modality", file) if is_msd else None
    names_classes = is_msd or "labels" in description
    stated = _class_map(description, file) if names_classes else classes_from_options(labels, reading)
    problems, entries = Problems(), _entries(description, file)
    by_threshold = "" if names_classes else "; or --threshold 127 makes what is above it foreground"
    takes_jpegs = reading.threshold is not None
    cases = _cases(entries, file, problems, None if takes_jpegs else f"{_FROM_WHERE_DRAWN}{by_threshold}")
    everything = [path for case in cases.values() for path in case.all]
    return FileSource.checked(
        {name: case for name, case in cases.items() if all(path.is_file() for path in case.all)},
        problems,
        folder=file.parent,
        channels=channels,
        channels_from=f"'modality' in {file.name}",
        layout="MSD folder" if is_msd else "data list in",
        name=str(description.get("name") or file.parent.resolve().name),
        stated=stated,
        description=file,
        accepts_labels=not names_classes,
        reading=reading,
        warnings=(*unlisted([*everything, *_tests(description, file)], file), *_parts(entries, description, file)),
    )


def is_listing(description: object) -> bool:
    """Whether a description lists pairs of images and labels."""
    training = description.get("training") if isinstance(description, dict) else None
    return isinstance(training, list) and any(isinstance(entry, dict) and "image" in entry for entry in training)


def _class_map(description: dict[str, Any], file: Path) -> ClassMap:
    """The class map of the label files, whose indices have no gaps; ``ignore`` is no class."""
    labels = numbered_names(description, "labels", file)
    ignored = next((value for value, name in labels.items() if name == IGNORE and value), None)
    if 0 not in labels or len(labels) < (2 if ignored is None else 3):
        raise DataError(f"{file}: 'labels' names 0 (the background) and at least one class; got {list(labels)}")
    if len(set(labels.values())) < len(labels):
        raise DataError(f"{file}: 'labels' names each number once, and differently; got {list(labels.values())}")
    classes = {value: name for value, name in labels.items() if value != ignored}
    return ClassMap(tuple(classes.values()), tuple(classes), ignored)


def _entries(description: dict[str, Any], file: Path) -> list[tuple[str, Any]]:
    """The entries of cases with their positions in the file, like ``training[3]``."""
    training = description.get("training")
    if not isinstance(training, list) or not training:
        raise DataError(
            f'{file}: \'training\' lists {{"image": ..., "label": ...}} pairs; got {json.dumps(training)[:80]}'
        )
    found = [(f"training[{number}]", entry) for number, entry in enumerate(training)]
    others = description.get("validation")
    for number, entry in enumerate(others if isinstance(others, list) else []):
        if isinstance(entry, dict) and "label" in entry:
            found.append((f"validation[{number}]", entry))
    return found


def _cases(entries: list[tuple[str, Any]], file: Path, problems: Problems, jpegs: str | None) -> dict[str, CaseFiles]:
    """The files of cases by the image's name, or by its path where several images share a name.

    ``jpegs`` is the advice on masks that are JPEGs; None where these are read.
    """
    found: list[CaseFiles] = []
    for where, entry in entries:
        with problems.collecting():
            if not isinstance(entry, dict):
                raise DataError(
                    f'{file}: {where} is {{"image": ..., "label": ...}}, got {json.dumps(entry)[:80]}; name both files'
                )
            images = entry.get("image")
            images = images if isinstance(images, list) and images else [images]
            paths = tuple(stated_file(image, READ, f"{where}.image", file) for image in images)
            label = entry.get("label")
            if jpegs is not None and isinstance(label, str) and label.lower().endswith(LOSSY):
                raise DataError(
                    f"{file}: {where}.label, {label[:200]!r}, is a JPEG, whose compression invents values between the "
                    f"classes; {jpegs}"
                )
            found.append(CaseFiles(paths, stated_file(label, READ, f"{where}.label", file)))
    counts = Counter(map(stem_of, {without_dots(case.images[0]) for case in found}))
    cases: dict[str, CaseFiles] = {}
    for case in found:
        with problems.collecting():
            name = stem_of(case.images[0])
            if counts[name] > 1:
                inside = without_dots(case.images[0]).relative_to(without_dots(file.parent))
                name = "_".join((*inside.parts[:-1], name))
            if name in cases:
                raise DataError(
                    f"{file}: lists case {name!r} twice ({cases[name].images[0]}, {case.images[0]}); remove one"
                )
            cases[name] = case
    with problems.collecting():
        _check_present(cases, file)
    return cases


def _tests(description: dict[str, Any], file: Path) -> list[Path]:
    """The files of all parts, those that are not read too, as far as entries name files."""
    entries = [
        entry for part in (*_TESTS, *PARTS) if isinstance(description.get(part), list) for entry in description[part]
    ]
    stated = [value for entry in entries for value in (entry.values() if isinstance(entry, dict) else [entry])]
    paths = [path for value in stated for path in (value if isinstance(value, list) else [value])]
    return [file.parent / path for path in paths if isinstance(path, str) and "\0" not in path]


def _parts(entries: list[tuple[str, Any]], description: dict[str, Any], file: Path) -> tuple[str, ...]:
    """A warning on folds and parts that the list marks, which have no effect here."""
    marked = [f"'{part}'" for part in PARTS[1:] if any(where.startswith(part) for where, _ in entries)]
    marked += ["'fold'"] if any(isinstance(entry, dict) and "fold" in entry for _, entry in entries) else []
    if not marked:
        return ()
    return (
        f"{file}: what it says in {' and '.join(marked)} decides nothing here: all cases with a label are divided "
        "anew; for a split of your own give --split FILE",
    )


def _check_present(cases: dict[str, CaseFiles], file: Path) -> None:
    missing = [path for case in cases.values() for path in case.all if not path.is_file()]
    if not missing:
        return
    by_channel = [path for path in missing if path.with_name(f"{stem_of(path)}_0000.nii.gz").is_file()]
    remedy = (
        "this looks like nnU-Net version 1, whose files end in _0000: convert it "
        "(nnUNetv2_convert_old_nnUNet_dataset), or list the files as they are called"
        if by_channel
        else f"paths begin at {file.parent}; add or unlist them"
    )
    names = listed([path.relative_to(file.parent) for path in missing], "file")
    raise DataError(f"{file}: 'training' lists {names} not there; {remedy}")
