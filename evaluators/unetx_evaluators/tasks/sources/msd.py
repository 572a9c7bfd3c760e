"""The layout of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 13, 4128, 2022).

``dataset.json`` names the channels (``modality``), the classes (``labels``) and the pairs (``training``) of NIfTI files
in ``imagesTr`` and ``labelsTr``. Volumes are 3D, or 4D with the channels last. ``test`` cases have no labels and are
not read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import (
    ClassMap,
    RawCase,
    by,
    check_case_name,
    check_image,
    check_inside,
    check_same_shape,
    identity_of,
    listed,
)
from unetx_evaluators.tasks.sources.nifti import check_same_grid, read_volume

DESCRIPTION = "dataset.json"
ENDINGS = (".nii.gz", ".nii")
_MAX_DESCRIPTION_BYTES = 50_000_000


@dataclass(frozen=True, eq=False)
class MsdSource:
    """A 3D dataset described by a ``dataset.json``."""

    folder: Path
    name: str
    channels: tuple[str, ...]
    class_map: ClassMap
    pairs: dict[str, tuple[Path, Path]]
    """Image and label file of every case, by the case's name, sorted."""

    layout: ClassVar[str] = "MSD folder"
    dims: ClassVar[Literal[3]] = 3

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads the description and checks that its files are there. Raises DataError."""
        description = _read_description(folder / DESCRIPTION)
        return cls(
            folder=folder,
            name=str(description.get("name") or folder.resolve().name),
            channels=_by_number(description, "modality", folder / DESCRIPTION),
            class_map=_class_map(description, folder / DESCRIPTION),
            pairs=_pairs(description, folder),
        )

    @property
    def origin(self) -> str:
        return f"{self.layout} {self.folder}"

    @cached_property
    def identity(self) -> str:
        files = [file for pair in self.pairs.values() for file in pair]
        return identity_of(self.layout, self.folder, [self.folder / DESCRIPTION, *files])

    @property
    def classes(self) -> tuple[str, ...]:
        return self.class_map.names

    @property
    def case_names(self) -> tuple[str, ...]:
        return tuple(self.pairs)

    def read(self, name: str) -> RawCase:
        """``[c, x, y, z]`` in RAS+ orientation (see ``nifti``)."""
        image_file, label_file = self.pairs[name]
        volume = read_volume(image_file, intensities=True)
        label = read_volume(label_file, intensities=False)
        image = check_image(self._channels_first(volume.array, image_file), image_file)
        check_same_shape(image.shape[1:], label.array.shape, image_file, label_file)
        check_same_grid(volume, label)
        encoded = self.class_map.encode(label.array, label_file, f"correct the file, or 'labels' in {DESCRIPTION}")
        return RawCase(image, encoded, volume.spacing)

    def _channels_first(self, array: Any, file: Path) -> Any:
        image = array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0)
        if image.ndim != 4 or image.shape[0] != len(self.channels):
            raise DataError(
                f"{file}: has shape {by(array.shape)}, but 'modality' in {DESCRIPTION} names "
                f"{listed(self.channels, 'channel')}: a case is x*y*z for one channel and x*y*z*channels for more"
            )
        return image


def _read_description(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_DESCRIPTION_BYTES:
            raise DataError(f"{file}: a description of more than {_MAX_DESCRIPTION_BYTES} bytes is not read")
        description = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error}); correct it after the Decathlon's form") from error
    if not isinstance(description, dict):
        raise DataError(f"{file}: a JSON object is expected, this is a {type(description).__name__}")
    if "channel_names" in description:
        raise DataError(
            f"{file}: 'channel_names' marks an nnU-Net v2 folder, which is not read yet; give the description the "
            "Decathlon's form ('modality', 'labels' as {\"0\": \"background\", ...}, 'training')"
        )
    return description


def _by_number(description: dict[str, Any], field: str, file: Path) -> tuple[str, ...]:
    """The names of ``{"0": "MRI", "1": ...}`` in order of their numbers."""
    numbered = _numbered(description, field, file)
    if sorted(numbered) != list(range(len(numbered))):
        raise DataError(f"{file}: '{field}' counts from \"0\" without gaps, got {sorted(numbered)}")
    return tuple(numbered[number] for number in sorted(numbered))


def _numbered(description: dict[str, Any], field: str, file: Path) -> dict[int, str]:
    stated = description.get(field)
    if not isinstance(stated, dict) or not stated or not all(str(key).isdecimal() for key in stated):
        raise DataError(
            f'{file}: \'{field}\' maps numbers to names, like {{"0": "..."}}; got {json.dumps(stated)[:80]}'
        )
    numbered = {int(key): str(name) for key, name in stated.items()}
    if len(numbered) < len(stated) or len(set(numbered.values())) < len(stated):
        raise DataError(f"{file}: '{field}' names each number once, and differently; got {json.dumps(stated)[:200]}")
    return numbered


def _class_map(description: dict[str, Any], file: Path) -> ClassMap:
    """The values of the label files; gaps between them are closed."""
    labels = _numbered(description, "labels", file)
    if 0 not in labels or len(labels) < 2:
        raise DataError(f"{file}: 'labels' names 0 (the background) and at least one class; got {sorted(labels)}")
    return ClassMap(tuple(labels[value] for value in sorted(labels)), tuple(sorted(labels)))


def _pairs(description: dict[str, Any], folder: Path) -> dict[str, tuple[Path, Path]]:
    file = folder / DESCRIPTION
    training = description.get("training")
    if not isinstance(training, list) or not training:
        raise DataError(
            f'{file}: \'training\' lists {{"image": ..., "label": ...}} pairs; got {json.dumps(training)[:80]}'
        )
    pairs: dict[str, tuple[Path, Path]] = {}
    for number, entry in enumerate(training):
        image, label = (_entry_path(entry, part, number, folder) for part in ("image", "label"))
        name = check_case_name(_stem(image), image)
        if name in pairs:
            raise DataError(f"{file}: 'training' lists case {name!r} twice ({pairs[name][0]}, {image}); remove one")
        pairs[name] = (image, label)
    _check_present(pairs, file)
    return dict(sorted(pairs.items()))


def _entry_path(entry: Any, part: str, number: int, folder: Path) -> Path:
    stated = entry.get(part) if isinstance(entry, dict) else None
    if not isinstance(stated, str) or not stated.endswith(ENDINGS) or "\0" in stated:
        raise DataError(
            f"{folder / DESCRIPTION}: training[{number}].{part} is a path that ends in .nii.gz or .nii, got {stated!r}"
        )
    return check_inside(folder / stated, folder)


def _check_present(pairs: dict[str, tuple[Path, Path]], file: Path) -> None:
    missing = [path.relative_to(file.parent) for pair in pairs.values() for path in pair if not path.is_file()]
    if missing:
        raise DataError(f"{file}: 'training' lists {listed(missing, 'file')} not there; add or unlist them")


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".nii")
