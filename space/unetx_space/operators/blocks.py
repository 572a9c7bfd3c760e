"""Convolution blocks of encoder stages and decoder nodes, and their normalisations.

A stage brings ``[b, c_in, *size]`` to ``[b, c_out, *size / stride]``: its first convolution is strided, which rounds
up, or with ``pool`` a max pooling goes before it, which rounds down.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetx_space.backbone import Norm
from unetx_space.operators.nd import average_pool, conv, max_pool

SLOPE = 0.01
"""Negative slope of LeakyReLU that the initial values are made for, nnU-Net's."""
MAX_GROUPS = 8
"""Group normalisation takes the largest divisor of the channels up to this (SegResNet's 8 where it divides)."""


def group_count(channels: int) -> int:
    """Largest divisor of ``channels`` that is at most MAX_GROUPS."""
    return next(groups for groups in range(min(channels, MAX_GROUPS), 0, -1) if channels % groups == 0)


class InstanceNorm2d(nn.InstanceNorm2d):
    """torch's instance normalisation of pictures, in the memory layout of its input.

    torch's own answers channels first, and every layer behind pays for it.
    On one thread a training step of a U-Net of base width 8 takes 0.81 to 0.95 of the time
    (``benchmarks/results/instance_norm-1thread.txt``).
    """

    def forward(self, x: Tensor) -> Tensor:
        return _laid_out_as(x, super().forward(x), torch.channels_last)


class InstanceNorm3d(nn.InstanceNorm3d):
    """torch's instance normalisation of volumes, in the memory layout of its input as ``InstanceNorm2d``."""

    def forward(self, x: Tensor) -> Tensor:
        return _laid_out_as(x, super().forward(x), torch.channels_last_3d)


def _laid_out_as(x: Tensor, y: Tensor, channels_last: torch.memory_format) -> Tensor:
    return y.contiguous(memory_format=channels_last) if x.is_contiguous(memory_format=channels_last) else y


_INSTANCE: Mapping[int, Callable[..., nn.Module]] = {2: InstanceNorm2d, 3: InstanceNorm3d}
_BATCH: Mapping[int, Callable[..., nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

NORMS: Mapping[Norm, Callable[[int, int], nn.Module]] = {
    "instance": lambda channels, dims: _INSTANCE[dims](channels, affine=True),
    "batch": lambda channels, dims: _BATCH[dims](channels),
    "group": lambda channels, dims: nn.GroupNorm(group_count(channels), channels),
}
"""(channels, dims) -> normalisation with a scale and a shift per channel."""


@dataclass(frozen=True, slots=True)
class Style:
    """The choices that all blocks of a network share: normalisation, biases, slope of the activation."""

    norm: Norm = "instance"
    conv_bias: bool = False
    """A normalisation behind a convolution subtracts any constant, so that a bias there is hardly trained; published
    networks have it nevertheless."""
    negative_slope: float = SLOPE


class NormAct(nn.Sequential):
    """Normalisation and LeakyReLU: ``[b, c, *size] -> [b, c, *size]``."""

    def __init__(self, channels: int, dims: int, style: Style) -> None:
        super().__init__(OrderedDict(norm=NORMS[style.norm](channels, dims), act=_act(style)))


class PlainStage(nn.Sequential):
    """``depth`` times (3^d convolution, normalisation, LeakyReLU): twice is the block of U-Net and nnU-Net."""

    def __init__(
        self, c_in: int, c_out: int, stride: tuple[int, ...], style: Style, *, depth: int = 2, pool: bool = False
    ) -> None:
        dims = len(stride)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if pool:
            parts["pool"] = max_pool(stride)
        for i in range(1, depth + 1):
            step = stride if i == 1 and not pool else 1
            parts[f"conv{i}"] = conv(dims, c_in if i == 1 else c_out, c_out, 3, stride=step, bias=style.conv_bias)
            parts[f"norm{i}"] = NORMS[style.norm](c_out, dims)
            parts[f"act{i}"] = _act(style)
        super().__init__(parts)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, activated after the sum (He et al. 2016, arXiv:1512.03385, figure 2).

    The shortcut is the identity, or where size or width change a strided 1x1 convolution with normalisation; with
    ``pool_shortcut`` average pooling, then a 1x1 convolution only where the width changes (ResNet-D, He et al. 2019,
    arXiv:1812.01187, figure 2c; nnU-Net's residual encoder). It has no bias, since the other branch can add one.

    Starts as its shortcut: the last scale before the sum is zero (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
    """

    def __init__(
        self, c_in: int, c_out: int, stride: tuple[int, ...], style: Style, *, pool_shortcut: bool = False
    ) -> None:
        super().__init__()
        dims = len(stride)
        self.conv1 = conv(dims, c_in, c_out, 3, stride=stride, bias=style.conv_bias)
        self.norm1 = NORMS[style.norm](c_out, dims)
        self.conv2 = conv(dims, c_out, c_out, 3, bias=style.conv_bias)
        self.norm2 = NORMS[style.norm](c_out, dims)
        self.shortcut = _shortcut(c_in, c_out, stride, style, pool_shortcut)
        self.slope = style.negative_slope

    def init_weights(self) -> None:
        self.norm2.get_parameter("weight").zero_()

    def forward(self, x: Tensor) -> Tensor:
        # In place is safe: normalisations save their input for the backward pass, not their output.
        y = F.leaky_relu(self.norm1(self.conv1(x)), self.slope, inplace=True)
        y = self.norm2(self.conv2(y)) + self.shortcut(x)  # [b, c_out, *size / stride]
        return F.leaky_relu(y, self.slope, inplace=True)


class ResidualStage(nn.Sequential):
    """``depth`` residual blocks, of which the first reduces the map."""

    pool_shortcut = False

    def __init__(
        self, c_in: int, c_out: int, stride: tuple[int, ...], style: Style, *, depth: int = 2, pool: bool = False
    ) -> None:
        ones = (1,) * len(stride)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if pool:
            parts["pool"] = max_pool(stride)
        for i in range(1, depth + 1):
            step = stride if i == 1 and not pool else ones
            width = c_in if i == 1 else c_out
            parts[f"block{i}"] = ResidualBlock(width, c_out, step, style, pool_shortcut=self.pool_shortcut)
        super().__init__(parts)


class ResNetDStage(ResidualStage):
    """``depth`` residual blocks with pooled shortcuts, of which the first reduces the map (ResNet-D)."""

    pool_shortcut = True


def _act(style: Style) -> nn.LeakyReLU:
    # In place is safe: normalisations save their input for the backward pass, not their output.
    return nn.LeakyReLU(style.negative_slope, inplace=True)


def _shortcut(c_in: int, c_out: int, stride: tuple[int, ...], style: Style, pooled: bool) -> nn.Module:
    dims, strided = len(stride), max(stride) > 1
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if strided and pooled:
        parts["pool"] = average_pool(stride, ceil=True)  # the convolutions beside it round up
    if c_in != c_out or (strided and not pooled):
        parts["conv"] = conv(dims, c_in, c_out, 1, stride=1 if pooled else stride, bias=False)
        parts["norm"] = NORMS[style.norm](c_out, dims)
    return nn.Sequential(parts)
