"""Masks and label maps for the tests of metrics, and MONAI's answers about them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from scipy.ndimage import gaussian_filter

from unetx_evaluators.metrics import LabelMap, case_scores, compare

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def boxes(shape: tuple[int, ...], *corners: tuple[int, ...], size: int) -> Mask:
    """Squares or cubes of ``size`` voxels from the given corners on."""
    mask = np.zeros(shape, dtype=bool)
    for corner in corners:
        mask[tuple(slice(c, c + size) for c in corner)] = True
    return mask


def blobs(shape: tuple[int, ...], seed: int, n_classes: int = 2, noise_voxels: float = 2.0) -> Labels:
    """Smooth random regions of every class, as a network might draw them."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.normal(size=shape), noise_voxels) for _ in range(n_classes)]
    labels: Labels = np.argmax(fields, axis=0).astype(np.uint8)
    return labels


def disturbed(labels: Labels, n_classes: int, seed: int) -> Labels:
    """The same regions with wavering outlines and some specks."""
    rng = np.random.default_rng(seed)
    fields = [
        gaussian_filter((labels == c).astype(float), 1.0) + gaussian_filter(rng.normal(size=labels.shape), 1.5)
        for c in range(n_classes)
    ]
    drawn: Labels = np.argmax(fields, axis=0).astype(np.uint8)
    return drawn


def one_hot(labels: npt.NDArray[Any], n_classes: int) -> torch.Tensor:
    """``[1, k, *spatial]`` float32, all zero where the label is none of the classes."""
    return torch.from_numpy(np.stack([labels == c for c in range(n_classes)]).astype(np.float32))[None]


def monai_surfaces(
    truth: Labels, prediction: Labels, n_classes: int, spacing: Sequence[float], tolerance_mm: float, **options: Any
) -> npt.NDArray[np.float64]:
    """``[k - 1, 2]``: MONAI's HD95 and NSD of every foreground class. Its warnings of empty masks are muted."""
    y_pred, y = one_hot(prediction, n_classes), one_hot(truth, n_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd95 = compute_hausdorff_distance(y_pred, y, percentile=95, spacing=list(spacing))
        nsd = compute_surface_dice(y_pred, y, [tolerance_mm] * (n_classes - 1), spacing=list(spacing), **options)
    return torch.stack([hd95[0], nsd[0]], dim=1).double().numpy()


def measured(
    truth: LabelMap, prediction: LabelMap, names: Sequence[str], spacing: Sequence[float], **options: float | None
) -> list[dict[str, float | None]]:
    """The values of all metrics for every foreground class; ``options`` are those of ``compare``."""
    compared = compare(truth, prediction, len(names), spacing, **options)
    return [dict(score.values) for score in case_scores("a case", names, compared, compared)]
