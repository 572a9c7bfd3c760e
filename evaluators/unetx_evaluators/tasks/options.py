"""What a user may decide about a task; everything left alone is chosen from the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Normalisation = Literal["auto", "ct", "case"]
Machine = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOptions:
    """The user's word on how a dataset becomes a task. None means: decide from the data."""

    dims: Literal[2, 3] | None = None
    """2 takes the slices of volumes as a cheap proxy."""
    spacing: tuple[float, ...] | None = None
    """mm per voxel and axis, in the order of the source's axes (three for slices of volumes too)."""
    normalisation: Normalisation = "auto"
    """``ct``: by the foreground of all training cases. ``case``: every case by itself. ``auto``: by channel name."""
    patch: tuple[int, ...] | None = None
    """Voxels per axis of the network's input."""
    levels: int | None = None
    """Resolutions of the network; at most as many as the patch allows."""
    base_width: int | None = None
    """Channels at the finest level of the full-size network."""
    memory_gib: float = 8.0
    """What training the full-size U-Net may take."""
    batch_size: int | None = None
    """Patches that it trains on at a time; None: as many as a proxy."""
    seconds: float | None = None
    """What one short-proxy evaluation of the U-Net should take on one worker; infinity lets memory alone decide."""
    machine: Machine = "cpu"
    """What will train: decides what ``seconds`` buys."""

    split_seed: int = 0
    folds: int | None = None
    """Divide what are not test cases into so many folds; fold ``fold`` validates, the others train."""
    fold: int = 0
    group_by: str | None = None
    """A regular expression on case names (its first group, or the whole match), or ``FILE.csv:COLUMN``."""
    split: Path | None = None
    """JSON with ``train``, ``validation`` and ``test``: case names, every case once."""

    pseudonyms: bool = False
    """Cases get neutral names in everything but the source."""
    no_images: bool = False
    """No image content in artifacts and reports."""
