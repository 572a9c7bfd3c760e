"""The options of a task; those that the user does not set are chosen from the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Normalisation = Literal["auto", "ct", "case"]
Machine = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOptions:
    """The options by which a dataset becomes a task; None: chosen from the data."""

    dims: Literal[2, 3] | None = None
    """Dimensions of the network; 2 uses the slices of volumes as a cheap proxy."""
    spacing: tuple[float, ...] | None = None
    """Target spacing in mm per voxel, in the order of the source's axes (three for slices of volumes too)."""
    normalisation: Normalisation = "auto"
    """``ct``: by the foreground of all training cases. ``case``: every case by itself. ``auto``: by channel name."""
    patch: tuple[int, ...] | None = None
    """Voxels per axis of the network's input."""
    levels: int | None = None
    """Number of resolutions of the network; at most as many as the patch allows."""
    base_width: int | None = None
    """Channels at the finest level of the full-size network."""
    memory_gib: float = 8.0
    """Memory target for training the full-size U-Net."""
    batch_size: int | None = None
    """Patches per step of the full-size U-Net; None: as many as for a proxy."""
    seconds: float | None = None
    """Time target for one short-proxy evaluation of the U-Net on one worker; with infinity only memory counts."""
    machine: Machine = "cpu"
    """The kind of device that will train, for which ``seconds`` is meant."""

    split_seed: int = 0
    folds: int | None = None
    """Number of folds of cross-validation over all but the test cases; ``fold`` validates, the others train."""
    fold: int = 0
    group_by: str | None = None
    """A regular expression on case names (its first group, or the whole match), or ``FILE.csv:COLUMN``."""
    split: Path | None = None
    """A JSON file with ``train``, ``validation`` and ``test``: case names, every case once."""

    pseudonyms: bool = False
    """Whether cases get neutral names everywhere but in the source."""
    no_images: bool = False
    """Whether artifacts and reports hold no image content."""
