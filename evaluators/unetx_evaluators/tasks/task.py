"""A task: a dataset made ready for training. Metadata here, arrays on disk; no torch.

Its folder holds for every case ``images/{name}.npy`` (float32, ``[c, *spatial]``, normalised) and
``labels/{name}.npy`` (uint8, ``[*spatial]``, 0 is background, 255 is ignored). Workers memory-map the arrays. Where
preparing changed the grid of a case that is scored, ``originals/{name}.npy`` holds its label map as it was drawn.

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
"""The label of voxels that neither train nor count."""
MAX_CLASSES = 255
"""Labels are kept as uint8, and one value is ``IGNORED``."""

Image = npt.NDArray[np.float32]
Label = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Splits:
    """Case names. A search reads train and validation; the verdict is spoken on test cases."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """What training needs to know. ``folder`` is where it was prepared; it moves with the file."""

    folder: Path
    name: str
    source: str
    """Where the data came from, for people: a layout and a path, or the demo."""
    dims: Literal[2, 3]
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    """Names by label value; ``classes[0]`` is the background."""
    spacing: tuple[float, ...]
    """mm per voxel and axis of the network's input, all cases alike; ones where the data do not say."""
    patch: tuple[int, ...]
    """Training patch in voxels."""
    strides: tuple[tuple[int, ...], ...]
    """Per level and axis; the first is all ones."""
    widths: tuple[int, ...]
    """Channels per level of the full-size network."""
    splits: Splits
    digest: str
    """SHA-256 over the prepared arrays and this metadata: equal digests mean equal tasks."""
    digests: Mapping[str, str] = field(default_factory=dict, hash=False)
    """SHA-256 of its images, its masks and its split, to tell what differs where ``digest`` does."""
    slice_spacing: float | None = None
    """mm from slice to slice of a stacked task; None for any other."""
    ignores: bool = False
    """Whether label maps hold ``IGNORED``."""
    choices: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Everything that was chosen on the way, by rule or by the user, with its reason; JSON values."""
    max_steps: int | None = None
    """Steps of a proxy of the U-Net that the time target allows; None: those of the default budget."""
    alternatives: tuple[tuple[float, ...], ...] = ()
    """Voxel sizes (mm along the source's axes) between which only training can decide, the task's own last; none where
    the rules did."""
    no_images: bool = False
    """Whether the user wants no image content in artifacts and reports."""
    originals: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    """The cases whose original label map is kept, and its mm per voxel and axis; of validation and test cases those
    whose grid preparing changed."""

    @property
    def stacked(self) -> bool:
        """Whether a case is a stack of slices."""
        return self.slice_spacing is not None

    @property
    def label_spacing(self) -> tuple[float, ...]:
        """mm per voxel along every axis of a label map."""
        return self.spacing if self.slice_spacing is None else (self.slice_spacing, *self.spacing)

    def image(self, case: str) -> Image:
        """``[c, *spatial]``, memory-mapped, read-only."""
        return _mapped(self.folder / "images" / f"{case}.npy")

    def label(self, case: str) -> Label:
        """``[*spatial]``, memory-mapped, read-only."""
        return _mapped(self.folder / "labels" / f"{case}.npy")

    def original_label(self, case: str) -> Label | None:
        """The label map as it was drawn, within the box that the case was cropped to: ``[*spatial]``, the axes in the
        order of ``label``, memory-mapped, read-only; ``originals`` has its spacing.

        None where ``label`` itself has that grid, and for training cases, which nobody scores.
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
        data = asdict(self)
        del data["folder"]
        return data

    @classmethod
    def from_json(cls, folder: Path, data: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave, after a trip through JSON. Raises TypeError or KeyError where it is none."""
        values = {name: as_tuples(data[name]) for name in (one.name for one in fields(cls)) if name != "folder"}
        values["splits"] = Splits(**{part: as_tuples(names) for part, names in data["splits"].items()})
        values["originals"] = {case: as_tuples(spacing) for case, spacing in data["originals"].items()}
        return cls(folder=folder, **values)


def as_tuples(value: Any) -> Any:
    """Lists, as JSON has them, and lists in them as tuples."""
    return tuple(as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _mapped(file: Path) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file, memory-mapped, read-only. Raises ValueError where the file is none.

    As ``numpy.load(mmap_mode="r")``, without what that spends on generality: for small cases most of the reading.
    """
    with file.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        start = stream.tell()
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    count = math.prod(shape)
    return np.frombuffer(mapping, dtype, count, start).reshape(shape, order="F" if is_fortran else "C")
