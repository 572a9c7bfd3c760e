"""Resampling to another grid of the same extent: images by cubic splines, label maps by the largest share of a voxel.

It follows nnU-Net's default resampling (Isensee et al., Nature Methods 18, 203-211, 2021; version 2). Along an axis
whose voxels are more than three times as long as those of the finest axis, neighbours are barely correlated: there the
nearest slice is taken, and each slice is resampled by itself. An array that already has the target shape is returned.

Images equal nnU-Net's to the bit. Label maps differ in one respect: nnU-Net assigns a voxel to a class whose share is
half or more, and else to the background. Here the class with the largest share has it, so that voxels where several
classes meet do not become background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from unetx_evaluators.tasks.task import IGNORED, Image, Label

ANISOTROPY = 3.0
"""Ratio of the longest to the shortest voxel edge above which the longest axis is resampled separately."""


def coarse_axis(spacing: Sequence[float], target: Sequence[float]) -> int | None:
    """The axis to resample separately from ``spacing`` to ``target`` (mm); None if there is none, or several."""
    for lengths in (spacing, target):
        longest = max(lengths)
        if longest > ANISOTROPY * min(lengths):
            axes = [axis for axis, mm in enumerate(lengths) if mm == longest]
            return axes[0] if len(axes) == 1 else None
    return None


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """The number of voxels per axis, at least one, at the spacing ``target`` (mm)."""
    return tuple(max(1, round(n * mm / new)) for n, mm, new in zip(shape, spacing, target, strict=True))


def resampled_image(image: Image, shape: tuple[int, ...], separate: int | None = None) -> Image:
    """One channel ``[*spatial]`` on a grid of ``shape``, within the range of its values.

    ``separate`` is the axis along which the nearest voxel is taken.
    """
    if image.shape == shape:
        return image
    if separate is None:
        return _splined(image, shape)
    in_plane = shape[:separate] + shape[separate + 1 :]
    wanted = nearest_voxels(image.shape[separate], shape[separate])
    planes = {index: _splined(image.take(index, axis=separate), in_plane) for index in np.unique(wanted).tolist()}
    return np.stack([planes[index] for index in wanted.tolist()], axis=separate)


def resampled_label(label: Label, shape: tuple[int, ...], separate: int | None = None) -> Label:
    """Label map ``[*spatial]`` on a grid of ``shape``: linear interpolation decides which class has most of a voxel.

    A voxel whose nearest one is ignored is ignored. ``separate`` is the axis along which the nearest voxel is taken.
    """
    if separate is not None:
        label = label.take(nearest_voxels(label.shape[separate], shape[separate]), axis=separate)
    if label.shape == shape:
        return label
    rest = np.ones(shape, dtype=np.float32)  # what no class has taken is background
    largest = np.zeros(shape, dtype=np.float32)
    result = np.zeros(shape, dtype=np.uint8)
    for index, box in enumerate(ndimage.find_objects(label)):
        if box is None:
            continue
        target, share = _share(label, index + 1, box, shape)
        rest[target] -= share
        if index + 1 != IGNORED:
            larger = (share >= largest[target]) & (share > 0)  # the last of equals, as in nnU-Net
            largest[target][larger] = share[larger]
            result[target][larger] = index + 1
    result[rest > largest] = 0
    nearest = label[np.ix_(*(nearest_voxels(n, m) for n, m in zip(label.shape, shape, strict=True)))]
    result[nearest == IGNORED] = IGNORED
    return result


def _splined(image: Image, shape: tuple[int, ...]) -> Image:
    if image.shape == shape:
        return image
    factors = [m / n for n, m in zip(image.shape, shape, strict=True)]
    zoomed: Image = ndimage.zoom(image, factors, order=3, mode="nearest", grid_mode=True)
    np.clip(zoomed, image.min(), image.max(), out=zoomed)  # splines overshoot at edges
    return zoomed


def nearest_voxels(n: int, m: int) -> npt.NDArray[np.intp]:
    """The nearest of ``n`` voxels for each of ``m`` over the same extent, by integers, so that ties are exact."""
    return (2 * np.arange(m) + 1) * n // (2 * m)


def _share(
    label: Label, value: int, box: tuple[slice, ...], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], npt.NDArray[np.float32]]:
    """The slices of the new voxels that may hold ``value``, and its share of each, by linear interpolation.

    Only the box that holds the value is interpolated, with a margin of a voxel, since many classes are small.
    """
    scales = [n / m for n, m in zip(label.shape, shape, strict=True)]
    source = tuple(
        slice(max(0, part.start - 1), min(n, part.stop + 1)) for part, n in zip(box, label.shape, strict=True)
    )
    target = tuple(
        slice(max(0, math.floor((part.start - 0.5) / scale - 0.5)), min(m, math.ceil((part.stop + 0.5) / scale + 0.5)))
        for part, scale, m in zip(box, scales, shape, strict=True)
    )
    share = ndimage.affine_transform(
        (label[source] == value).astype(np.float32),
        scales,
        offset=[
            (new.start + 0.5) * scale - 0.5 - old.start for old, new, scale in zip(source, target, scales, strict=True)
        ],
        output_shape=tuple(part.stop - part.start for part in target),
        order=1,
        mode="nearest",
    )
    return target, share
