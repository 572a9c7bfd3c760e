"""Training batches: which case, which patch, which augmentation.

A batch is a pure function of (cases, seed, step). So all architectures of a study see the same batches (common random
numbers), whatever their networks draw, and a training that resumes needs no state of a generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unetx_evaluators.training.augmentation import augmented
from unetx_evaluators.training.cases import Case, ResidentCases, crop, pad_to, with_stack_axis
from unetx_evaluators.training.recipe import Recipe

# Keep the generators of one seed apart.
_ORDER, _STEP = 0, 1


@dataclass(frozen=True)
class Batch:
    """``b`` patches on the device."""

    images: Tensor
    """``[b, c, *patch]`` float32."""
    labels: Tensor
    """``[b, *patch]`` uint8."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a patch is cut."""

    case: int
    corner: list[int]


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
    ) -> None:
        """``resident`` are the same cases, to be cut on the device."""
        self._cases = cases
        self._patch = patch
        self._batch_size = batch_size
        self._seed = seed
        self._recipe = recipe
        self._device = device
        self._resident = resident

        @lru_cache(maxsize=2)
        def order(epoch: int) -> npt.NDArray[np.intp]:
            return np.random.default_rng([seed, _ORDER, epoch]).permutation(len(cases))

        self._order = order

    def batch(self, step: int) -> Batch:
        """Of a step, counted from 1."""
        rng = np.random.default_rng([self._seed, _STEP, step])
        first = (step - 1) * self._batch_size
        places = [self._place(number, rng) for number in range(first, first + self._batch_size)]
        if self._resident is None:
            images, labels = self._cropped(places)
        else:
            numbers, corners = [place.case for place in places], [place.corner for place in places]
            images, labels = self._resident.cut(numbers, corners, self._window(places[0].case))
            images, labels = images.view(len(places), -1, *self._patch), labels.view(-1, *self._patch)
        return Batch(*augmented(images, labels, self._recipe, rng))

    def _place(self, number: int, rng: np.random.Generator) -> _Cut:
        """Of one sample, counted over the whole training."""
        epoch, position = divmod(number, len(self._cases))
        index = int(self._order(epoch)[position])
        share = self._recipe.foreground_share  # of all numbers, evenly spread: no batch has much more than another
        corner = _foreground_corner if int((number + 1) * share) > int(number * share) else _any_corner
        return _Cut(index, corner(self._cases[index], self._window(index), rng))

    def _cropped(self, places: Sequence[_Cut]) -> tuple[Tensor, Tensor]:
        """Cut case by case where they lie, then brought to the device."""
        patches = []
        for place in places:
            case, window = self._cases[place.case], self._window(place.case)
            image, label = (pad_to(crop(whole, place.corner, window), window) for whole in (case.image, case.label))
            patches.append((image.reshape(-1, *self._patch), label.reshape(self._patch)))
        images, labels = (torch.stack(parts).to(self._device) for parts in zip(*patches, strict=True))
        return images, labels

    def _window(self, case: int) -> tuple[int, ...]:
        return with_stack_axis(self._patch, self._cases[case].label.ndim)


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
