"""Instance normalisation fused with its activation on CUDA, by the kernels of triton_kernels.py; imports triton.

There is no autotuning and no synchronisation, so that CUDA graphs can capture it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unetx_evaluators.device import memory_format
from unetx_evaluators.training.fast_cuda import triton_kernels as kernels

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TILE = 2048
"""Number of values in a tile: 16 for each of a program's 128 threads."""
MOST_CHANNELS = 32
"""Largest number of channels in a channels-last tile: more would not make reads from memory longer."""
MOST_PARTS = 64
PROGRAMS = 512
"""Number of programs that keep a large GPU busy; an estimate, not measured."""
OPTIONS = {"enable_fp_fusion": True}
"""Compiler options: products and sums are fused, which later versions of Triton do not do by default."""


def norm_act(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
    """LeakyReLU(instance_norm(x) * weight + bias), laid out as ``x``; a slope of 1 leaves the activation out."""
    y: Tensor = _NormAct.apply(x, weight, bias, eps, slope)  # type: ignore[no-untyped-call]
    return y


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
        layout = _layout(x)
        x = x.contiguous(memory_format=layout)
        walk, y = _Walk.over(x, layout), torch.empty_like(x)
        means, squares = (torch.empty(walk.partial, dtype=torch.float32, device=x.device) for _ in range(2))
        mean, rstd = (torch.empty(x.shape[:2], dtype=torch.float32, device=x.device) for _ in range(2))
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # Triton launches on the current one
            kernels.statistics[walk.grid](x, means, squares, *walk.arguments, **OPTIONS)
            kernels.normalised[walk.grid](
                x, weight, bias, means, squares, y, mean, rstd, eps, slope, *walk.arguments, MOST_PARTS, **OPTIONS
            )
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.slope, ctx.layout = slope, layout
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        dy = upstream[0].to(x.dtype).contiguous(memory_format=ctx.layout)
        walk, dx = _Walk.over(x, ctx.layout), torch.empty_like(x)
        sums = torch.empty((2, *walk.partial), dtype=torch.float32, device=x.device)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            given = (x, dy, weight, bias, mean, rstd, *sums)
            kernels.gradient_sums[walk.grid](*given, ctx.slope, *walk.arguments, **OPTIONS)
            kernels.gradient[walk.grid](*given, dx, ctx.slope, *walk.arguments, MOST_PARTS, **OPTIONS)
        dbias, dweight = sums.sum((1, 2))
        return dx, dweight.to(weight.dtype), dbias.to(bias.dtype), None, None


def _layout(x: Tensor) -> torch.memory_format:
    """The memory format of the map, or where it is neither contiguous nor channels last, that of its network."""
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    for layout in (last, torch.contiguous_format):
        if x.is_contiguous(memory_format=layout):
            return layout
    return memory_format(x.ndim - 2, x.device)


@dataclass(frozen=True, slots=True)
class _Walk:
    """The division of a map among programs."""

    grid: tuple[int, int, int]
    """Number of parts, groups of channels, and images."""
    partial: tuple[int, int, int]
    """Shape of partial results: images, parts, channels."""
    arguments: tuple[int, ...]
    """Arguments of every kernel, in the order of its last parameters."""

    @classmethod
    def over(cls, x: Tensor, layout: torch.memory_format) -> _Walk:
        b, c, *size = x.shape
        n = math.prod(size)
        if layout == torch.contiguous_format:
            strides, voxels = (n, 1), min(_power_of_2(n), TILE)
            channels = min(_power_of_2(c), TILE // voxels)
        else:
            strides, channels = (1, c), min(_power_of_2(c), MOST_CHANNELS)
            voxels = TILE // channels
        groups = math.ceil(c / channels)
        wanted = min(max(1, PROGRAMS // (b * groups)), MOST_PARTS)
        part = math.ceil(math.ceil(n / wanted) / voxels) * voxels
        parts = math.ceil(n / part)
        return cls((parts, groups, b), (b, parts, c), (*strides, c, n, part, parts, channels, voxels))


def _power_of_2(n: int) -> int:
    """The smallest power of 2 that is at least ``n``."""
    return 1 << (n - 1).bit_length()
