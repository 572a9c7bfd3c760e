"""Training batches: which case, which patch, which augmentation.

A batch is a pure function of (cases, seed, step). So all architectures of a study see the same batches (common random
numbers), whatever their networks draw, and a training can resume without the state of a generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unetx_evaluators.training.augmentation import AugmentationDraws, augment, augment_on_device, draw_augmentation
from unetx_evaluators.training.cases import Case, ResidentCases, padded_crop, with_stack_axis
from unetx_evaluators.training.recipe import Recipe
from unetx_evaluators.training.warping import Warps, draw_warps, warped

_ORDER, _STEP = 0, 1  # distinguish the generators of one seed


@dataclass(frozen=True)
class Batch:
    """``b`` patches on the device."""

    images: Tensor
    """Images ``[b, c, *patch]`` in float32."""
    labels: Tensor
    """Label maps ``[b, *patch]`` in uint8."""

    def part(self, patches: slice) -> Batch:
        """The batch of some of the patches."""
        return Batch(self.images[patches], self.labels[patches])


@dataclass(frozen=True, slots=True)
class _PatchLocation:
    """The location of a patch."""

    case: int
    corner: list[int]
    """Its lowest voxel, below zero along an axis on which the patch is larger than the image."""


@dataclass(frozen=True, slots=True)
class _BatchDraws:
    """All that is drawn at random for a batch."""

    locations: list[_PatchLocation]
    warps: Warps | None
    augmentation: AugmentationDraws


class BatchStream:
    """The batches of one training. Cases come in random order, each once before any comes again."""

    def __init__(
        self,
        cases: Sequence[Case],
        patch: tuple[int, ...],
        batch_size: int,
        seed: int,
        recipe: Recipe,
        device: torch.device,
        resident: ResidentCases | None = None,
        spacing: tuple[float, ...] | None = None,
    ) -> None:
        """Draw patches from ``cases``; ``resident`` are the same cases, if they are to be cut on the device.

        ``spacing`` are the mm per voxel and axis of a patch (None: equal along all axes).
        """
        self._cases = cases
        self._patch = patch
        self._batch_size = batch_size
        self._seed = seed
        self._recipe = recipe
        self._device = device
        self._resident = resident
        self._spacing = spacing or (1.0,) * len(patch)

        @lru_cache(maxsize=2)
        def order(epoch: int) -> npt.NDArray[np.intp]:
            return np.random.default_rng([seed, _ORDER, epoch]).permutation(len(cases))

        self._order = order

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 1."""
        draws = self._draw(step)
        margin = (0,) * len(self._patch) if draws.warps is None else draws.warps.margin
        images, labels = self._cut(draws.locations, margin)
        if draws.warps is not None:
            images, labels = warped(images, labels, self._patch, draws.warps)
        return Batch(*augment(images, labels, self._recipe, draws.augmentation))

    @property
    def can_assemble_on_device(self) -> bool:
        """Whether ``tables`` and ``assemble`` can be used: for cases on the device, and patches that are not warped, as
        warped ones are cut from windows of varying size."""
        return self._resident is not None and not self._recipe.warps

    def tables(self, n_steps: int) -> tuple[dict[str, Tensor], list[int]]:
        """Tables on the device from whose rows ``assemble`` makes the batches of ``n_steps``, and the seeds of their
        noise."""
        assert self._resident is not None
        rows, seeds = [], []
        for step in range(1, n_steps + 1):
            draws = self._draw(step)
            numbers, corners = zip(*((one.case, one.corner) for one in draws.locations), strict=True)
            rows.append({"addresses": self._resident.addresses(numbers, corners), **draws.augmentation.drawn})
            seeds.append(draws.augmentation.noise_seed)
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return {name: torch.from_numpy(table).to(self._device) for name, table in stacked.items()}, seeds

    def assemble(self, row: Mapping[str, Tensor], noise: torch.Generator | None) -> Batch:
        """The batch of a row of ``tables``, made without copying anything to the device or from it.

        Noise is drawn from ``noise``, which is seeded for it; None is the device's own generator.
        """
        assert self._resident is not None
        images, labels = self._resident.gather(row["addresses"], with_stack_axis(self._patch, self._n_axes))
        patches = images.view(len(images), -1, *self._patch), labels.view(-1, *self._patch)
        return Batch(*augment_on_device(*patches, self._recipe, row, noise))

    def _draw(self, step: int) -> _BatchDraws:
        rng = np.random.default_rng([self._seed, _STEP, step])
        first = (step - 1) * self._batch_size
        locations = [self._draw_location(number, rng) for number in range(first, first + self._batch_size)]
        recipe, n_channels = self._recipe, len(self._cases[0].image)
        warps = draw_warps(len(locations), self._patch, self._spacing, recipe, rng) if recipe.warps else None
        return _BatchDraws(locations, warps, draw_augmentation(len(locations), n_channels, self._patch, recipe, rng))

    def _draw_location(self, number: int, rng: np.random.Generator) -> _PatchLocation:
        """The location of a patch, by its number over the whole training."""
        epoch, position = divmod(number, len(self._cases))
        index = int(self._order(epoch)[position])
        share = self._recipe.foreground_share  # of all numbers, evenly spread, so that all batches have about as many
        corner = _foreground_corner if int((number + 1) * share) > int(number * share) else _any_corner
        case, window = self._cases[index], with_stack_axis(self._patch, self._n_axes)
        before = [max(0, p - n) // 2 for p, n in zip(window, case.label.shape, strict=True)]
        return _PatchLocation(index, [c - b for c, b in zip(corner(case, window, rng), before, strict=True)])

    def _cut(self, locations: Sequence[_PatchLocation], margin: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Patches with a margin around them, on the device, cut there if the cases are resident, else on the host."""
        size = tuple(n + 2 * m for n, m in zip(self._patch, margin, strict=True))
        margins = with_stack_axis(margin, self._n_axes, 0)
        corners = [[c - m for c, m in zip(one.corner, margins, strict=True)] for one in locations]
        window, numbers = with_stack_axis(size, self._n_axes), [one.case for one in locations]
        if self._resident is not None:
            addresses = torch.from_numpy(self._resident.addresses(numbers, corners)).to(self._device)
            images, labels = self._resident.gather(addresses, window)
        else:
            cases = [self._cases[number] for number in numbers]
            parts = [
                (padded_crop(case.image, corner, window), padded_crop(case.label, corner, window))
                for case, corner in zip(cases, corners, strict=True)
            ]
            images, labels = (torch.stack(of).to(self._device) for of in zip(*parts, strict=True))
        return images.view(len(locations), -1, *size), labels.view(-1, *size)

    @property
    def _n_axes(self) -> int:
        """Number of axes of a label map; one more than a patch has where cases are stacks."""
        return self._cases[0].label.ndim


def _any_corner(case: Case, patch: tuple[int, ...], rng: np.random.Generator) -> list[int]:
    """A random lowest corner of a patch inside the image; 0 along an axis that is smaller than the patch."""
    return [int(rng.integers(0, max(0, n - p) + 1)) for n, p in zip(case.label.shape, patch, strict=True)]


def _foreground_corner(case: Case, patch: tuple[int, ...], rng: np.random.Generator) -> list[int]:
    """A random lowest corner of a patch around a foreground voxel; its class is drawn first, so that all are as likely.

    The voxel lies in the middle half of the patch along every axis, unless the image ends there.
    """
    if not case.foreground:
        return _any_corner(case, patch, rng)
    voxels = case.foreground[rng.integers(len(case.foreground))]
    voxel = voxels[rng.integers(len(voxels))]
    corner = [int(v) - int(rng.integers(p // 4, p - p // 4)) for v, p in zip(voxel, patch, strict=True)]
    return [min(max(0, c), max(0, n - p)) for c, n, p in zip(corner, case.label.shape, patch, strict=True)]
