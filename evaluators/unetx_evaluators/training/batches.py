"""Training batches: which case, which patch, which augmentation.

A batch is a pure function of (cases, seed, step). So all architectures of a study see the same batches (common random
numbers), whatever their networks draw, and a training that resumes needs no state of a generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unetx_evaluators.training.augmentation import Changes, augmented, changed, draw_changes
from unetx_evaluators.training.cases import Case, ResidentCases, cut, with_stack_axis
from unetx_evaluators.training.recipe import Recipe
from unetx_evaluators.training.warping import Warps, draw_warps, warped

# Keep the generators of one seed apart.
_ORDER, _STEP = 0, 1


@dataclass(frozen=True)
class Batch:
    """``b`` patches on the device."""

    images: Tensor
    """``[b, c, *patch]`` float32."""
    labels: Tensor
    """``[b, *patch]`` uint8."""

    def part(self, which: slice) -> Batch:
        return Batch(self.images[which], self.labels[which])


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a patch is cut."""

    case: int
    corner: list[int]
    """Its lowest voxel; below zero along an axis on which the patch is larger than the image."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """All chance of a batch."""

    places: list[_Cut]
    warps: Warps | None
    changes: Changes


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
        """``resident`` are the same cases, to be cut on the device; ``spacing`` is the patch's, in mm (None: cubes)."""
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
        """Of a step, counted from 1."""
        drawn = self._draw(step)
        images, labels = self._cut(drawn.places, (0,) * len(self._patch) if drawn.warps is None else drawn.warps.margin)
        if drawn.warps is not None:
            images, labels = warped(images, labels, self._patch, drawn.warps)
        return Batch(*augmented(images, labels, self._recipe, drawn.changes))

    @property
    def is_made_on_device(self) -> bool:
        """Whether ``tables`` and ``made`` are to be had: for cases that lie there, and patches that are not warped, as
        each batch of warped ones is cut from a window of its own size."""
        return self._resident is not None and not self._recipe.warps

    def tables(self, n_steps: int) -> tuple[dict[str, Tensor], list[int]]:
        """What ``made`` makes the batches of so many steps from, a row each, on the device; and the seeds of noise."""
        assert self._resident is not None
        rows, seeds = [], []
        for step in range(1, n_steps + 1):
            drawn = self._draw(step)
            numbers, corners = zip(*((place.case, place.corner) for place in drawn.places), strict=True)
            rows.append({"places": self._resident.facts(numbers, corners), **drawn.changes.drawn})
            seeds.append(drawn.changes.noise_seed)
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return {name: torch.from_numpy(table).to(self._device) for name, table in stacked.items()}, seeds

    def made(self, row: Mapping[str, Tensor], noise: torch.Generator | None) -> Batch:
        """The batch of a row of the tables. Nothing is copied to the device or read.

        Noise is drawn from ``noise``, which is seeded for it; None is the device's own generator.
        """
        assert self._resident is not None
        images, labels = self._resident.gathered(row["places"], with_stack_axis(self._patch, self._n_axes))
        patches = images.view(len(images), -1, *self._patch), labels.view(-1, *self._patch)
        return Batch(*changed(*patches, self._recipe, row, noise))

    def _draw(self, step: int) -> _Drawn:
        rng = np.random.default_rng([self._seed, _STEP, step])
        first = (step - 1) * self._batch_size
        places = [self._place(number, rng) for number in range(first, first + self._batch_size)]
        recipe, n_channels = self._recipe, len(self._cases[0].image)
        warps = draw_warps(len(places), self._patch, self._spacing, recipe, rng) if recipe.warps else None
        return _Drawn(places, warps, draw_changes(len(places), n_channels, self._patch, recipe, rng))

    def _place(self, number: int, rng: np.random.Generator) -> _Cut:
        """Of one sample, counted over the whole training."""
        epoch, position = divmod(number, len(self._cases))
        index = int(self._order(epoch)[position])
        share = self._recipe.foreground_share  # of all numbers, evenly spread: no batch has much more than another
        corner = _foreground_corner if int((number + 1) * share) > int(number * share) else _any_corner
        case, window = self._cases[index], with_stack_axis(self._patch, self._n_axes)
        before = [max(0, p - n) // 2 for p, n in zip(window, case.label.shape, strict=True)]
        return _Cut(index, [c - b for c, b in zip(corner(case, window, rng), before, strict=True)])

    def _cut(self, places: Sequence[_Cut], margin: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Patches with a margin around them, on the device: cut case by case where they lie, or there all together."""
        size = tuple(n + 2 * m for n, m in zip(self._patch, margin, strict=True))
        around = with_stack_axis(margin, self._n_axes, 0)
        corners = [[c - m for c, m in zip(place.corner, around, strict=True)] for place in places]
        window, numbers = with_stack_axis(size, self._n_axes), [place.case for place in places]
        if self._resident is not None:
            facts = torch.from_numpy(self._resident.facts(numbers, corners)).to(self._device)
            images, labels = self._resident.gathered(facts, window)
        else:
            cases = [self._cases[number] for number in numbers]
            parts = [
                (cut(case.image, corner, window), cut(case.label, corner, window))
                for case, corner in zip(cases, corners, strict=True)
            ]
            images, labels = (torch.stack(of).to(self._device) for of in zip(*parts, strict=True))
        return images.view(len(places), -1, *size), labels.view(-1, *size)

    @property
    def _n_axes(self) -> int:
        """Of a label map; one more than a patch has where cases are stacks."""
        return self._cases[0].label.ndim


def _any_corner(case: Case, patch: tuple[int, ...], rng: np.random.Generator) -> list[int]:
    """The lowest corner of a patch inside the image; 0 along an axis that is smaller than the patch."""
    return [int(rng.integers(0, max(0, n - p) + 1)) for n, p in zip(case.label.shape, patch, strict=True)]


def _foreground_corner(case: Case, patch: tuple[int, ...], rng: np.random.Generator) -> list[int]:
    """The corner of a patch around a foreground voxel, of a class drawn first, so that rare ones come as often.

    The voxel lies in the middle half of the patch along every axis, unless the image ends there.
    """
    if not case.foreground:
        return _any_corner(case, patch, rng)
    voxels = case.foreground[rng.integers(len(case.foreground))]
    voxel = voxels[rng.integers(len(voxels))]
    corner = [int(v) - int(rng.integers(p // 4, p - p // 4)) for v, p in zip(voxel, patch, strict=True)]
    return [min(max(0, c), max(0, n - p)) for c, n, p in zip(corner, case.label.shape, patch, strict=True)]
