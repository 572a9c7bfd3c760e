"""Inputs and weights shared by the tests of operators."""

from __future__ import annotations

from typing import TypeVar

import torch
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
