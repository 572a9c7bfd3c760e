"""Patches rotated, scaled and deformed, by one resampling for all three on the batch's device.

Ranges follow nnU-Net; rotation and scaling are in mm, whatever the voxels' shape. A plane whose voxels are more than
three times as long along one axis as along the other is not rotated, which would mix slices with the space between
them. All random numbers come from a numpy generator that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from unetx_evaluators.tasks.resampling import ANISOTROPY
from unetx_evaluators.training.cases import crop
from unetx_evaluators.training.recipe import Recipe

SHARE = 0.3
"""Share of the patches that are rotated, likewise of those that are scaled, and of those that are deformed."""
KNOTS = 5
"""Points along each axis of the lattice whose displacements are interpolated."""
SIGMAS = 2.0
"""Standard deviations of the displacement for which the margin has voxels; beyond it, values are zero."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Warps:
    """The warps of the patches of a batch, by index of the patch."""

    margin: tuple[int, ...]
    """Voxels needed on both sides of a patch."""
    matrices: dict[int, Matrix]
    """Matrices ``[d, d]`` that map a voxel's offset from the middle of the patch to the offset of its value."""
    displacements: dict[int, npt.NDArray[np.float32]]
    """Displacements ``[d, *lattice]`` in voxels, which are added to these offsets."""


def draw_warps(
    n: int, patch: Sequence[int], spacing: Sequence[float], recipe: Recipe, rng: np.random.Generator
) -> Warps:
    """Draw the warps of ``n`` patches with voxels of ``spacing`` mm."""
    dims, planes = len(patch), _planes(spacing)
    matrices: dict[int, Matrix] = {}
    displacements: dict[int, npt.NDArray[np.float32]] = {}
    for index in range(n):
        turns, scales, bends = (rng.random(3) < SHARE) & np.array(
            [recipe.rotation, recipe.scaling, recipe.elastic], bool
        )
        matrix = np.eye(dims)
        if turns:
            for plane in planes:
                angle = math.radians(recipe.rotation) * rng.uniform(-1, 1)
                matrix = matrix @ _turn(dims, plane, angle, spacing)
        if scales:
            matrix = matrix * (1 + recipe.scaling * rng.random()) ** rng.choice((-1.0, 1.0))
        if turns or scales or bends:
            matrices[index] = matrix
        if bends:
            lattice = rng.normal(0, recipe.elastic, (dims, *(KNOTS,) * dims))
            displacements[index] = lattice.astype(np.float32)
    reach = SIGMAS * recipe.elastic if displacements else 0.0
    margin = [0] * dims
    half = np.array([(length - 1) / 2 for length in patch])
    for matrix in matrices.values():
        over = np.abs(matrix) @ half - half + reach
        margin = [max(before, math.ceil(voxels)) for before, voxels in zip(margin, over.tolist(), strict=True)]
    return Warps(tuple(margin), matrices, displacements)


def warped(images: Tensor, labels: Tensor, patch: tuple[int, ...], warps: Warps) -> tuple[Tensor, Tensor]:
    """Warped patches of images ``[b, c, *window]`` and labels ``[b, *window]``, windows being patches with a margin.

    Images are interpolated linearly; a label is that of the nearest voxel, so that no value is invented.
    """
    whole_images, whole_labels = images, labels
    images, labels = (crop(tensor, warps.margin, patch) for tensor in (images, labels))
    if not warps.matrices:
        return images, labels
    images, labels = images.clone(), labels.clone()
    for index, matrix in warps.matrices.items():
        grid = _grid(patch, whole_labels.shape[1:], matrix, warps.displacements.get(index), images.device)
        image, label = whole_images[index, None], whole_labels[index, None, None].float()
        images[index] = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        nearest = F.grid_sample(label, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        labels[index] = nearest[0, 0].to(labels.dtype)
    return images, labels


def _planes(spacing: Sequence[float]) -> list[tuple[int, int]]:
    pairs = combinations(range(len(spacing)), 2)
    return [pair for pair in pairs if max(spacing[a] for a in pair) <= ANISOTROPY * min(spacing[a] for a in pair)]


def _turn(dims: int, plane: tuple[int, int], angle: float, spacing: Sequence[float]) -> Matrix:
    """A rotation in mm, for offsets in voxels."""
    a, b = plane
    matrix = np.eye(dims)
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[a, b] = -math.sin(angle) * spacing[b] / spacing[a]
    matrix[b, a] = math.sin(angle) * spacing[a] / spacing[b]
    return matrix


def _grid(
    patch: tuple[int, ...],
    window: Sequence[int],
    matrix: Matrix,
    lattice: npt.NDArray[np.float32] | None,
    device: torch.device,
) -> Tensor:
    """The grid ``[1, *patch, d]`` of ``grid_sample``: the last axis comes first, the window goes from -1 to 1."""
    offsets = [torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2 for n in patch]
    at = torch.stack(torch.meshgrid(*offsets, indexing="ij"), dim=-1)
    at = at @ torch.as_tensor(matrix.T, dtype=torch.float32, device=device)
    if lattice is not None:
        mode = "bilinear" if len(patch) == 2 else "trilinear"
        knots = torch.from_numpy(lattice)[None].to(device)
        at = at + F.interpolate(knots, size=patch, mode=mode, align_corners=True)[0].movedim(0, -1)
    sizes = torch.tensor(list(window), dtype=torch.float32, device=device)
    return (2 * at / sizes).flip(-1)[None]  # the middle of the window is 0
