"""From the shapes and spacings of the training cases to a patch and a network's levels.

After nnU-Net (Isensee et al., Nature Methods 18, 203-211, 2021; supplementary note 2):

- the patch starts as a block of equal extent in mm, is clipped to the median shape, and shrinks along the axis that
  is largest relative to the median shape until it fits the budget;
- an axis is halved from level to level while at least 4 voxels remain, and waits while its voxels are twice as long
  as those of the finest axis that can still be halved; alone, it needs 6 remaining voxels;
- the patch is a multiple of the total stride.

It departs from nnU-Net because a search trains hundreds of short proxies, many of them on CPUs: a fixed limit of
voxels stands where nnU-Net measures GPU memory; the patch has at most 128 voxels per axis in 2D and 48 in 3D; there are
at most 5 levels. Nothing is resampled: the median spacing serves the choice only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unetx_evaluators.evaluation import DataError

MIN_SIZE = 4
"""Voxels an axis keeps at the bottleneck."""
MAX_LEVELS = 5
MAX_AXIS = {2: 128, 3: 48}
MAX_VOXELS = {2: 128 * 128, 3: 32 * 48 * 32}

Strides = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What the training cases have in common, and what follows from it."""

    median_shape: tuple[int, ...]
    spacing: tuple[float, ...]
    """Median, mm per voxel and axis."""
    patch: tuple[int, ...]
    """Voxels; may exceed an image a little, which is then padded."""
    strides: Strides
    """Per level and axis; the first is all ones."""


def fingerprint(shapes: Sequence[Sequence[int]], spacings: Sequence[Sequence[float]]) -> Fingerprint:
    """Of training cases: their shapes in voxels and spacings in mm. Raises DataError when they are too small."""
    median_shape = tuple(int(n) for n in np.median(np.asarray(shapes), axis=0))
    spacing = tuple(float(mm) for mm in np.median(np.asarray(spacings), axis=0))
    patch, strides = choose_patch(median_shape, spacing)
    return Fingerprint(median_shape, spacing, patch, strides)


def choose_patch(shape: Sequence[int], spacing: Sequence[float]) -> tuple[tuple[int, ...], Strides]:
    """Patch and strides for a median shape (voxels) and spacing (mm). Raises DataError when no axis can be halved."""
    dims, finest = len(shape), min(spacing)
    extents = (max(1, round(MAX_AXIS[dims] * finest / mm)) for mm in spacing)
    patch = tuple(min(extent, n) for extent, n in zip(extents, shape, strict=True))
    while True:
        strides = choose_strides(patch, spacing)
        total = total_stride(strides)
        patch = tuple(math.ceil(n / s) * s for n, s in zip(patch, total, strict=True))
        if math.prod(patch) <= MAX_VOXELS[dims]:
            break
        patch = _shrunk(patch, total, shape)
    if len(strides) < 2:
        raise DataError(
            f"a U-Net needs images of at least {2 * MIN_SIZE} voxels along an axis ({3 * MIN_SIZE} if it is the only "
            f"one); the median image has {'x'.join(map(str, shape))}; enlarge the images or cut larger ones"
        )
    return patch, strides


def choose_strides(patch: Sequence[int], spacing: Sequence[float]) -> Strides:
    """Halve what can be halved, level by level."""
    size, mm = list(patch), list(spacing)
    strides = [(1,) * len(size)]
    while len(strides) < MAX_LEVELS:
        axes = _axes_to_halve(size, mm)
        if not axes:
            break
        strides.append(tuple(2 if axis in axes else 1 for axis in range(len(size))))
        size = [math.ceil(n / s) for n, s in zip(size, strides[-1], strict=True)]
        mm = [length * s for length, s in zip(mm, strides[-1], strict=True)]
    return tuple(strides)


def total_stride(strides: Strides) -> tuple[int, ...]:
    """Per axis, from the finest level to the bottleneck."""
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))


def _axes_to_halve(size: Sequence[int], mm: Sequence[float]) -> set[int]:
    large = {axis for axis, n in enumerate(size) if n >= 2 * MIN_SIZE}
    finest = min((mm[axis] for axis in large), default=0.0)
    ready = {axis for axis in large if mm[axis] < 2 * finest}
    alone_and_small = len(ready) == 1 and all(size[axis] < 3 * MIN_SIZE for axis in ready)
    return set() if alone_and_small else ready


def _shrunk(patch: Sequence[int], total: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """One total stride less along the axis that is largest relative to the median shape."""
    axis = max(
        (axis for axis in range(len(patch)) if patch[axis] > total[axis]), key=lambda axis: patch[axis] / shape[axis]
    )
    return tuple(n - total[axis] if a == axis else n for a, n in enumerate(patch))
