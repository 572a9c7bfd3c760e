"""Distances between the surfaces of two masks, and the scores made of them: HD95 and the surface Dice (NSD).

A mask's surface is its voxels with a face neighbour outside of it; beyond the image's border is outside. Every surface
voxel counts alike, whatever area it stands for. So says MONAI by default; DeepMind's surface-distance, and MONAI with
``use_subvoxels``, weigh areas and give other numbers. Scipy does the work rather than MONAI's metrics: the scores
share one pair of nearest-neighbour searches here, in float64, and nothing imports torch.
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
"""Relative: three steps of 0.1 mm are 0.3 mm."""


@dataclass(frozen=True, slots=True, eq=False)
class SurfaceDistances:
    """mm from every surface voxel of one mask to the nearest of the other's."""

    from_truth: Distances
    from_prediction: Distances


def surface_distances(truth: Mask, prediction: Mask, spacing: Sequence[float]) -> SurfaceDistances:
    """Of two masks of one shape, ``spacing`` in mm per voxel and axis. Raises ValueError when one of them is empty."""
    if not truth.any() or not prediction.any():
        raise ValueError("distances need a voxel in the truth and one in the prediction; one of them has none")
    t, p = surface(truth), surface(prediction)
    return SurfaceDistances(_nearest(t, p, spacing), _nearest(p, t, spacing))


def surface(mask: Mask) -> Mask:
    """The voxels of a mask that have a face neighbour outside of it."""
    inner: Mask = binary_erosion(mask)
    return mask & ~inner


def hd95(distances: SurfaceDistances) -> float:
    """The larger of the two 95th percentiles, in mm; percentiles between two voxels are interpolated."""
    return max(float(np.percentile(d, PERCENTILE)) for d in (distances.from_truth, distances.from_prediction))


def nsd(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Normalised surface Dice (Nikolov et al., J Med Internet Res 23(7), e26151, 2021): the share of both surfaces that
    lies within ``tolerance_mm`` of the other.
    """
    both = np.concatenate((distances.from_truth, distances.from_prediction))
    return float(np.mean(both <= tolerance_mm * (1 + _ROUNDING)))


def default_tolerance_mm(spacing: Sequence[float]) -> float:
    """The NSD's tolerance where nobody asks for another.

    2 mm, but never under the shortest edge of a voxel, for less can only ask for equality, nor over two of the longest,
    for in an image of finer things everything would pass. So it is 2 pixels in an image without known spacing.
    """
    return min(max(DEFAULT_TOLERANCE_MM, min(spacing)), 2 * max(spacing))


def _nearest(surface_from: Mask, surface_to: Mask, spacing: Sequence[float]) -> Distances:
    """mm from every voxel of one surface to the nearest of the other; voxels that lie on both need no search."""
    distances = np.zeros(np.count_nonzero(surface_from))
    apart = ~surface_to[surface_from]
    if apart.any():
        mm = np.asarray(spacing, dtype=np.float64)
        tree = KDTree(np.argwhere(surface_to) * mm)
        distances[apart] = tree.query(np.argwhere(surface_from & ~surface_to) * mm)[0]
    return distances
