"""From the fingerprint to a patch and a network: how large, how many levels, where each axis is halved, how wide.

After nnU-Net's experiment planner (Isensee et al., Nature Methods 18, 203-211, 2021; version 2):

- the patch starts as a block of equal extent in mm, is clipped to the median shape, and shrinks along the axis that is
  largest relative to the median shape until it fits;
- an axis is halved from level to level while at least 4 voxels remain, and waits while its voxels are twice as long
  as those of the finest axis that can still be halved; alone, it needs 12 voxels;
- the patch is a multiple of the total stride; channels double from level to level up to 320 in 3D and 512 in 2D.

It departs from nnU-Net because a search trains hundreds of short proxies. docs/planning.md has the reasons and a table
beside nnU-Net's plans:

- fitting means two things: the full-size U-Net trains within ``memory_gib`` at the proxy's batch size, and one proxy
  evaluation of it within ``seconds`` on one worker (for a full training that is infinite, so that memory decides);
- at most ``MAX_LEVELS`` levels, unless the user asks for more;
- kernels are 3 wide along every axis on every level: the backbone has no others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from unetx_evaluators import budgets
from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.fingerprint import Fingerprint
from unetx_evaluators.tasks.options import Machine, TaskOptions
from unetx_evaluators.tasks.preprocessing import Preparation
from unetx_evaluators.tasks.resampling import resampled_shape
from unetx_space.architecture import Architecture
from unetx_space.backbone import MAX_LEVELS as MOST_LEVELS
from unetx_space.backbone import MAX_WIDTH, Backbone
from unetx_space.cost import plan_cost
from unetx_space.plan import make_plan
from unetx_space.presets import preset
from unetx_space.training_memory import plan_memory

MIN_SIZE = 4
"""Voxels an axis keeps at the bottleneck."""
MAX_LEVELS = 5
"""Unless the user asks for more: each level more makes the design space several times larger, and a few hundred steps
do not train it."""
BASE_WIDTH = 32
MAX_BATCH = 4096
WIDEST = {2: 512, 3: 320}
"""Channels, by dimensions."""
START = {2: 2048, 3: 256}
"""Edge of the block, in voxels if they were cubes, that the patch is cut from."""

BYTES_PER_VALUE = 2
"""Of what autograd keeps, under bfloat16 or float16."""
BYTES_PER_PARAMETER = 16
"""Weight, gradient and Adam's two moments in float32."""
BYTES_PER_CLASS = 16
"""And voxel: logits, probabilities, truth and a gradient, in float32, for the loss."""
MAPS_IN_FLIGHT = 2
"""Widest maps of the finest level, the upsampled map beside its source, that the backward pass holds on top."""

MACS_PER_SECOND: Mapping[Machine, Mapping[int, float]] = {
    "cpu": {2: 12e9, 3: 14e9},
    "cuda": {2: 500e9, 3: 500e9},
}
"""Multiply-adds of the forward pass that a worker trains in a second, backward pass and update included; by dimensions.

cpu: two thirds of what benchmarks/results/plans.txt measured in CPU time (one core of an AMD EPYC, bfloat16), because a
core goes slower while others train too. cuda: not measured, a guess for networks this thin; ``seconds`` corrects it.
"""

LOSS_MACS = 600
"""What the loss costs per voxel and class, in such multiply-adds (same source); much with many classes."""

SECONDS: Mapping[Machine, float] = {"cpu": 30.0, "cuda": 60.0}
"""For one proxy evaluation of the U-Net's training, when nobody says."""

_WORKER: Mapping[Machine, str] = {"cpu": "one CPU core", "cuda": "a GPU"}

_steps = lru_cache(maxsize=64)(make_plan)
"""Hundreds of patches are weighed with the same strides."""

Strides = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """What a network for the task looks like."""

    patch: tuple[int, ...]
    """Voxels; may exceed an image a little, which is then padded."""
    strides: Strides
    """Per level and axis; the first is all ones."""
    widths: tuple[int, ...]
    """Channels per level of the full-size network."""
    memory_gib: float
    """Estimate for training the full-size U-Net at the proxy's batch size."""
    seconds: float
    """Estimate for training one proxy of the U-Net; scoring comes on top."""
    max_steps: int
    """Steps of a proxy of the U-Net that the time target allows; at least those of the default budget."""
    share: float
    """Voxels of the patch, as far as it lies in the median image, over those of the image."""
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False)
    """For every choice a sentence."""


def plan(
    fingerprint: Fingerprint, preparation: Preparation, n_channels: int, n_classes: int, options: TaskOptions
) -> NetworkPlan:
    """The network for prepared cases. Raises DataError when the images are too small or options cannot be had."""
    shape = median_prepared_shape(fingerprint, preparation)
    _check_options(options, preparation.dims)
    sizing = _Sizing(preparation.dims, preparation.network_spacing, n_channels, n_classes, options)
    if options.patch is not None:
        patch, strides = options.patch, sizing.strides(options.patch)
    else:
        patch, strides = sizing.fitted(shape)
    if len(strides) < 2:
        raise DataError(
            f"a U-Net needs at least {2 * MIN_SIZE} voxels along an axis ({3 * MIN_SIZE} if it is the only one); "
            f"{'the patch' if options.patch else 'the median image'} has {_by(options.patch or shape)}; enlarge it"
        )
    return _described(sizing, patch, strides, shape)


def median_prepared_shape(fingerprint: Fingerprint, preparation: Preparation) -> tuple[float, ...]:
    """Median voxels per axis of the network's input over the training cases, at the target spacing."""
    shapes = [
        resampled_shape(shape, spacing, preparation.spacing)
        for shape, spacing in zip(fingerprint.shapes, fingerprint.spacings, strict=True)
    ]
    medians = (float(n) for n in np.median(np.asarray(shapes), axis=0))
    return tuple(n for axis, n in enumerate(medians) if axis != preparation.slice_axis)


def choose_strides(patch: Sequence[int], spacing: Sequence[float], max_levels: int = MAX_LEVELS) -> Strides:
    """Halve what can be halved, level by level."""
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
    """Per axis, from the finest level to the bottleneck."""
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))


@dataclass(frozen=True, slots=True)
class _Sizing:
    """What every candidate patch is weighed by."""

    dims: Literal[2, 3]
    spacing: tuple[float, ...]
    n_channels: int
    n_classes: int
    options: TaskOptions

    @property
    def max_seconds(self) -> float:
        return self.options.seconds or SECONDS[self.options.machine]

    @property
    def batch_size(self) -> int:
        """Patches that memory has to hold."""
        return self.options.batch_size or budgets.BATCH_SIZE[self.dims]

    @property
    def widest(self) -> int:
        """Channels that no level exceeds."""
        return max(self.options.base_width or 0, WIDEST[self.dims])

    def strides(self, patch: Sequence[int]) -> Strides:
        """Of a patch. Raises DataError where it does not allow the levels that the user wants."""
        levels = self.options.levels
        strides = choose_strides(patch, self.spacing, levels or MAX_LEVELS)
        if levels is not None and len(strides) < levels:
            raise DataError(
                f"levels: every level halves an axis that keeps {MIN_SIZE} voxels; {_by(patch)} voxels allow at most "
                f"{len(strides)} levels, got {levels}; ask for fewer or for a larger patch"
            )
        return strides

    def widths(self, n_levels: int) -> tuple[int, ...]:
        base = self.options.base_width or BASE_WIDTH
        return tuple(min(self.widest, base * 2**level) for level in range(n_levels))

    def memory_gib(self, patch: tuple[int, ...], strides: Strides) -> float:
        """What training the full-size U-Net takes."""
        steps = _steps(self._unet(strides))
        kept = plan_memory(steps, patch, bytes_per_value=BYTES_PER_VALUE)
        per_voxel = MAPS_IN_FLIGHT * steps.nodes[-1].c_fused * BYTES_PER_VALUE + BYTES_PER_CLASS * self.n_classes
        per_patch = kept + per_voxel * math.prod(patch)
        n_parameters = plan_cost(steps, patch).n_parameters
        return (per_patch * self.batch_size + BYTES_PER_PARAMETER * n_parameters) / 2**30

    def seconds(self, patch: tuple[int, ...], strides: Strides) -> float:
        """What training the U-Net takes under the default budget."""
        unet = self._unet(strides)
        proxy = _steps(replace(unet, backbone=unet.backbone.scaled(budgets.WIDTH_FACTOR)))
        n_patches = budgets.STEPS[self.dims] * budgets.BATCH_SIZE[self.dims]
        macs = plan_cost(proxy, patch).macs + LOSS_MACS * self.n_classes * math.prod(patch)
        return macs * n_patches / MACS_PER_SECOND[self.options.machine][self.dims]

    def fitted(self, shape: Sequence[float]) -> tuple[tuple[int, ...], Strides]:
        """The largest patch within memory and time.

        Where there is none, the smallest one if the time is only our default; otherwise DataError.
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
        """A block of equal extent in mm, no larger than the median image."""
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
            f"memory_gib and seconds: the smallest patch with {len(strides)} levels, {_by(patch)} voxels, takes about "
            f"{memory_gib:.3g} GiB to train and {seconds:.3g} s for a proxy; wanted: {self.options.memory_gib:g} GiB "
            f"and {self.max_seconds:g} s; allow more, or ask for fewer levels or channels"
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
        """The next multiple of the total stride, and the strides."""
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
            tried = _less(patch, axis, total_stride(strides)[axis])
            less = _less(patch, axis, total_stride(choose_strides(tried, self.spacing, limit))[axis])
            if less[axis] >= MIN_SIZE and len(choose_strides(less, self.spacing, limit)) >= (self.options.levels or 2):
                smaller = self.padded(less)
                if math.prod(smaller[0]) < math.prod(patch):
                    return smaller
        return None


def _less(patch: tuple[int, ...], axis: int, voxels: int) -> tuple[int, ...]:
    """The patch, smaller along an axis by so many voxels, of which one is always left."""
    return tuple(max(1, n - voxels) if a == axis else n for a, n in enumerate(patch))


def _axes_to_halve(size: Sequence[int], mm: Sequence[float]) -> set[int]:
    large = {axis for axis, n in enumerate(size) if n >= 2 * MIN_SIZE}
    finest = min((mm[axis] for axis in large), default=0.0)
    ready = {axis for axis in large if mm[axis] < 2 * finest}
    alone_and_small = len(ready) == 1 and all(size[axis] < 3 * MIN_SIZE for axis in ready)
    return set() if alone_and_small else ready


def _check_options(options: TaskOptions, dims: int) -> None:
    """Raises DataError on what no network can have."""
    if options.patch is not None and (len(options.patch) != dims or min(options.patch) < 1):
        raise DataError(
            f"patch: needs {dims} sizes of at least 1 voxel, one per axis of the network's input; got "
            f"{_by(options.patch)}; for example {_by((2 * MIN_SIZE * 4,) * dims)}"
        )
    for name, value, low, high in (
        ("levels", options.levels, 2, MOST_LEVELS),
        ("base_width", options.base_width, 1, MAX_WIDTH),
        ("batch_size", options.batch_size, 1, MAX_BATCH),
    ):
        if value is not None and not low <= value <= high:
            raise DataError(
                f"{name}: needs a whole number from {low} to {high}, got {value}; leave it away to let us choose"
            )
    for name, amount in (("memory_gib", options.memory_gib), ("seconds", options.seconds)):
        if amount is not None and not amount > 0:
            raise DataError(f"{name}: needs a number above 0, got {amount}; leave it away for the default")


def _described(sizing: _Sizing, patch: tuple[int, ...], strides: Strides, shape: Sequence[float]) -> NetworkPlan:
    """The plan, with its reasons."""
    memory_gib, seconds = sizing.memory_gib(patch, strides), sizing.seconds(patch, strides)
    widths, options = sizing.widths(len(strides)), sizing.options
    base = "set by the user" if options.base_width is not None else "as in nnU-Net"
    n_patches, worker = sizing.batch_size, _WORKER[options.machine]
    patches = "1 patch" if n_patches == 1 else f"{n_patches} patches"
    default_steps = budgets.STEPS[sizing.dims]
    reasons = {
        "patch": f"{_by(patch)} voxels: {_why_patch(sizing, patch, seconds, shape)}",
        "levels": f"{len(strides)}: {_why_levels(sizing, patch, strides)}",
        "strides": _why_strides(sizing.spacing, strides),
        "widths": f"{', '.join(map(str, widths))}: doubled from {widths[0]} ({base}), at most {sizing.widest}",
        "memory": f"about {memory_gib:.3g} GiB to train the full-size U-Net on {patches} at a time; at most "
        f"{options.memory_gib:g} GiB were wanted",
    }
    max_steps = default_steps
    if math.isfinite(sizing.max_seconds):
        max_steps = max(default_steps, math.floor(default_steps * sizing.max_seconds / seconds))
        reasons["seconds"] = (
            f"about {seconds:.3g} s to train one proxy of the U-Net for {default_steps} steps on {worker}, scoring "
            f"apart; at most {sizing.max_seconds:g} s were wanted"
        )
        reasons["steps"] = (
            f"{default_steps} by default; up to {max_steps} are within the {sizing.max_seconds:g} s of the time target"
        )
    share = math.prod(min(n / whole, 1.0) for n, whole in zip(patch, shape, strict=True))
    return NetworkPlan(patch, strides, widths, memory_gib, seconds, max_steps, share, reasons=reasons)


def _why_patch(sizing: _Sizing, patch: tuple[int, ...], seconds: float, shape: Sequence[float]) -> str:
    if sizing.options.patch is not None:
        return "set by the user"
    largest, _ = sizing.padded(sizing.start(shape))
    median = f"the median training image of {_by(shape)} voxels, rounded up to what the levels divide"
    if patch == largest:
        return median
    extreme = "largest within" if seconds <= sizing.max_seconds else "smallest with these levels, though not within,"
    targets = "targets of memory and time" if math.isfinite(sizing.max_seconds) else "target of memory"
    return f"the {extreme} the {targets}; {_by(largest)} would be {median}"


def _why_levels(sizing: _Sizing, patch: tuple[int, ...], strides: Strides) -> str:
    if sizing.options.levels is not None:
        return "set by the user"
    if len(choose_strides(patch, sizing.spacing, MOST_LEVELS)) > len(strides):
        return f"as many as a short proxy trains well, unless the user asks for up to {MOST_LEVELS}"
    deepest = tuple(math.ceil(n / s) for n, s in zip(patch, total_stride(strides), strict=True))
    return f"as many as leave {MIN_SIZE} voxels along a halved axis; the deepest map has {_by(deepest)}"


def _why_strides(spacing: Sequence[float], strides: Strides) -> str:
    by_level = ", ".join(_by(stride) for stride in strides)
    if all(len(set(stride)) == 1 for stride in strides):
        return f"{by_level}: every axis is halved at every level"
    return (
        f"{by_level}: an axis waits while its voxels ({'x'.join(f'{mm:.4g}' for mm in spacing)} mm at first) are twice "
        f"as long as the finest, and is not halved below {MIN_SIZE} of them"
    )


def _by(sizes: Sequence[float]) -> str:
    return "x".join(f"{n:g}" for n in sizes)
