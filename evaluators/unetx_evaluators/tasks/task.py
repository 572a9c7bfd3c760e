"""A task: a dataset made ready for training. Metadata here, arrays on disk; no torch.

A prepared task is a folder with ``task.json`` and, for every case, ``images/{name}.npy`` (float32, ``[c, *spatial]``,
normalised) and ``labels/{name}.npy`` (uint8, ``[*spatial]``, 0 is background). Workers memory-map the arrays.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from unetx_space.backbone import Backbone

Image = npt.NDArray[np.float32]
Label = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Splits:
    """Case names. A search reads train and selection; the verdict is spoken on held-out."""

    train: tuple[str, ...]
    selection: tuple[str, ...]
    held_out: tuple[str, ...]


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
    """mm per voxel and axis; ones where the data do not say."""
    patch: tuple[int, ...]
    """Training patch in voxels."""
    strides: tuple[tuple[int, ...], ...]
    """Per level and axis; the first is all ones."""
    splits: Splits
    split_seed: int
    digest: str
    """SHA-256 over the prepared arrays and this metadata: equal digests mean equal tasks."""

    def image(self, case: str) -> Image:
        """``[c, *spatial]``, memory-mapped, read-only."""
        return np.load(self.folder / "images" / f"{case}.npy", mmap_mode="r")  # type: ignore[no-any-return]

    def label(self, case: str) -> Label:
        """``[*spatial]``, memory-mapped, read-only."""
        return np.load(self.folder / "labels" / f"{case}.npy", mmap_mode="r")  # type: ignore[no-any-return]

    def backbone(self, *, base_width: int = 32) -> Backbone:
        """The full-size backbone that fits the task: widths double up to nnU-Net's 512 (2D) or 320 (3D)."""
        limit = 512 if self.dims == 2 else 320
        return Backbone(
            dims=self.dims,
            in_channels=len(self.channels),
            out_channels=len(self.classes),
            widths=tuple(min(limit, base_width * 2**level) for level in range(len(self.strides))),
            strides=self.strides,
        )

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        del data["folder"]
        return data

    def save(self) -> None:
        """Write ``task.json`` into the folder."""
        (self.folder / "task.json").write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """A task that was prepared before."""
        data = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        return cls(
            folder=folder,
            name=data["name"],
            source=data["source"],
            dims=data["dims"],
            channels=tuple(data["channels"]),
            classes=tuple(data["classes"]),
            spacing=tuple(data["spacing"]),
            patch=tuple(data["patch"]),
            strides=tuple(tuple(stride) for stride in data["strides"]),
            splits=Splits(**{part: tuple(names) for part, names in data["splits"].items()}),
            split_seed=data["split_seed"],
            digest=data["digest"],
        )
