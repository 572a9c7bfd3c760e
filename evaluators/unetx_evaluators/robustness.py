"""Changes of an image that a network should stand: what another scanner, dose or display does to it.

As Kamath et al. probe skip connections (MICCAI 2023, "Do we really need that skip-connection?"), but on prepared
images, which are in units of their own standard deviation. Deterministic: noise is drawn from the case's name.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy as np
from scipy.ndimage import gaussian_filter

from unetx_evaluators.tasks.task import Image

Change = Callable[[Image, int, str], Image]
"""Of an image ``[c, *spatial]`` or ``[c, n, *spatial]``, its number of spatial axes and its case's name."""

BLUR_VOXELS = 1.0
NOISE_DEVIATIONS = 0.5
GAMMA = 1.5


def blurred(image: Image, dims: int, case: str) -> Image:
    """After a Gaussian filter of BLUR_VOXELS along every spatial axis, and never from slice to slice."""
    axes = tuple(range(image.ndim - dims, image.ndim))
    return np.asarray(gaussian_filter(image, BLUR_VOXELS, axes=axes), dtype=np.float32)


def noisy(image: Image, dims: int, case: str) -> Image:
    """With Gaussian noise of NOISE_DEVIATIONS of every channel's standard deviation."""
    rng = np.random.default_rng(zlib.crc32(case.encode()))
    spread = image.std(axis=tuple(range(1, image.ndim)), keepdims=True)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(image + NOISE_DEVIATIONS * spread * noise, dtype=np.float32)


def gamma(image: Image, dims: int, case: str) -> Image:
    """Every channel's range brought to 0..1, raised to GAMMA, and brought back to its mean and standard deviation."""
    axes = tuple(range(1, image.ndim))
    low, high = image.min(axis=axes, keepdims=True), image.max(axis=axes, keepdims=True)
    raised = ((image - low) / np.maximum(high - low, 1e-12)) ** GAMMA
    mean, spread = raised.mean(axis=axes, keepdims=True), raised.std(axis=axes, keepdims=True)
    scaled = (raised - mean) / np.maximum(spread, 1e-12)
    back = scaled * image.std(axis=axes, keepdims=True) + image.mean(axis=axes, keepdims=True)
    return np.asarray(back, dtype=np.float32)


CHANGES: Mapping[str, Change] = {"blur": blurred, "noise": noisy, "gamma": gamma}
