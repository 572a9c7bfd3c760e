"""How thick a class's structures are, which says how coarse voxels may become before they vanish.

From the inner distance, that of a voxel to the nearest one outside its class. In a slab of width w its mean is w/4, so
four times the mean is the width of sheets and membranes; of discs it is 2/3 of the diameter, of balls 1/2. A mean over
voxels, not the largest inscribed ball, because in a net of thin membranes the thickest knot would decide that one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from unetx_evaluators.tasks.task import Label

LOW_QUANTILE = 0.1
"""The finest of many."""
SPECKS = 0.01
"""Components that together hold no more of a class's voxels in a case do not count as its finest: stray voxels of a
brush are of that kind, and to lose a share s of a class costs s / (2 - s) of its Dice, here half a percent at most. So
small lesions count wherever they are all there is; a number of voxels below which nothing counts would not know them
from stray ones."""
MAX_VOXELS = 2**21
"""Of a class's box in a case that are looked at, 128 along each axis; of a larger box the part that holds the most of
the class. A distance transform of so many takes 0.4 s of one core. What is thin is as thin in a part, and what is too
thick for the part allows coarser voxels than anybody needs."""

FAR = 1e6
"""Longest voxels that slices are taken to be apart, so that none is ever nearest to another."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Thickness:
    """Of a class's structures, in mm: of a sheet its width, of a disc 2/3 and of a ball 1/2 of the diameter."""

    typical: float
    """By the class's voxels."""
    finest: float
    """The tenth percentile of its connected components, specks left out; over cases the tenth percentile of these."""


def class_thickness(
    label: Label, spacing: tuple[float, ...], n_classes: int, slice_axis: int | None = None
) -> tuple[Thickness | None, ...]:
    """By class, in one label map ``[*spatial]``; None for the background and for classes that are not there.

    Ignored voxels are outside, and so is everything beyond the image: what is known of an object ends there, and one
    that seems thinner keeps finer voxels. With a ``slice_axis`` every slice is looked at by itself. What lies flat in
    coarse slices, few of them thick, seems thicker than it is by up to two of them.
    """
    boxes = ndimage.find_objects(label, max_label=n_classes - 1)
    return (None, *(box and _of_mask(label[box] == index, spacing, slice_axis) for index, box in enumerate(boxes, 1)))


def over_cases(cases: list[Thickness]) -> Thickness | None:
    """Of a class in all the cases that show it; None where none does."""
    if not cases:
        return None
    typical = np.median([case.typical for case in cases])
    return Thickness(float(typical), float(np.quantile([case.finest for case in cases], LOW_QUANTILE)))


def _of_mask(mask: Mask, spacing: tuple[float, ...], slice_axis: int | None) -> Thickness:
    """Of the class in its box."""
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
    """At most ``MAX_VOXELS`` of it, and a voxel of outside wherever nothing is cut away."""
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
