"""The thickness of a class's structures, which limits how coarse voxels may become.

It is computed from the inner distance, that of a voxel to the nearest one outside its class. In a slab of width w its
mean is w/4, so four times the mean is the width of sheets and membranes; of discs it is 2/3 of the diameter, of balls
1/2. It is a mean over voxels, and not the largest inscribed ball, which in a net of thin membranes is that of a knot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from unetx_evaluators.tasks.task import Label

LOW_QUANTILE = 0.1
"""Quantile of thicknesses that counts as the finest."""
SPECKS = 0.01
"""Share of a class's voxels in a case whose smallest components do not count as its finest, such as stray voxels of a
brush: to lose a share s of a class costs s / (2 - s) of its Dice, here half a percent at most. A share, and not a
number of voxels, keeps small lesions where there are no larger ones."""
MAX_VOXELS = 2**21
"""Number of voxels of a class's box in a case that are examined, 128 along each axis; of a larger box the part that
holds the most of the class. A distance transform of so many takes 0.4 s of one core. Thin structures are as thin in a
part, and those too thick for it allow coarser voxels than are ever needed."""

FAR = 1e6
"""Distance between slices, in longest voxel edges, by which no voxel is nearest to one of another slice."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Thickness:
    """The thickness of a class's structures in mm: of a sheet its width, of a disc 2/3, of a ball 1/2 of the
    diameter."""

    typical: float
    """Mean over the class's voxels; over cases the median."""
    finest: float
    """Tenth percentile over its connected components, without specks; over cases the tenth percentile of these."""


def class_thickness(
    label: Label, spacing: tuple[float, ...], n_classes: int, slice_axis: int | None = None
) -> tuple[Thickness | None, ...]:
    """The thickness of each class in one label map ``[*spatial]``; None for the background and for absent classes.

    Ignored voxels are outside, and so is everything beyond the image, which makes objects seem thinner and so keeps
    voxels finer. With a ``slice_axis`` every slice is measured by itself. Flat structures in coarse slices, few of them
    thick, seem thicker by up to two slices.
    """
    boxes = ndimage.find_objects(label, max_label=n_classes - 1)
    return (None, *(box and _of_mask(label[box] == index, spacing, slice_axis) for index, box in enumerate(boxes, 1)))


def over_cases(cases: list[Thickness]) -> Thickness | None:
    """The thickness of a class over all the cases that show it; None where none does."""
    if not cases:
        return None
    typical = np.median([case.typical for case in cases])
    return Thickness(float(typical), float(np.quantile([case.finest for case in cases], LOW_QUANTILE)))


def _of_mask(mask: Mask, spacing: tuple[float, ...], slice_axis: int | None) -> Thickness:
    """The thickness of the class in its box."""
    mask = _fullest_part(mask)
    sampling, neighbours = list(spacing), np.ones((3,) * mask.ndim, np.bool_)
    if slice_axis is not None:
        sampling[slice_axis] = FAR * max(spacing)
        neighbours.swapaxes(0, slice_axis)[[0, 2]] = False
    components = ndimage.label(mask, neighbours)[0][mask] - 1
    distance = ndimage.distance_transform_edt(mask, sampling=sampling)[mask]
    longest = max(n * mm for n, mm in zip(mask.shape, spacing, strict=True))
    inner = np.minimum(distance - min(sampling) / 2, longest / 2)  # more only where a part shows no outside
    sizes = np.bincount(components)
    widths = 4 * np.bincount(components, weights=inner) / sizes
    ascending = np.argsort(sizes, kind="stable")
    counted = ascending[np.cumsum(sizes[ascending]) > SPECKS * len(inner)]
    return Thickness(float(4 * inner.mean()), float(np.quantile(widths[counted], LOW_QUANTILE)))


def _fullest_part(mask: Mask) -> Mask:
    """The part of at most ``MAX_VOXELS`` with most of the mask, padded by a voxel on every side that is not cut."""
    if mask.size <= MAX_VOXELS:
        return np.pad(mask, 1)
    share = (MAX_VOXELS / mask.size) ** (1 / mask.ndim)
    for axis, n in enumerate(mask.shape):
        length = max(1, round(n * share))
        along = np.moveaxis(mask, axis, 0)
        until = np.concatenate([[0], np.cumsum([np.count_nonzero(plane) for plane in along])])
        held = until[length:] - until[:-length]
        fullest = np.flatnonzero(held == held.max())
        start = int(fullest[len(fullest) // 2])  # the middle one of equals shows most around the class
        part = along[start : start + length]
        outside = (int(start == 0), int(start + length == n))
        mask = np.moveaxis(np.pad(part, [outside] + [(0, 0)] * (mask.ndim - 1)), 0, axis)
    return mask
