"""Random changes of a batch, made on its device. All chance comes from a numpy generator that is handed in.

What moves voxels to places between voxels is in ``warping.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unetx_evaluators.training.recipe import Recipe

GAMMA_SHARE = 0.3
"""Of the samples; nnU-Net's."""
LEAST_SPREAD = 1e-6
"""Of intensities, where a patch has only one."""


def augmented(images: Tensor, labels: Tensor, recipe: Recipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A changed copy of images ``[b, c, *spatial]`` and labels ``[b, *spatial]``."""
    if recipe.flips:
        images, labels = _moved(images, labels, rng)
    for axis in recipe.mirror:
        images, labels = _mirrored(images, labels, axis - labels.ndim + 1, rng)
    if recipe.gamma:
        images = _bent(images, recipe, rng)
    return _recoloured(images, recipe, rng), labels


def _moved(images: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Every axis mirrored, and axes of one size swapped, each for half of the samples: all 90 degree rotations."""
    dims = labels.ndim - 1
    for axis in range(-dims, 0):
        images, labels = _mirrored(images, labels, axis, rng)
    for a, b in combinations(range(-dims, 0), 2):
        if images.shape[a] == images.shape[b]:
            chosen = rng.random(len(images)) < 0.5
            images = _where(chosen, images.transpose(a, b), images)
            labels = _where(chosen, labels.transpose(a, b), labels)
    return images, labels


def _mirrored(images: Tensor, labels: Tensor, axis: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """An axis, counted from the last, mirrored for half of the samples."""
    chosen = rng.random(len(images)) < 0.5
    return _where(chosen, images.flip(axis), images), _where(chosen, labels.flip(axis), labels)


def _bent(images: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """For some samples a power of the intensities of every channel, which keep their mean and standard deviation."""
    b = len(images)
    chosen = rng.random(b) < GAMMA_SHARE
    powers = (1 + recipe.gamma * rng.random(b)) ** rng.choice((-1.0, 1.0), b)
    spatial = tuple(range(2, images.ndim))
    low, high = images.amin(spatial, keepdim=True), images.amax(spatial, keepdim=True)
    spread = (high - low).clamp_min(LEAST_SPREAD)
    power = torch.as_tensor(powers, dtype=images.dtype).to(images.device).view(-1, *[1] * (images.ndim - 1))
    bent = ((images - low) / spread) ** power
    scale = images.std(spatial, keepdim=True) / bent.std(spatial, keepdim=True).clamp_min(LEAST_SPREAD)
    bent = (bent - bent.mean(spatial, keepdim=True)) * scale + images.mean(spatial, keepdim=True)
    return _where(chosen, bent, images)


def _recoloured(images: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Contrast and brightness drawn per sample and channel, Gaussian noise of a strength drawn per sample."""
    b, c = images.shape[:2]
    scale = 1 + recipe.intensity_scale * rng.uniform(-1, 1, (b, c))
    shift = recipe.intensity_shift * rng.uniform(-1, 1, (b, c))
    strength = np.broadcast_to(recipe.noise * rng.random((b, 1)), (b, c))
    drawn = torch.as_tensor(np.stack([scale, shift, strength]), dtype=images.dtype).to(images.device)  # one transfer
    scales, shifts, strengths = drawn.view(3, b, c, *[1] * (images.ndim - 2))
    # Drawn on the device: other values on a GPU than on a CPU.
    generator = torch.Generator(images.device).manual_seed(int(rng.integers(2**63)))
    normal = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)
    return torch.addcmul(shifts, images, scales).addcmul_(normal, strengths)


def _where(chosen: Sequence[bool] | npt.NDArray[np.bool_], changed: Tensor, unchanged: Tensor) -> Tensor:
    mask = torch.as_tensor(chosen, device=changed.device).view(-1, *[1] * (changed.ndim - 1))
    return torch.where(mask, changed, unchanged)
