"""The plan of a trained model: how it reads, prepares and cuts images, and writes masks; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from unetx_evaluators.tasks.preprocessing import Preparation
from unetx_evaluators.tasks.privacy import Pseudonymous
from unetx_evaluators.tasks.sources.base import Source
from unetx_evaluators.tasks.sources.files import FileSource
from unetx_evaluators.tasks.sources.labels import ClassMap, Threshold
from unetx_evaluators.tasks.task import Label, Task


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """The parts of a task that a trained model needs."""

    name: str
    """Name of the dataset."""
    layout: str
    """Name of the dataset's layout."""
    source_dims: Literal[2, 3]
    """Dimensions of the images; a 2D network may read the slices of volumes."""
    channels: tuple[str, ...]
    masks: ClassMap | Threshold
    """Meaning of the values of the dataset's masks, with which new masks are written."""
    classes: tuple[str, ...]
    patch: tuple[int, ...]
    """Size of a window in voxels."""
    mirror: tuple[int, ...]
    """Axes of the patch along which the training mirrored."""
    preparation: Preparation

    @classmethod
    def of(cls, task: Task, source: Source, preparation: Preparation, mirror: Sequence[int]) -> Self:
        """The plan of a model that is trained on ``task``, which was prepared from ``source``."""
        return cls(
            task.name,
            source.layout,
            source.dims,
            task.channels,
            _masks(source),
            task.classes,
            task.patch,
            tuple(mirror),
            preparation,
        )

    def values(self, label: Label) -> npt.NDArray[Any]:
        """The values that a mask holds for class indices: ``[*spatial]`` numbers, or ``[*spatial, 3]`` colours.

        They are 0 and 255 where the dataset's masks were divided by a threshold.
        """
        if isinstance(self.masks, Threshold):
            return label * np.uint8(255)
        if not self.masks.coloured:
            kind = np.uint8 if max(self.masks.values) <= np.iinfo(np.uint8).max else np.uint16
            return np.array(self.masks.values, dtype=kind)[label]
        return np.array([list(value.to_bytes(3, "big")) for value in self.masks.values], dtype=np.uint8)[label]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        data = asdict(self)
        del data["preparation"]["reasons"]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The plan of which ``data`` is ``to_json()``, read from JSON. Raises KeyError, TypeError or ValueError."""
        masks = data["masks"]
        if "level" in masks:
            meaning: ClassMap | Threshold = Threshold(float(masks["level"]))
        else:
            further = tuple((int(value), int(index)) for value, index in masks["further"])
            lists = {name: tuple(masks[name]) for name in ("names", "values")}
            meaning = ClassMap(**{**masks, **lists, "further": further})
        tuples = {name: tuple(data[name]) for name in ("channels", "classes", "patch", "mirror")}
        preparation = Preparation.from_json(data["preparation"])
        return cls(**{**data, **tuples, "masks": meaning, "preparation": preparation})


def _masks(source: Source) -> ClassMap | Threshold:
    """Meaning of the values of a source's masks: class indices if it has no files, or a mask for each class."""
    inner = source.inner if isinstance(source, Pseudonymous) else source
    if isinstance(inner, FileSource) and not inner.layers:
        return inner.class_map
    return ClassMap(source.classes, tuple(range(len(source.classes))))
