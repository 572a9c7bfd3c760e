"""Every score of a case, class by class, from two label maps.

The conventions, for all scores alike:

- A class that truth and prediction both lack has no scores (None). One that only one of them shows scores 0, and the
  diagonal of the image in mm as its distances. Nothing is ever NaN or infinite, so no mean drops a failure in silence.
- Voxels whose truth is IGNORED are outside of every class, in truth and prediction alike. So what is predicted there
  changes nothing, and an object that runs into them ends where they begin, in both, as at the image's border. MONAI's
  ``ignore_index`` does the same. Such a cut counts as surface; where it is long, distances look better than they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.ndimage import find_objects

from unetx_evaluators.metrics.boundary import band_width, boundary_iou, diagonal_mm
from unetx_evaluators.metrics.class_metrics import ClassMetrics
from unetx_evaluators.metrics.overlap import LabelMap, dice_per_class, without_ignored
from unetx_evaluators.metrics.surface import Mask, assd, default_tolerance_mm, hd95, nsd, surface_distances
from unetx_evaluators.metrics.targets import find_targets

Box = tuple[slice, ...]


def case_metrics(
    truth: LabelMap,
    prediction: LabelMap,
    class_names: Sequence[str],
    spacing: Sequence[float],
    *,
    tolerance_mm: float | None = None,
) -> tuple[ClassMetrics, ...]:
    """The scores of classes 1 to k-1, for two label maps of one shape, ``[h, w]`` or ``[d, h, w]``.

    ``class_names`` are the names by label value, the background's first. ``spacing`` is mm per voxel and axis.
    ``tolerance_mm`` is the NSD's, ``default_tolerance_mm(spacing)`` where it is None. Labels lie in 0..k-1; IGNORED may
    stand in the truth. Raises ValueError when they do not, or when shapes, spacing or tolerance make no sense.
    """
    scale = _scale(truth.shape, spacing, tolerance_mm)
    truth, prediction = without_ignored(truth, prediction)
    dice = dice_per_class(truth, prediction, len(class_names))
    in_truth, in_prediction = (find_objects(labels, max_label=len(class_names) - 1) for labels in (truth, prediction))
    metrics = []
    for index, name in enumerate(class_names[1:]):
        box = _union(in_truth[index], in_prediction[index])
        if box is None:
            metrics.append(ClassMetrics(name, False, False, None, None, None, None, None, targets=()))
        else:
            masks = (truth[box] == index + 1, prediction[box] == index + 1)
            metrics.append(_class_metrics(name, dice[index], *masks, scale))
    return tuple(metrics)


@dataclass(frozen=True, slots=True)
class _Scale:
    """What the whole image says about each of its classes."""

    spacing: tuple[float, ...]
    tolerance_mm: float
    penalty_mm: float
    band: tuple[int, ...]
    """Voxels per axis."""


def _scale(shape: tuple[int, ...], spacing: Sequence[float], tolerance_mm: float | None) -> _Scale:
    if len(spacing) != len(shape) or not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        raise ValueError(f"spacing is one positive length in mm for each of {len(shape)} axes, got {tuple(spacing)}")
    tolerance = default_tolerance_mm(spacing) if tolerance_mm is None else tolerance_mm
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance_mm is a length in mm, 0 or more, got {tolerance_mm}")
    return _Scale(tuple(spacing), tolerance, diagonal_mm(shape, spacing), band_width(shape, spacing))


def _class_metrics(name: str, dice: float | None, truth: Mask, prediction: Mask, scale: _Scale) -> ClassMetrics:
    """Of a class that at least one of the two masks shows."""
    in_truth, in_prediction = bool(truth.any()), bool(prediction.any())
    targets = find_targets(truth, prediction)
    if not (in_truth and in_prediction):
        miss = scale.penalty_mm
        return ClassMetrics(name, in_truth, in_prediction, dice, miss, miss, 0.0, 0.0, targets)
    distances = surface_distances(truth, prediction, scale.spacing)
    return ClassMetrics(
        class_name=name,
        in_truth=True,
        in_prediction=True,
        dice=dice,
        hd95_mm=hd95(distances),
        assd_mm=assd(distances),
        nsd=nsd(distances, scale.tolerance_mm),
        boundary_iou=boundary_iou(truth, prediction, scale.band),
        targets=targets,
    )


def _union(a: Box | None, b: Box | None) -> Box | None:
    """The smallest box that holds both. Outside of it a class has no voxel, and so neither surface nor band."""
    if a is None or b is None:
        return a or b
    return tuple(slice(min(s.start, t.start), max(s.stop, t.stop)) for s, t in zip(a, b, strict=True))
