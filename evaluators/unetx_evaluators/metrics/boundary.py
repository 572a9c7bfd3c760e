"""Boundary IoU: how well two masks agree within a narrow band inside their contours.

Cheng et al., Boundary IoU (CVPR 2021, arXiv 2103.16562). Their code erodes with a square of 3 x 3 pixels, once for each
pixel of the band's width, and what lies beyond the image's border is outside. Ours is the same in 2D with equal
spacing; in 3D the square is a cube, and where spacings differ the width is in mm, with at least one voxel per axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import minimum_filter

from unetx_evaluators.metrics.surface import Mask

SHARE = 0.02
"""Width of the band as a share of the image's diagonal, as in the paper."""


def band_width(diagonal_mm: float, spacing: Sequence[float]) -> tuple[int, ...]:
    """The band's width in voxels per axis, for an image of that diagonal and ``spacing`` mm per voxel."""
    return tuple(max(1, round(SHARE * diagonal_mm / mm)) for mm in spacing)


def boundary_iou(truth: Mask, prediction: Mask, width: Sequence[int]) -> float:
    """The IoU |T∩P| / |T∪P| of the inner bands of two masks, ``width`` voxels wide per axis; one must not be empty."""
    t, p = _inner_band(truth, width), _inner_band(prediction, width)
    return float(np.count_nonzero(t & p) / np.count_nonzero(t | p))


def _inner_band(mask: Mask, width: Sequence[int]) -> Mask:
    """The voxels that an erosion by a box removes; a minimum filter is that erosion, axis by axis."""
    size = [2 * w + 1 for w in width]
    inner: Mask = minimum_filter(mask, size=size, mode="constant", cval=0)
    return mask & ~inner
