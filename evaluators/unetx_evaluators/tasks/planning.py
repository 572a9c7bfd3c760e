"""The plan of a network from the dataset's fingerprint: patch, levels, strides and widths.

It follows nnU-Net's experiment planner (Isensee et al., Nature Methods 18, 203-211, 2021; version 2):

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
from dataclasses import dataclass, field

import numpy as np

from unetx_evaluators import budgets
from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.fingerprint import Fingerprint
from unetx_evaluators.tasks.options import Machine, TaskOptions
from unetx_evaluators.tasks.preprocessing import Preparation
from unetx_evaluators.tasks.resampling import resampled_shape
from unetx_evaluators.tasks.sizing import MIN_SIZE, Sizing, Strides, choose_strides, sizes_text, total_stride
from unetx_space.backbone import MAX_LEVELS as MOST_LEVELS
from unetx_space.backbone import MAX_WIDTH

MAX_BATCH = 4096
"""Largest batch size that the user may set."""

_WORKER: Mapping[Machine, str] = {"cpu": "one CPU core", "cuda": "a GPU"}


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """The patch and the network of a task."""

    patch: tuple[int, ...]
    """Size of the patch in voxels; it may exceed an image a little, which is then padded."""
    strides: Strides
    """Strides per level and axis; those of the first level are ones."""
    widths: tuple[int, ...]
    """Channels per level of the full-size network."""
    memory_gib: float
    """Estimate of the memory for training the full-size U-Net at the proxy's batch size."""
    seconds: float
    """Estimate of the time for training one proxy of the U-Net, without scoring."""
    max_steps: int
    """Steps of a proxy of the U-Net that the time target allows; at least those of the default budget."""
    share: float
    """Share of the median image's voxels that the patch covers."""
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False)
    """A sentence for every choice, by its name."""


def plan(
    fingerprint: Fingerprint, preparation: Preparation, n_channels: int, n_classes: int, options: TaskOptions
) -> NetworkPlan:
    """The plan for prepared cases. Raises DataError where images are too small or options cannot be fulfilled."""
    shape = median_prepared_shape(fingerprint, preparation)
    _check_options(options, preparation.dims)
    sizing = Sizing(preparation.dims, preparation.network_spacing, n_channels, n_classes, options)
    if options.patch is not None:
        patch, strides = options.patch, sizing.strides(options.patch)
    else:
        patch, strides = sizing.fitted(shape)
    if len(strides) < 2:
        raise DataError(
            f"a U-Net needs at least {2 * MIN_SIZE} voxels along an axis ({3 * MIN_SIZE} if it is the only one); "
            f"{'the patch' if options.patch else 'the median image'} has {sizes_text(options.patch or shape)}; "
            "enlarge it"
        )
    return _described(sizing, patch, strides, shape)


def median_prepared_shape(fingerprint: Fingerprint, preparation: Preparation) -> tuple[float, ...]:
    """Median over the training cases of the voxels per axis of the network's input, at the target spacing."""
    shapes = [
        resampled_shape(shape, spacing, preparation.spacing)
        for shape, spacing in zip(fingerprint.shapes, fingerprint.spacings, strict=True)
    ]
    medians = (float(n) for n in np.median(np.asarray(shapes), axis=0))
    return tuple(n for axis, n in enumerate(medians) if axis != preparation.slice_axis)


def _check_options(options: TaskOptions, dims: int) -> None:
    """Raise DataError on options that no network can fulfil."""
    if options.patch is not None and (len(options.patch) != dims or min(options.patch) < 1):
        raise DataError(
            f"patch: needs {dims} sizes of at least 1 voxel, one per axis of the network's input; got "
            f"{sizes_text(options.patch)}; for example {sizes_text((2 * MIN_SIZE * 4,) * dims)}"
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


def _described(sizing: Sizing, patch: tuple[int, ...], strides: Strides, shape: Sequence[float]) -> NetworkPlan:
    """The plan, with its reasons."""
    memory_gib, seconds = sizing.memory_gib(patch, strides), sizing.seconds(patch, strides)
    widths, options = sizing.widths(len(strides)), sizing.options
    base = "set by the user" if options.base_width is not None else "as in nnU-Net"
    n_patches, worker = sizing.batch_size, _WORKER[options.machine]
    patches = "1 patch" if n_patches == 1 else f"{n_patches} patches"
    default_steps = budgets.STEPS[sizing.dims]
    reasons = {
        "patch": f"{sizes_text(patch)} voxels: {_why_patch(sizing, patch, seconds, shape)}",
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


def _why_patch(sizing: Sizing, patch: tuple[int, ...], seconds: float, shape: Sequence[float]) -> str:
    if sizing.options.patch is not None:
        return "set by the user"
    largest, _ = sizing.padded(sizing.start(shape))
    median = f"the median training image of {sizes_text(shape)} voxels, rounded up to what the levels divide"
    if patch == largest:
        return median
    extreme = "largest within" if seconds <= sizing.max_seconds else "smallest with these levels, though not within,"
    targets = "targets of memory and time" if math.isfinite(sizing.max_seconds) else "target of memory"
    return f"the {extreme} the {targets}; {sizes_text(largest)} would be {median}"


def _why_levels(sizing: Sizing, patch: tuple[int, ...], strides: Strides) -> str:
    if sizing.options.levels is not None:
        return "set by the user"
    if len(choose_strides(patch, sizing.spacing, MOST_LEVELS)) > len(strides):
        return f"as many as a short proxy trains well, unless the user asks for up to {MOST_LEVELS}"
    deepest = tuple(math.ceil(n / s) for n, s in zip(patch, total_stride(strides), strict=True))
    return f"as many as leave {MIN_SIZE} voxels along a halved axis; the deepest map has {sizes_text(deepest)}"


def _why_strides(spacing: Sequence[float], strides: Strides) -> str:
    by_level = ", ".join(sizes_text(stride) for stride in strides)
    if all(len(set(stride)) == 1 for stride in strides):
        return f"{by_level}: every axis is halved at every level"
    return (
        f"{by_level}: an axis waits while its voxels ({'x'.join(f'{mm:.4g}' for mm in spacing)} mm at first) are twice "
        f"as long as the finest, and is not halved below {MIN_SIZE} of them"
    )
