"""Convolution blocks of encoder stages and decoder nodes, and their normalisations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from unetx_space.backbone import Norm
from unetx_space.operators.nd import conv, max_pool

SLOPE = 0.01
"""Negative slope of LeakyReLU, nnU-Net's."""
MAX_GROUPS = 8
"""Group normalisation takes the largest divisor of the channels up to this (SegResNet's 8 where it divides)."""


def group_count(channels: int) -> int:
    """Largest divisor of ``channels`` that is at most MAX_GROUPS."""
    return next(groups for groups in range(min(channels, MAX_GROUPS), 0, -1) if channels % groups == 0)


_INSTANCE: Mapping[int, Callable[..., nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_BATCH: Mapping[int, Callable[..., nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

NORMS: Mapping[Norm, Callable[[int, int], nn.Module]] = {
    "instance": lambda channels, dims: _INSTANCE[dims](channels, affine=True),
    "batch": lambda channels, dims: _BATCH[dims](channels),
    "group": lambda channels, dims: nn.GroupNorm(group_count(channels), channels),
}
"""(channels, dims) -> normalisation with a scale and a shift per channel."""


class DoubleConv(nn.Module):
    """Twice (3^d convolution, normalisation, LeakyReLU): the plain block of U-Net and nnU-Net.

    ``[b, c_in, *size] -> [b, c_out, *size / stride]``: the first convolution is strided (which rounds up), or with
    ``pool`` a max pooling goes before it (which rounds down). The convolutions have no bias: the normalisation behind
    them subtracts any constant, so that a bias would never be trained.
    """

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...], norm: Norm, *, pool: bool = False) -> None:
        super().__init__()
        dims, strided = len(stride), max(stride) > 1
        self.pool = max_pool(stride) if pool and strided else nn.Identity()
        self.conv1 = conv(dims, c_in, c_out, 3, stride=1 if pool else stride, bias=False)
        self.norm1 = NORMS[norm](c_out, dims)
        self.conv2 = conv(dims, c_out, c_out, 3, bias=False)
        self.norm2 = NORMS[norm](c_out, dims)

    def forward(self, x: Tensor) -> Tensor:
        # In place is safe: normalisations save their input for the backward pass, not their output.
        x = F.leaky_relu(self.norm1(self.conv1(self.pool(x))), SLOPE, inplace=True)
        return F.leaky_relu(self.norm2(self.conv2(x)), SLOPE, inplace=True)
