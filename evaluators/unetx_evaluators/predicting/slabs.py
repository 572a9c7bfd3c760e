"""Preparation of an image that is too large to be held in memory several times, slab by slab along its longest axis.

``preprocessing.prepared_image`` holds each channel in 64 bits, once or twice. Here that holds for a slab alone, and the
result is a memory-mapped file where it is larger than ``IN_MEMORY_BYTES``. The influence of a voxel on cubic splines
falls off exponentially: with ``SPLINE_REACH`` voxels around a slab they differ by less than float rounding.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from unetx_evaluators.tasks.fingerprint import CaseFacts
from unetx_evaluators.tasks.preprocessing import (
    ChannelNormalisation,
    Preparation,
    prepared_image,
    resampling_of,
    shift_and_scale,
    shifted,
)
from unetx_evaluators.tasks.resampling import nearest_voxels
from unetx_evaluators.tasks.task import Image

SLAB_VOXELS = 2**25
"""Number of voxels of a channel in a slab: 256 MiB in 64 bits."""
IN_MEMORY_BYTES = 4 * 2**30
"""Size from which on a prepared image is a memory-mapped file."""
SPLINE_REACH = 32
"""Voxels around a slab; a sample's weight falls by a factor of 0.27 per voxel, here below 1e-18."""

Mask = npt.NDArray[np.bool_]


def prepare_in_slabs(
    image: Image, facts: CaseFacts, preparation: Preparation, *, slab_voxels: int = SLAB_VOXELS
) -> Image:
    """``preprocessing.prepared_image``, in slabs if the image has more than ``slab_voxels`` voxels, before or after."""
    shape, separate = resampling_of(facts, preparation)
    if max(math.prod(facts.cropped_shape), math.prod(shape)) <= slab_voxels:
        return prepared_image(image, facts, preparation)
    cropped = image[:, *facts.crop]
    inside = ndimage.binary_fill_holes((cropped != 0).any(axis=0)) if preparation.is_masked else None
    result = _empty_image((len(image), *shape))
    for channel, how, target in zip(cropped, preparation.channels, result, strict=True):
        _fill(target, channel, how, inside, separate, slab_voxels)
    axis = preparation.slice_axis or 0
    return np.moveaxis(result, axis + 1, 1)


def _empty_image(shape: tuple[int, ...]) -> Image:
    """An uninitialised image, in memory or in a file without a name that vanishes with the array."""
    if 4 * math.prod(shape) <= IN_MEMORY_BYTES:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


def _fill(
    target: Image,
    channel: Image,
    how: ChannelNormalisation,
    inside: Mask | None,
    separate: int | None,
    slab_voxels: int,
) -> None:
    """Normalise and resample the channel into ``target``."""
    shift, scale = _shift_and_scale(channel, how, inside, slab_voxels)
    shape, axis = target.shape, int(np.argmax(target.shape))
    ratio = channel.shape[axis] / shape[axis]
    per_row = max(math.prod(shape) // shape[axis], math.ceil(channel.size / channel.shape[axis] * ratio))
    step = max(1, slab_voxels // per_row)
    lowest, highest = _Extremes(np.minimum, channel, separate), _Extremes(np.maximum, channel, separate)
    for low in range(0, shape[axis], step):
        high = min(shape[axis], low + step)
        first = max(0, math.floor(low * ratio) - SPLINE_REACH)
        last = min(channel.shape[axis], math.ceil(high * ratio) + SPLINE_REACH)
        rows = _along(axis, first, last)
        part = _normalised(channel[rows], how, shift, scale, None if inside is None else inside[rows])
        for extremes in (lowest, highest):
            extremes.add(part, slice(first, last) if separate == axis else slice(None))
        target[_along(axis, low, high)] = _resampled(part, first, channel.shape, shape, axis, (low, high), separate)
    low_ends, high_ends = lowest.of(shape), highest.of(shape)
    for low in range(0, shape[axis], step):  # splines overshoot at edges
        rows = _along(axis, low, low + step)
        ends = [one[rows] if separate == axis else one for one in (low_ends, high_ends)]
        np.clip(target[rows], *ends, out=target[rows])


class _Extremes:
    """The lowest or highest value of a whole array, or of each of its slices along ``separate``."""

    def __init__(self, extreme: np.ufunc, whole: Image, separate: int | None) -> None:
        self._extreme = extreme
        self._separate = separate
        worst = np.inf if extreme is np.minimum else -np.inf
        self._values = np.full(1 if separate is None else whole.shape[separate], worst, np.float32)

    def add(self, part: Image, slices: slice) -> None:
        others = tuple(axis for axis in range(part.ndim) if axis != self._separate)
        extreme = self._extreme.reduce(part, axis=others)
        self._values[slices] = self._extreme(self._values[slices], extreme)

    def of(self, shape: tuple[int, ...]) -> Image:
        """The extremes for an array of ``shape``, whose slices have those of the nearest slices of the whole."""
        if self._separate is None:
            return self._values.reshape((1,) * len(shape))
        nearest = nearest_voxels(len(self._values), shape[self._separate])
        along = [-1 if axis == self._separate else 1 for axis in range(len(shape))]
        return self._values[nearest].reshape(along)


def _normalised(part: Image, how: ChannelNormalisation, shift: float, scale: float, inside: Mask | None) -> Image:
    values = part.astype(np.float64)
    if how.scheme == "ct":
        np.clip(values, how.low, how.high, out=values)
    return shifted(values, how, shift, scale, inside)


def _resampled(
    part: Image,
    first: int,
    whole: tuple[int, ...],
    shape: tuple[int, ...],
    axis: int,
    rows: tuple[int, int],
    separate: int | None,
) -> Image:
    """The rows ``rows`` along ``axis`` of an array of ``shape``, resampled from one of shape ``whole``, of which
    ``part`` holds the rows from ``first`` on.

    Along ``separate`` the nearest voxels are taken, and each slice there is resampled by itself.
    """
    if separate is not None:
        nearest = nearest_voxels(whole[separate], shape[separate])
        nearest = nearest[slice(*rows)] - first if separate == axis else nearest
        rest = tuple(a for a in range(len(shape)) if a != separate)
        inner = partial(
            _resampled,
            first=first,
            whole=tuple(whole[a] for a in rest),
            shape=tuple(shape[a] for a in rest),
            axis=-1 if separate == axis else rest.index(axis),
            rows=rows,
            separate=None,
        )
        planes = {index: inner(part.take(index, axis=separate)) for index in np.unique(nearest).tolist()}
        return np.stack([planes[index] for index in nearest.tolist()], axis=separate)
    if whole == shape:
        low, high = (0, 0) if axis < 0 else rows
        return part if axis < 0 else part[_along(axis, low - first, high - first)]
    scales = [n / m for n, m in zip(whole, shape, strict=True)]
    begins = [rows[0] if a == axis else 0 for a in range(len(shape))]
    offsets = [
        (begin + 0.5) * scale - 0.5 - (first if a == axis else 0)
        for a, (begin, scale) in enumerate(zip(begins, scales, strict=True))
    ]
    size = tuple(rows[1] - rows[0] if a == axis else m for a, m in enumerate(shape))
    resampled: Image = ndimage.affine_transform(part, scales, offsets, size, order=3, mode="nearest")
    return resampled


def _shift_and_scale(
    channel: Image, how: ChannelNormalisation, inside: Mask | None, slab_voxels: int
) -> tuple[float, float]:
    """``preprocessing.shift_and_scale`` of the whole region, with sums taken slab by slab."""
    if how.scheme not in ("case", "range"):
        return shift_and_scale(np.empty(0), how)

    def regions() -> Iterator[npt.NDArray[np.float64]]:
        step = max(1, slab_voxels // max(1, channel[0].size))
        for low in range(0, len(channel), step):
            part = channel[low : low + step]
            if how.masked and inside is not None:
                part = part[inside[low : low + step]]
            if part.size:
                yield part.astype(np.float64)

    parts = [(part.size, float(part.sum()), float(part.min()), float(part.max())) for part in regions()]
    n = sum(size for size, *_ in parts)
    low, high = min((one[2] for one in parts), default=0.0), max((one[3] for one in parts), default=0.0)
    if how.scheme == "range" or low == high:
        return low, (high - low or 1.0) if how.scheme == "range" else 1.0
    mean = math.fsum(one[1] for one in parts) / n
    return mean, math.sqrt(math.fsum(float(((part - mean) ** 2).sum()) for part in regions()) / n)


def _along(axis: int, low: int, high: int) -> tuple[slice, ...]:
    """The index of some rows of an array along an axis."""
    return (*[slice(None)] * axis, slice(low, high))
