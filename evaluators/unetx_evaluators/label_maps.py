"""From logits to label maps, on the grid of the network's input or on the original grid of the case."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from unetx_evaluators.metrics import LabelMap

SLAB_VALUES = 2**18
"""Number of logits that are interpolated together, so that caches hold them whatever the volume and its classes."""


def label_map(logits: Tensor) -> Tensor:
    """The class of the largest logit, uint8 ``[*spatial]`` from ``[k, *spatial]``; the first of equals.

    It goes class by class, which on a CPU is at least three times as fast as torch's argmax over the first axis.
    """
    largest = logits[0].clone()
    labels = torch.zeros_like(largest, dtype=torch.uint8)
    for index, of_class in enumerate(logits[1:], start=1):
        labels.masked_fill_(of_class > largest, index)
        torch.maximum(largest, of_class, out=largest)
    return labels


def resampled_label_map(shape: tuple[int, ...], logits: Tensor, labels: Tensor) -> LabelMap:
    """The label map on another grid of the same extent, uint8 ``[*shape]``, from ``logits[k, *spatial]``.

    Logits are interpolated linearly along every axis, between the centres of voxels, as in ``tasks/resampling.py``: the
    same as torch's ``interpolate(..., align_corners=False)`` of the whole. Along an axis of equal length they are not:
    a stack of slices is interpolated slice by slice. ``labels`` is ``label_map(logits)``; only the box that holds its
    foreground is computed, since between background voxels lies background.
    """
    result = np.zeros(shape, dtype=np.uint8)
    if not labels.any():
        return result
    boxes, axes = [], []
    for axis, (n, m) in enumerate(zip(logits.shape[1:], shape, strict=True)):
        others = [other for other in range(labels.ndim) if other != axis]
        first, last = labels.amax(dim=others).nonzero()[[0, -1], 0].tolist()
        below, above, share = neighbours(n, m)
        chosen = ((above >= first) & (below <= last)).nonzero()[:, 0]
        boxes.append(slice(int(chosen[0]), int(chosen[-1]) + 1) if len(chosen) else slice(0, 0))
        axes.append([part[boxes[-1]].to(logits.device) for part in (below, above, share)])
    inner = result[tuple(boxes)]
    rows_together = max(1, SLAB_VALUES // max(1, len(logits) * math.prod(inner.shape[1:])))
    for first_row in range(0, len(inner), rows_together):
        rows = slice(first_row, first_row + rows_together)
        slab = interpolated(logits, 1, *(part[rows] for part in axes[0]))
        for axis, parts in enumerate(axes[1:], start=2):
            slab = interpolated(slab, axis, *parts)
        inner[rows] = label_map(slab).cpu().numpy()
    return result


def interpolated(values: Tensor, axis: int, below: Tensor, above: Tensor, share: Tensor) -> Tensor:
    """Linear interpolation along an axis: ``share`` is the weight of the voxels ``above``, the rest that of
    ``below``."""
    weight = share.view(-1, *[1] * (values.ndim - axis - 1))
    return torch.lerp(values.index_select(axis, below), values.index_select(axis, above), weight)


def neighbours(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two of ``n`` voxels around the centre of each of ``m`` over the same extent, and the weight of the second."""
    at = ((torch.arange(m, dtype=torch.float64) + 0.5) * n / m - 0.5).clamp(0, n - 1)
    below = at.floor().long()
    return below, (below + 1).clamp_max(n - 1), (at - below).float()
