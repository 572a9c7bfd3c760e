"""Inputs and weights shared by the tests of operators."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def image(channels: int, size: tuple[int, ...], batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    """``[batch, channels, *size]`` of normal values, the same every time."""
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(3), dtype=dtype)


def randomised(module: ModuleT, scale: float = 1.0) -> ModuleT:
    """In float64, with every parameter drawn anew, so that no start value hides a term."""
    generator = torch.Generator().manual_seed(2)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


STRIDES: list[tuple[int, ...]] = [(2, 2), (1, 3), (2, 2, 2), (3, 1, 2)]


def some_map(channels: int, stride: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """A small map to be enlarged by ``stride``."""
    return image(channels, (5, 3, 4)[: len(stride)], dtype=dtype)


def enlarged(x: Tensor, stride: tuple[int, ...], mode: str = "linear") -> Tensor:
    """By torch's nearest or linear interpolation, between voxel centres."""
    scale = tuple(map(float, stride))
    if mode == "nearest":
        return F.interpolate(x, scale_factor=scale, mode=mode)
    return F.interpolate(x, scale_factor=scale, mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Torch's function, zero-padded to the size of ``x``: values, not the module, are looked at."""
    return (F.conv2d if x.ndim == 4 else F.conv3d)(x, weight, bias, padding=weight.shape[-1] // 2)


def through(layer: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """``convolved`` with the values of a layer."""
    return convolved(x, layer.weight, layer.bias)
