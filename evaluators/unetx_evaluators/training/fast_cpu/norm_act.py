"""Instance normalisation fused with its activation on a CPU, by the loops of norm_kernels.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unetx_evaluators.device import in_memory_format
from unetx_evaluators.training.fast_cpu import norm_kernels as kernels

DTYPES = (torch.float32, torch.bfloat16)


def norm_act(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
    """LeakyReLU(instance_norm(x) * weight + bias), channels last; a slope of 1 leaves the activation out."""
    y: Tensor = _NormAct.apply(x, weight, bias, eps, slope)  # type: ignore[no-untyped-call]
    return y


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
        x = in_memory_format(x)
        y = torch.empty_like(x)
        mean, rstd = (np.empty(x.shape[:2], np.float32) for _ in range(2))
        kernels.forward(_voxels(x), _numbers(weight), _numbers(bias), eps, slope, _voxels(y), mean, rstd)
        ctx.save_for_backward(x, weight, bias)
        ctx.statistics, ctx.slope = (mean, rstd), slope
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias = ctx.saved_tensors
        mean, rstd = ctx.statistics
        dy = in_memory_format(upstream[0].to(x.dtype))
        dx = torch.empty_like(x)
        dweight, dbias = torch.zeros_like(weight), torch.zeros_like(bias)
        kernels.backward(
            _voxels(x),
            _voxels(dy),
            _numbers(weight),
            _numbers(bias),
            mean,
            rstd,
            ctx.slope,
            _voxels(dx),
            _numbers(dweight),
            _numbers(dbias),
        )
        return dx, dweight, dbias, None, None


def _voxels(x: Tensor) -> kernels.Map:
    """A channels-last map as ``[b, n, c]``, in the same memory."""
    b, c, *size = x.shape
    flat = x.detach().movedim(1, -1).view(b, math.prod(size), c)
    return flat.view(torch.uint16).numpy() if flat.dtype == torch.bfloat16 else flat.numpy()


def _numbers(parameter: Tensor) -> kernels.Floats:
    return parameter.detach().numpy()
