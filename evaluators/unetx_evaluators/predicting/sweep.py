"""Sliding-window inference in bounded memory, by a sweep along the longest axis of an image.

Windows lie where ``inference.py`` puts them, with the same weights. But once no later window covers a row (all voxels
of one index along the axis), its logits are final: they are resampled to the image's original voxels, and freed. At any
time the logits of no more rows are held than a window is long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unetx_evaluators.device import DeviceProfile, in_memory_format
from unetx_evaluators.inference import BATCH_VOXELS, gaussian_weight, window_starts
from unetx_evaluators.label_maps import SLAB_VALUES, interpolated, neighbours
from unetx_evaluators.training.cases import crop, pad_to, with_stack_axis

Logits = Callable[[Tensor], Tensor]
"""A function from windows ``[b, c, *patch]`` to logits ``[b, k, *patch]`` in float32."""


@dataclass(frozen=True)
class Rows:
    """The logits of some rows of an image."""

    first: int
    """Index of the first row along the axis of the sweep."""
    logits: Tensor
    """Logits ``[k, *spatial]`` of these rows."""


@torch.no_grad()
def sweep_logits(
    logits_of: Logits, image: Tensor, patch: tuple[int, ...], axis: int, device: DeviceProfile, *, overlap: float = 0.5
) -> Iterator[Rows]:
    """Yield the logits of all rows of an image ``[c, *spatial]`` along a spatial ``axis``, in order.

    Windows lie and are weighted as in ``inference.predict_logits``.
    """
    size = tuple(image.shape[1:])
    window = with_stack_axis(patch, len(size))
    padded = pad_to(image, window)
    whole = tuple(padded.shape[1:])
    margin = [(m - n) // 2 for m, n in zip(whole, size, strict=True)]  # pad_to puts the odd voxel behind
    starts = window_starts(whole, window, overlap)
    ends = [*starts[axis][1:], whole[axis]]
    strip: _Strip | None = None
    for start, end in zip(starts[axis], ends, strict=True):
        others = [own if a != axis else [start] for a, own in enumerate(starts)]
        for corner, logits in _windows(logits_of, padded, itertools.product(*others), window, patch, device):
            strip = strip or _Strip.empty(logits, window, whole, axis)
            strip.add(corner, logits)
        assert strip is not None
        first, last = max(start, margin[axis]), min(end, margin[axis] + size[axis])
        final = strip.pop_rows(end - start)
        if first < last:
            inside = [first - start if a == axis else low for a, low in enumerate(margin)]
            wanted = [last - first if a == axis else n for a, n in enumerate(size)]
            yield Rows(first - margin[axis], crop(final, inside, wanted))


def _windows(
    logits_of: Logits,
    padded: Tensor,
    corners: Iterator[tuple[int, ...]],
    window: tuple[int, ...],
    patch: tuple[int, ...],
    device: DeviceProfile,
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield each corner with the logits ``[k, *window]`` of its window; several go through the network together."""
    n = max(1, BATCH_VOXELS[device.device.type] // math.prod(patch))
    while some := list(itertools.islice(corners, n)):
        batch = torch.stack([crop(padded, corner, window).reshape(-1, *patch) for corner in some])
        for corner, logits in zip(some, logits_of(in_memory_format(batch.to(device.device))), strict=True):
            yield corner, logits.view(-1, *window)


class _Strip:
    """The weighted sums of logits over the rows of the current windows."""

    def __init__(self, sums: Tensor, weights: Tensor, axis: int, window: tuple[int, ...]) -> None:
        self._sums = sums
        self._weights = weights
        self._axis = axis
        self._window = window
        self._weight = gaussian_weight(window, sums.device)

    @classmethod
    def empty(cls, logits: Tensor, window: tuple[int, ...], whole: Sequence[int], axis: int) -> _Strip:
        size = [window[a] if a == axis else n for a, n in enumerate(whole)]
        return cls(logits.new_zeros((len(logits), *size)), logits.new_zeros(size), axis, window)

    def add(self, corner: Sequence[int], logits: Tensor) -> None:
        here = [0 if a == self._axis else at for a, at in enumerate(corner)]
        crop(self._sums, here, self._window).addcmul_(logits, self._weight)
        crop(self._weights, here, self._window).add_(self._weight)

    def pop_rows(self, n: int) -> Tensor:
        """Remove the first ``n`` rows, which are final, and return their logits; the others move to the front."""
        for tensor in (self._sums, self._weights):
            axis = self._axis + tensor.ndim - self._weights.ndim
            rest = tensor.shape[axis] - n
            if tensor is self._sums:
                final = tensor.narrow(axis, 0, n) / self._weights.narrow(self._axis, 0, n)
            tensor.narrow(axis, 0, rest).copy_(tensor.narrow(axis, n, rest).clone())
            tensor.narrow(axis, rest, n).zero_()
        return final


def resampled_rows(shape: tuple[int, ...], rows: Iterator[Rows], spatial: tuple[int, ...], axis: int) -> Iterator[Rows]:
    """Yield rows of logits on a grid of ``shape``, resampled from rows on the grid ``spatial`` of the same extent.

    They are interpolated as in ``resampled_label_map``, as soon as the rows that they lie between are there.
    """
    positions = [neighbours(n, m) for n, m in zip(spatial, shape, strict=True)]
    below, above, share = positions[axis]
    per_row = math.prod(max(pair) for a, pair in enumerate(zip(spatial, shape, strict=True)) if a != axis)
    pending: Tensor | None = None
    pending_from = done = 0
    for block in rows:
        joined = block.logits if pending is None else torch.cat([pending, block.logits], dim=axis + 1)
        end = block.first + block.logits.shape[axis + 1]
        ready = int((above < end).sum())
        step = max(1, 16 * SLAB_VALUES // (len(joined) * per_row))
        for first in range(done, ready, step):
            part = slice(first, min(ready, first + step))
            between = (below[part] - pending_from, above[part] - pending_from, share[part])
            slab = _interpolated(joined, axis, between)
            for other, along in enumerate(positions):
                if other != axis and spatial[other] != shape[other]:
                    slab = _interpolated(slab, other, along)
            yield Rows(first, slab)
        done = ready
        needed = min(end, int(below[done])) if done < len(below) else end
        pending = joined.narrow(axis + 1, needed - pending_from, end - needed).clone()
        pending_from = needed


def _interpolated(values: Tensor, axis: int, positions: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return interpolated(values, axis + 1, *(part.to(values.device) for part in positions))
