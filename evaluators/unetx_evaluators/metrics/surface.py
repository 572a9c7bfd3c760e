"""Distances between the surfaces of two masks, and the scores made of them: HD95 and the surface Dice (NSD).

A mask's surface is its voxels with a face neighbour outside of it; beyond the image's border is outside. Every surface
voxel counts alike, whatever its area. So MONAI counts by default; DeepMind's surface-distance, and MONAI with
``use_subvoxels``, weight by area and give other numbers. Scipy is used rather than MONAI's metrics: the scores share
one pair of nearest-neighbour searches here, in float64, and nothing imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

Mask = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.float64]

DEFAULT_TOLERANCE_MM = 2.0
PERCENTILE = 95
_ROUNDING = 1e-9
"""Relative rounding error of distances, so that three steps of 0.1 mm are within 0.3 mm."""


@dataclass(frozen=True, slots=True, eq=False)
class SurfaceDistances:
    """Distances in mm from every surface voxel of one mask to the nearest surface voxel of the other."""

    from_truth: Distances
    from_prediction: Distances


def surface_distances(truth: Mask, prediction: Mask, spacing: Sequence[float]) -> SurfaceDistances:
    """The surface distances of two masks of one shape, with ``spacing`` in mm per voxel and axis.

    Raises ValueError where one of them is empty.
    """
    if not truth.any() or not prediction.any():
        raise ValueError("distances need a voxel in the truth and one in the prediction; one of them has none")
    t, p = mask_surface(truth), mask_surface(prediction)
    return SurfaceDistances(_nearest(t, p, spacing), _nearest(p, t, spacing))


def mask_surface(mask: Mask) -> Mask:
    """The voxels of a mask that have a face neighbour outside of it."""
    inner: Mask = binary_erosion(mask)
    return mask & ~inner


def hd95(distances: SurfaceDistances) -> float:
    """The larger 95th percentile of the two directions, in mm, interpolated between voxels."""
    return max(float(np.percentile(d, PERCENTILE)) for d in (distances.from_truth, distances.from_prediction))


def nsd(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """The normalised surface Dice: the share of both surfaces that lies within ``tolerance_mm`` of the other (Nikolov
    et al., J Med Internet Res 23(7), e26151, 2021)."""
    both = np.concatenate((distances.from_truth, distances.from_prediction))
    return float(np.mean(both <= tolerance_mm * (1 + _ROUNDING)))


def default_tolerance_mm(spacing: Sequence[float]) -> float:
    """The default tolerance of the NSD in mm.

    It is 2 mm, but at least the shortest edge of a voxel, below which only equality passes, and at most two of the
    longest, above which everything passes in an image of fine structures. Without known spacing it is 2 pixels.
    """
    return min(max(DEFAULT_TOLERANCE_MM, min(spacing)), 2 * max(spacing))


def _nearest(surface_from: Mask, surface_to: Mask, spacing: Sequence[float]) -> Distances:
    """Distances in mm from every voxel of one surface to the nearest of the other; voxels on both need no search."""
    distances = np.zeros(np.count_nonzero(surface_from))
    apart = ~surface_to[surface_from]
    if apart.any():
        mm = np.asarray(spacing, dtype=np.float64)
        tree = KDTree(np.argwhere(surface_to) * mm)
        distances[apart] = tree.query(np.argwhere(surface_from & ~surface_to) * mm)[0]
    return distances
