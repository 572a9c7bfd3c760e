"""Augmentation of a batch on its device; all random numbers come from a numpy generator that is passed in.

They are drawn for a whole batch before it is changed, so that they can be drawn, and moved to the device, for all steps
of a training beforehand. Augmentations that need interpolation are in ``warping.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unetx_evaluators.training.recipe import Recipe

GAMMA_SHARE = 0.3
"""Share of the samples whose gamma is changed, as in nnU-Net."""
LEAST_SPREAD = 1e-6
"""Smallest range of intensities to divide by, for patches that have only one."""


@dataclass(frozen=True)
class AugmentationDraws:
    """The random numbers by which a batch of ``b`` patches is augmented."""

    drawn: Mapping[str, npt.NDArray[np.generic]]
    """Arrays by name: ``moved[m, b]`` says which of ``m`` mirrorings and swaps of axes apply; ``bent[b]`` and
    ``powers[b]`` whether gamma is changed, and to what; ``contrasts[3, b, c]`` are factor, shift and noise level."""
    noise_seed: int
    """Seed of the noise, which is drawn on the device: other values on a GPU than on a CPU."""


def draw_augmentation(
    b: int, c: int, patch: Sequence[int], recipe: Recipe, rng: np.random.Generator
) -> AugmentationDraws:
    """Draw the random numbers for ``b`` patches of ``c`` channels."""
    moved = [rng.random(b) < 0.5 for _ in _moves(patch, recipe)]
    drawn: dict[str, npt.NDArray[np.generic]] = {"moved": np.array(moved)} if moved else {}
    if recipe.gamma:
        drawn["bent"] = rng.random(b) < GAMMA_SHARE
        powers = (1 + recipe.gamma * rng.random(b)) ** rng.choice((-1.0, 1.0), b)
        drawn["powers"] = powers.astype(np.float32)
    scale = 1 + recipe.intensity_scale * rng.uniform(-1, 1, (b, c))
    shift = recipe.intensity_shift * rng.uniform(-1, 1, (b, c))
    strength = np.broadcast_to(recipe.noise * rng.random((b, 1)), (b, c))
    drawn["contrasts"] = np.stack([scale, shift, strength]).astype(np.float32)
    return AugmentationDraws(drawn, int(rng.integers(2**63)))


def augment(images: Tensor, labels: Tensor, recipe: Recipe, changes: AugmentationDraws) -> tuple[Tensor, Tensor]:
    """An augmented copy of images ``[b, c, *spatial]`` and labels ``[b, *spatial]``."""
    drawn = {name: torch.from_numpy(values).to(images.device) for name, values in changes.drawn.items()}
    noise = torch.Generator(images.device).manual_seed(changes.noise_seed)
    return augment_on_device(images, labels, recipe, drawn, noise)


def augment_on_device(
    images: Tensor, labels: Tensor, recipe: Recipe, drawn: Mapping[str, Tensor], noise: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """``augment`` with random numbers ``drawn`` that lie on the device, and a generator of ``noise`` that is seeded."""
    for axes, chosen in zip(_moves(labels.shape[1:], recipe), drawn.get("moved", ()), strict=True):
        images, labels = (_where(chosen, _moved(tensor, axes), tensor) for tensor in (images, labels))
    if recipe.gamma:
        images = _where(drawn["bent"], _bent(images, drawn["powers"]), images)
    b, c = images.shape[:2]
    scales, shifts, strengths = drawn["contrasts"].view(3, b, c, *[1] * (images.ndim - 2))
    normal = torch.randn(images.shape, generator=noise, dtype=images.dtype, device=images.device)
    return torch.addcmul(shifts, images, scales).addcmul_(normal, strengths), labels


def _moves(patch: Sequence[int], recipe: Recipe) -> Iterator[tuple[int, ...]]:
    """Yield tuples of axes, counted from the last: a single one is mirrored, two are swapped, each in half the samples.

    With ``flips`` every axis is mirrored, and axes of one size are swapped, which gives all 90 degree rotations.
    """
    dims = len(patch)
    if recipe.flips:
        yield from ((axis,) for axis in range(-dims, 0))
        yield from ((a, b) for a, b in combinations(range(-dims, 0), 2) if patch[a] == patch[b])
    yield from ((axis - dims,) for axis in recipe.mirror)


def _moved(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    return tensor.flip(axes) if len(axes) == 1 else tensor.transpose(*axes)


def _bent(images: Tensor, powers: Tensor) -> Tensor:
    """Gamma correction of every channel, which keeps its mean and standard deviation."""
    spatial = tuple(range(2, images.ndim))
    low, high = images.amin(spatial, keepdim=True), images.amax(spatial, keepdim=True)
    spread = (high - low).clamp_min(LEAST_SPREAD)
    bent = ((images - low) / spread) ** powers.view(-1, *[1] * (images.ndim - 1))
    scale = images.std(spatial, keepdim=True) / bent.std(spatial, keepdim=True).clamp_min(LEAST_SPREAD)
    return (bent - bent.mean(spatial, keepdim=True)) * scale + images.mean(spatial, keepdim=True)


def _where(chosen: Tensor, changed: Tensor, unchanged: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (changed.ndim - 1)), changed, unchanged)
