"""A task: a dataset prepared for training, with metadata here and arrays on disk; no torch.

Its folder holds for every case ``images/{name}.npy`` (float32, ``[c, *spatial]``, normalised) and
``labels/{name}.npy`` (uint8, ``[*spatial]``, 0 is background, 255 is ignored). Workers memory-map the arrays. Where
preparation changed the grid of a case that is scored, ``originals/{name}.npy`` holds its label map before resampling.

A 2D task made of volumes is **stacked**: a case is a volume whose first spatial axis counts its slices,
``[c, n, h, w]`` and ``[n, h, w]``. A network sees one slice; a case is scored as a whole.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from unetx_space.backbone import Backbone

IGNORED = 255
"""The label of voxels that are ignored in training and scoring."""
MAX_CLASSES = 255
"""Largest number of classes, since labels are stored as uint8 and one value is ``IGNORED``."""

Image = npt.NDArray[np.float32]
Label = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Splits:
    """The names of the cases of each part. A search reads train and validation cases; finals are judged on test
    cases."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """The metadata of a task. ``folder`` holds its arrays; it is no part of the stored metadata."""

    folder: Path
    name: str
    source: str
    """A text on the origin of the data: a layout and a path, or the demo."""
    dims: Literal[2, 3]
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    """Names of the classes by label value; ``classes[0]`` is the background."""
    spacing: tuple[float, ...]
    """The mm per voxel and axis of the network's input, the same for all cases; ones where the data do not say."""
    patch: tuple[int, ...]
    """Size of a training patch in voxels."""
    strides: tuple[tuple[int, ...], ...]
    """Strides per level and axis; those of the first level are ones."""
    widths: tuple[int, ...]
    """Channels per level of the full-size network."""
    splits: Splits
    digest: str
    """SHA-256 over the prepared arrays and this metadata: equal digests mean equal tasks."""
    digests: Mapping[str, str] = field(default_factory=dict, hash=False)
    """SHA-256 of the images, the masks and the split, which show the difference between tasks with other digests."""
    slice_spacing: float | None = None
    """The mm between slices of a stacked task; None for any other."""
    ignores: bool = False
    """Whether label maps hold ``IGNORED``."""
    choices: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Value and reason of everything that was chosen by rule or by the user, by name; JSON values."""
    max_steps: int | None = None
    """Steps of a proxy of the U-Net that the time target allows; None: those of the default budget."""
    alternatives: tuple[tuple[float, ...], ...] = ()
    """Voxel sizes (mm along the source's axes) between which only training can decide, the task's own last; none where
    the rules did."""
    no_images: bool = False
    """Whether the user wants no image content in artifacts and reports."""
    originals: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    """The mm per voxel and axis of the original label maps that are kept, by case: of validation and test cases whose
    grid preparation changed."""

    @property
    def stacked(self) -> bool:
        """Whether a case is a stack of slices."""
        return self.slice_spacing is not None

    @property
    def label_spacing(self) -> tuple[float, ...]:
        """The mm per voxel along every axis of a label map."""
        return self.spacing if self.slice_spacing is None else (self.slice_spacing, *self.spacing)

    def image(self, case: str) -> Image:
        """The prepared image ``[c, *spatial]`` of a case, memory-mapped, read-only."""
        return _mapped(self.folder / "images" / f"{case}.npy")

    def label(self, case: str) -> Label:
        """The prepared label map ``[*spatial]`` of a case, memory-mapped, read-only."""
        return _mapped(self.folder / "labels" / f"{case}.npy")

    def original_label(self, case: str) -> Label | None:
        """The label map before resampling, within the box that the case was cropped to: ``[*spatial]``, with axes in
        the order of ``label``, memory-mapped, read-only; ``originals`` has its spacing.

        None where ``label`` itself has that grid, and for training cases, which are not scored.
        """
        return _mapped(self.folder / "originals" / f"{case}.npy") if case in self.originals else None

    def shows_foreground(self, case: str) -> bool:
        """Whether any voxel of the case's prepared label map is of a foreground class."""
        label = self.label(case)
        return bool(((label > 0) & (label != IGNORED)).any())

    def backbone(self) -> Backbone:
        """The full-size backbone that fits the task."""
        return Backbone(
            dims=self.dims,
            in_channels=len(self.channels),
            out_channels=len(self.classes),
            widths=self.widths,
            strides=self.strides,
        )

    def to_json(self) -> dict[str, Any]:
        """The metadata, without the folder, as JSON values."""
        data = asdict(self)
        del data["folder"]
        return data

    @classmethod
    def from_json(cls, folder: Path, data: Mapping[str, Any]) -> Self:
        """The task of which ``data`` is ``to_json()``, read from JSON, in ``folder``. Raises TypeError or KeyError."""
        values = {name: as_tuples(data[name]) for name in (one.name for one in fields(cls)) if name != "folder"}
        values["splits"] = Splits(**{part: as_tuples(names) for part, names in data["splits"].items()})
        values["originals"] = {case: as_tuples(spacing) for case, spacing in data["originals"].items()}
        return cls(folder=folder, **values)


def as_tuples(value: Any) -> Any:
    """The value with all lists, as JSON has them, replaced by tuples."""
    return tuple(as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _mapped(file: Path) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file, memory-mapped, read-only. Raises ValueError where the file is none.

    It equals ``numpy.load(mmap_mode="r")``, whose overhead is most of the time of reading small cases.
    """
    with file.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        start = stream.tell()
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    count = math.prod(shape)
    return np.frombuffer(mapping, dtype, count, start).reshape(shape, order="F" if is_fortran else "C")
