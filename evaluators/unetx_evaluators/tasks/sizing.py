"""The largest patch with which a U-Net can be trained within a memory and time target, and the network's levels for
it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from unetx_evaluators import budgets
from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.options import Machine, TaskOptions
from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone
from unetx_space.cost import plan_cost
from unetx_space.plan import make_plan
from unetx_space.presets import preset
from unetx_space.training_memory import plan_memory

MIN_SIZE = 4
"""Smallest number of voxels along an axis at the bottleneck."""
MAX_LEVELS = 5
"""Largest number of levels unless the user asks for more: each level makes the design space several times larger, and a
few hundred steps do not train deeper networks."""
BASE_WIDTH = 32
"""Channels at the finest level."""
WIDEST = {2: 512, 3: 320}
"""Largest number of channels of a level, by dimensions."""
START = {2: 2048, 3: 256}
"""Edge in voxels, if they were cubes, of the block from which the patch is cut, by dimensions."""

BYTES_PER_VALUE = 2
"""Bytes of each value that autograd keeps, in bfloat16 or float16."""
BYTES_PER_PARAMETER = 16
"""Bytes for weight, gradient and Adam's two moments in float32."""
BYTES_PER_CLASS = 16
"""Bytes of the loss per class and voxel: logits, probabilities, truth and a gradient in float32."""
MAPS_IN_FLIGHT = 2
"""Widest maps of the finest level that the backward pass holds in addition: the upsampled map and its source."""

MACS_PER_SECOND: Mapping[Machine, Mapping[int, float]] = {
    "cpu": {2: 12e9, 3: 14e9},
    "cuda": {2: 500e9, 3: 500e9},
}
"""Multiply-adds of the forward pass that a worker trains in a second, backward pass and update included, by dimensions.

cpu: two thirds of the rate in benchmarks/results/plans.txt, measured in CPU time (one core of an AMD EPYC, bfloat16),
because a core is slower while others train too. cuda: not measured, a guess for networks this thin, which ``seconds``
can correct.
"""

LOSS_MACS = 600
"""Cost of the loss per voxel and class, in such multiply-adds (same source); it matters with many classes."""

SECONDS: Mapping[Machine, float] = {"cpu": 30.0, "cuda": 60.0}
"""Default time target for training one proxy of the U-Net."""

_cached_plan = lru_cache(maxsize=64)(make_plan)
"""``make_plan``, cached because hundreds of patches with the same strides are tried."""

Strides = tuple[tuple[int, ...], ...]


def choose_strides(patch: Sequence[int], spacing: Sequence[float], max_levels: int = MAX_LEVELS) -> Strides:
    """The strides per level and axis, by nnU-Net's rule: at every level, axes are halved that are long and fine enough.

    ``spacing`` are the mm per voxel and axis of the patch.
    """
    size, mm = list(patch), list(spacing)
    strides = [(1,) * len(size)]
    while len(strides) < max_levels:
        axes = _axes_to_halve(size, mm)
        if not axes:
            break
        strides.append(tuple(2 if axis in axes else 1 for axis in range(len(size))))
        size = [math.ceil(n / s) for n, s in zip(size, strides[-1], strict=True)]
        mm = [length * s for length, s in zip(mm, strides[-1], strict=True)]
    return tuple(strides)


def total_stride(strides: Strides) -> tuple[int, ...]:
    """The factor per axis between the finest level and the bottleneck."""
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))


@dataclass(frozen=True, slots=True)
class Sizing:
    """Computes a patch and its network from voxel sizes, channels, classes and the user's options."""

    dims: Literal[2, 3]
    spacing: tuple[float, ...]
    n_channels: int
    n_classes: int
    options: TaskOptions

    @property
    def max_seconds(self) -> float:
        """The time target for training one proxy of the U-Net."""
        return self.options.seconds or SECONDS[self.options.machine]

    @property
    def batch_size(self) -> int:
        """Number of patches in a batch, which memory has to hold."""
        return self.options.batch_size or budgets.BATCH_SIZE[self.dims]

    @property
    def widest(self) -> int:
        """Largest number of channels of a level."""
        return max(self.options.base_width or 0, WIDEST[self.dims])

    def strides(self, patch: Sequence[int]) -> Strides:
        """The strides for a patch. Raises DataError where it does not allow the levels that the user wants."""
        levels = self.options.levels
        strides = choose_strides(patch, self.spacing, levels or MAX_LEVELS)
        if levels is not None and len(strides) < levels:
            raise DataError(
                f"levels: every level halves an axis that keeps {MIN_SIZE} voxels; {sizes_text(patch)} voxels allow at "
                f"most {len(strides)} levels, got {levels}; ask for fewer or for a larger patch"
            )
        return strides

    def widths(self, n_levels: int) -> tuple[int, ...]:
        """Channels per level of the full-size network."""
        base = self.options.base_width or BASE_WIDTH
        return tuple(min(self.widest, base * 2**level) for level in range(n_levels))

    def memory_gib(self, patch: tuple[int, ...], strides: Strides) -> float:
        """Estimate of the memory for training the full-size U-Net."""
        steps = _cached_plan(self._unet(strides))
        kept = plan_memory(steps, patch, bytes_per_value=BYTES_PER_VALUE)
        per_voxel = MAPS_IN_FLIGHT * steps.nodes[-1].c_fused * BYTES_PER_VALUE + BYTES_PER_CLASS * self.n_classes
        per_patch = kept + per_voxel * math.prod(patch)
        n_parameters = plan_cost(steps, patch).n_parameters
        return (per_patch * self.batch_size + BYTES_PER_PARAMETER * n_parameters) / 2**30

    def seconds(self, patch: tuple[int, ...], strides: Strides) -> float:
        """Estimate of the time for training a proxy of the U-Net under the default budget."""
        unet = self._unet(strides)
        proxy = _cached_plan(replace(unet, backbone=unet.backbone.scaled(budgets.WIDTH_FACTOR)))
        n_patches = budgets.STEPS[self.dims] * budgets.BATCH_SIZE[self.dims]
        macs = plan_cost(proxy, patch).macs + LOSS_MACS * self.n_classes * math.prod(patch)
        return macs * n_patches / MACS_PER_SECOND[self.options.machine][self.dims]

    def fitted(self, shape: Sequence[float]) -> tuple[tuple[int, ...], Strides]:
        """The largest patch within the memory and time targets, and its strides, for images of ``shape``.

        Where there is none, it is the smallest patch if the time target is only our default. Otherwise raises
        DataError.
        """
        patch, strides = self.padded(self.start(shape))
        while not self._fits(patch, strides):
            smaller = self._shrunk(patch, strides, shape)
            if smaller is None:
                self._check_smallest(patch, strides)
                break
            patch, strides = smaller
        return patch, strides

    def start(self, shape: Sequence[float]) -> tuple[int, ...]:
        """A patch of equal extent in mm along all axes, cut to the median image of ``shape``."""
        mean = math.prod(self.spacing) ** (1 / self.dims)
        return tuple(
            max(1, min(round(START[self.dims] * mean / mm), math.ceil(n)))
            for mm, n in zip(self.spacing, shape, strict=True)
        )

    def _check_smallest(self, patch: tuple[int, ...], strides: Strides) -> None:
        memory_gib, seconds = self.memory_gib(patch, strides), self.seconds(patch, strides)
        if self.options.seconds is None and memory_gib <= self.options.memory_gib:
            return
        raise DataError(
            f"memory_gib and seconds: the smallest patch with {len(strides)} levels, {sizes_text(patch)} voxels, takes "
            f"about {memory_gib:.3g} GiB to train and {seconds:.3g} s for a proxy; wanted: "
            f"{self.options.memory_gib:g} GiB and {self.max_seconds:g} s; allow more, or ask for fewer levels or "
            "channels"
        )

    def _unet(self, strides: Strides) -> Architecture:
        widths = self.widths(len(strides))
        backbone = Backbone(self.dims, self.n_channels, self.n_classes, widths, strides)
        return Architecture(backbone, preset("u-net").genome(len(strides)))

    def _fits(self, patch: tuple[int, ...], strides: Strides) -> bool:
        if len(strides) < 2:
            return True  # no network at all; refused by whoever asked
        within_time = self.seconds(patch, strides) <= self.max_seconds  # told faster, and mostly what forbids
        return within_time and self.memory_gib(patch, strides) <= self.options.memory_gib

    def padded(self, patch: Sequence[int]) -> tuple[tuple[int, ...], Strides]:
        """The patch, rounded up to a multiple of the total stride, and its strides."""
        strides = self.strides(patch)
        return tuple(math.ceil(n / s) * s for n, s in zip(patch, total_stride(strides), strict=True)), strides

    def _shrunk(
        self, patch: tuple[int, ...], strides: Strides, shape: Sequence[float]
    ) -> tuple[tuple[int, ...], Strides] | None:
        """The next smaller patch, along the axis that is largest relative to the median shape and can give; or None.

        As in nnU-Net, an axis gives as much as the smaller patch's stride, so that no possible size is passed over.
        """
        limit = self.options.levels or MAX_LEVELS
        for axis in sorted(range(self.dims), key=lambda axis: (patch[axis] / shape[axis], axis), reverse=True):
            shorter = _shortened(patch, axis, total_stride(strides)[axis])
            shorter = _shortened(patch, axis, total_stride(choose_strides(shorter, self.spacing, limit))[axis])
            n_levels = len(choose_strides(shorter, self.spacing, limit))
            if shorter[axis] >= MIN_SIZE and n_levels >= (self.options.levels or 2):
                smaller = self.padded(shorter)
                if math.prod(smaller[0]) < math.prod(patch):
                    return smaller
        return None


def _shortened(patch: tuple[int, ...], axis: int, voxels: int) -> tuple[int, ...]:
    """The patch, shorter by ``voxels`` along an axis, of which at least one is left."""
    return tuple(max(1, n - voxels) if a == axis else n for a, n in enumerate(patch))


def _axes_to_halve(size: Sequence[int], mm: Sequence[float]) -> set[int]:
    large = {axis for axis, n in enumerate(size) if n >= 2 * MIN_SIZE}
    finest = min((mm[axis] for axis in large), default=0.0)
    ready = {axis for axis in large if mm[axis] < 2 * finest}
    alone_and_small = len(ready) == 1 and all(size[axis] < 3 * MIN_SIZE for axis in ready)
    return set() if alone_and_small else ready


def sizes_text(sizes: Sequence[float]) -> str:
    """Sizes as a text like ``96x96x48``."""
    return "x".join(f"{n:g}" for n in sizes)
