"""A case's truth and prediction, class by class, from which all metrics are computed; shared quantities are cached.

Voxels whose truth is IGNORED are outside of every class, in truth and prediction alike. So predictions there change
nothing, and an object that extends into them ends where they begin, in both, as at the image's border. MONAI's
``ignore_index`` does the same. Such a cut counts as surface; where it is long, distances look better than they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from unetx_evaluators.metrics.boundary import band_width
from unetx_evaluators.metrics.surface import Mask, SurfaceDistances, default_tolerance_mm, surface_distances
from unetx_evaluators.tasks.task import IGNORED

LabelMap = npt.NDArray[np.integer[Any]]

COUNTED_TOGETHER = 2**18
"""Number of voxels that are counted at once: their pairs of labels take 2 MiB, which caches hold."""


@dataclass(frozen=True)
class CaseComparison:
    """The label maps of a whole case, ignored voxels set to background, and the lengths that its metrics need."""

    truth: LabelMap
    prediction: LabelMap
    spacing: tuple[float, ...]
    """The mm per voxel and axis."""
    tolerance_mm: float
    """Largest distance that counts as none in the surface Dice, in mm."""
    n_classes: int

    @property
    def diagonal_mm(self) -> float:
        """The diagonal of the whole image in mm, which exceeds all distances between its voxels' centres."""
        return math.hypot(*(n * mm for n, mm in zip(self.truth.shape, self.spacing, strict=True)))

    @property
    def band(self) -> tuple[int, ...]:
        """The width in voxels per axis of the band of the boundary IoU."""
        return band_width(self.diagonal_mm, self.spacing)

    @cached_property
    def boxes(self) -> list[tuple[slice, ...] | None]:
        """The smallest box of each foreground class that holds it in both maps; None where neither shows it."""
        of_truth, of_prediction = (find_objects(labels, self.n_classes - 1) for labels in (self.truth, self.prediction))
        return [
            tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(t, p, strict=True))
            if t and p
            else t or p
            for t, p in zip(of_truth, of_prediction, strict=True)
        ]


@dataclass(frozen=True)
class ClassCounts:
    """Numbers of voxels of one class of a case."""

    n_true: int
    """Voxels of the class in the truth."""
    n_predicted: int
    """Voxels of the class in the prediction."""
    n_both: int
    """Voxels of the class in both."""


@dataclass(frozen=True)
class ClassComparison(ClassCounts):
    """One class of a case in truth and prediction."""

    case: CaseComparison
    label: int
    """The class's value in the label maps."""

    @cached_property
    def masks(self) -> tuple[Mask, Mask]:
        """The masks of the class in truth and prediction, within the box that holds both."""
        box = self.case.boxes[self.label - 1]
        assert box is not None
        return self.case.truth[box] == self.label, self.case.prediction[box] == self.label

    @cached_property
    def distances(self) -> SurfaceDistances:
        """Distances between the two surfaces, in mm. Raises ValueError where truth or prediction lacks the class."""
        return surface_distances(*self.masks, self.case.spacing)


def compare(
    truth: LabelMap,
    prediction: LabelMap,
    n_classes: int,
    spacing: Sequence[float],
    *,
    tolerance_mm: float | None = None,
) -> tuple[ClassComparison, ...]:
    """Compare classes 1 to ``n_classes`` - 1 of two label maps of one shape, ``[h, w]`` or ``[d, h, w]``.

    ``tolerance_mm`` is ``default_tolerance_mm(spacing)`` where it is None. Labels lie in 0..n_classes-1, 0 being the
    background; the truth may hold IGNORED. Raises ValueError on other labels, and on invalid shapes, spacing or
    tolerance.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth and prediction have one shape, got {truth.shape} and {prediction.shape}")
    if len(spacing) != truth.ndim or not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        raise ValueError(f"spacing is one positive length in mm for each of {truth.ndim} axes, got {tuple(spacing)}")
    tolerance = default_tolerance_mm(spacing) if tolerance_mm is None else tolerance_mm
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance_mm is a length in mm, 0 or more, got {tolerance_mm}")
    truth, prediction = without_ignored(truth, prediction)
    case = CaseComparison(truth, prediction, tuple(spacing), tolerance, n_classes)
    counts = voxel_counts(truth, prediction, n_classes)
    return tuple(
        ClassComparison(n_true, n_predicted, n_both, case, label)
        for label, (n_true, n_predicted, n_both) in enumerate(counts.T[1:].tolist(), start=1)
    )


def without_ignored(truth: LabelMap, prediction: LabelMap) -> tuple[LabelMap, LabelMap]:
    """Truth and prediction, set to background where the truth is IGNORED."""
    ignored = truth == IGNORED
    return (np.where(ignored, 0, truth), np.where(ignored, 0, prediction)) if ignored.any() else (truth, prediction)


def voxel_counts(truth: LabelMap, prediction: LabelMap, n_classes: int) -> npt.NDArray[np.int64]:
    """Voxels ``[3, k]`` of every class in the truth, in the prediction and in both; the truth must not hold IGNORED."""
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.size and not 0 <= labels.min() <= labels.max() < n_classes:
            raise ValueError(f"labels of the {name} lie in 0..{n_classes - 1}, got {labels.min()}..{labels.max()}")
    confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
    flat_truth, flat_prediction = truth.reshape(-1), prediction.reshape(-1)
    for first in range(0, truth.size, COUNTED_TOGETHER):
        part = slice(first, first + COUNTED_TOGETHER)
        pairs = flat_truth[part].astype(np.int64) * n_classes + flat_prediction[part]
        confusion += np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)
    return np.stack([confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()])
