"""Random changes of a batch, made on its device. All chance comes from a numpy generator that is handed in.

What is drawn is drawn for a whole batch, before anything is changed: so it can be drawn, and brought to the device, for
all steps of a training beforehand. What moves voxels to places between voxels is in ``warping.py``.
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
"""Of the samples; nnU-Net's."""
LEAST_SPREAD = 1e-6
"""Of intensities, where a patch has only one."""


@dataclass(frozen=True)
class Changes:
    """What happens to a batch of ``b`` patches."""

    drawn: Mapping[str, npt.NDArray[np.generic]]
    """``moved[m, b]``, where there are ``_moves``: whether by each; ``bent[b]`` and ``powers[b]``, where intensities
    are bent; ``contrasts[3, b, c]``: factor, shift and strength of the noise."""
    noise_seed: int
    """Of the noise, which is drawn on the device: other values on a GPU than on a CPU."""


def draw_changes(b: int, c: int, patch: Sequence[int], recipe: Recipe, rng: np.random.Generator) -> Changes:
    """For ``b`` patches of ``c`` channels."""
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
    return Changes(drawn, int(rng.integers(2**63)))


def augmented(images: Tensor, labels: Tensor, recipe: Recipe, changes: Changes) -> tuple[Tensor, Tensor]:
    """A changed copy of images ``[b, c, *spatial]`` and labels ``[b, *spatial]``."""
    drawn = {name: torch.from_numpy(values).to(images.device) for name, values in changes.drawn.items()}
    noise = torch.Generator(images.device).manual_seed(changes.noise_seed)
    return changed(images, labels, recipe, drawn, noise)


def changed(
    images: Tensor, labels: Tensor, recipe: Recipe, drawn: Mapping[str, Tensor], noise: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The same where ``drawn``, as in ``Changes``, lies on the device, and ``noise`` is seeded."""
    for axes, chosen in zip(_moves(labels.shape[1:], recipe), drawn.get("moved", ()), strict=True):
        images, labels = (_where(chosen, _moved(tensor, axes), tensor) for tensor in (images, labels))
    if recipe.gamma:
        images = _where(drawn["bent"], _bent(images, drawn["powers"]), images)
    b, c = images.shape[:2]
    scales, shifts, strengths = drawn["contrasts"].view(3, b, c, *[1] * (images.ndim - 2))
    normal = torch.randn(images.shape, generator=noise, dtype=images.dtype, device=images.device)
    return torch.addcmul(shifts, images, scales).addcmul_(normal, strengths), labels


def _moves(patch: Sequence[int], recipe: Recipe) -> Iterator[tuple[int, ...]]:
    """Each for half of the samples: axes counted from the last, of which one is mirrored and two are swapped.

    With ``flips`` every axis is mirrored and axes of one size swapped: that gives all 90 degree rotations.
    """
    dims = len(patch)
    if recipe.flips:
        yield from ((axis,) for axis in range(-dims, 0))
        yield from ((a, b) for a, b in combinations(range(-dims, 0), 2) if patch[a] == patch[b])
    yield from ((axis - dims,) for axis in recipe.mirror)


def _moved(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    return tensor.flip(axes) if len(axes) == 1 else tensor.transpose(*axes)


def _bent(images: Tensor, powers: Tensor) -> Tensor:
    """A power of the intensities of every channel, which keep their mean and standard deviation."""
    spatial = tuple(range(2, images.ndim))
    low, high = images.amin(spatial, keepdim=True), images.amax(spatial, keepdim=True)
    spread = (high - low).clamp_min(LEAST_SPREAD)
    bent = ((images - low) / spread) ** powers.view(-1, *[1] * (images.ndim - 1))
    scale = images.std(spatial, keepdim=True) / bent.std(spatial, keepdim=True).clamp_min(LEAST_SPREAD)
    return (bent - bent.mean(spatial, keepdim=True)) * scale + images.mean(spatial, keepdim=True)


def _where(chosen: Tensor, changed: Tensor, unchanged: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (changed.ndim - 1)), changed, unchanged)
