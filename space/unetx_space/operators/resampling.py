"""Upsamplers with fixed places: resize-convolutions, overlapping transposed convolutions, and gated upsampling.

Built and called like the ones of ``upsampling.py``: by ``(c_in, c_out, stride)``, and
``[b, c_in, *size] -> [b, c_out, *(size * stride)]`` for any per-axis stride, in 2D and 3D.
"""

from __future__ import annotations

from math import prod, sqrt

import torch.nn.functional as F
from torch import Tensor, nn

from unetx_space.operators.attention import ECA, SqueezeExcite
from unetx_space.operators.catalogue.upsampling import EDGE, overlapping_kernel
from unetx_space.operators.nd import conv, interpolate, transposed_conv
from unetx_space.operators.upsampling import PixelShuffleUpsampling, TransposedUpsampling, fine_size


def repeat(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Every voxel of ``x`` as a cell of ``stride`` equal voxels: nearest interpolation."""
    return F.interpolate(x, size=fine_size(x, stride), mode="nearest")


class NearestUpsampling(nn.Module):
    """1x1 convolution, then nearest interpolation; the other order is the same function on a larger map."""

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride
        self.projection = conv(len(stride), c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return repeat(self.projection(x), self.stride)


class NearestConvUpsampling(nn.Module):
    """Nearest interpolation, then a 3^d convolution with bias (Odena et al. 2016, doi:10.23915/distill.00003).

    The remedy for the checkerboard of transposed convolutions. Without normalisation and activation: the node's block
    brings both.
    """

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride
        self.conv = conv(len(stride), c_in, c_out, EDGE)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(repeat(x, self.stride))  # type: ignore[no-any-return]


class LinearConvUpsampling(nn.Module):
    """Linear interpolation, then a 3^d convolution with bias: ``NearestConvUpsampling`` without its blocks."""

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride
        self.conv = conv(len(stride), c_in, c_out, EDGE)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(interpolate(x, fine_size(x, self.stride)))  # type: ignore[no-any-return]


class OverlappingTransposedUpsampling(nn.Module):
    """Transposed convolution with kernel = 2 * stride along each enlarged axis, 4 for 2 (Odena et al. 2016).

    Every fine voxel reads two coarse ones along such an axis, evenly, because the kernel is a multiple of the stride.
    Along an axis of stride 1 the kernel is 1, as without overlap. Kernels are centred on their cells; for an odd stride
    that is impossible, and they lie half a fine voxel before the centre.
    """

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...], *, bias: bool = True) -> None:
        super().__init__()
        self.transposed = transposed_conv(c_in, c_out, stride, kernel=overlapping_kernel(stride), bias=bias)

    def start(self) -> None:
        # The generic start counts one coarse voxel for each fine one, as if there was no overlap.
        self.transposed.weight.mul_(sqrt(prod(self.transposed.stride) / prod(self.transposed.kernel_size)))

    def forward(self, x: Tensor) -> Tensor:
        return self.transposed(x)  # type: ignore[no-any-return]


# Learnable upsampling followed by attention. Subclasses, so that the shared part keeps its parameter names, and with
# them its initial values and the weights that a design may inherit.


class TransposedSE(TransposedUpsampling):
    """Transposed convolution with kernel = stride, then squeeze and excitation of its output."""

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...], *, bias: bool = True) -> None:
        super().__init__(c_in, c_out, stride, bias=bias)
        self.se = SqueezeExcite(c_out, len(stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.se(super().forward(x))  # type: ignore[no-any-return]


class PixelShuffleECA(PixelShuffleUpsampling):
    """3^d convolution and pixel shuffle, then efficient channel attention of its output."""

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
        super().__init__(c_in, c_out, stride)
        self.eca = ECA(c_out, len(stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.eca(super().forward(x))  # type: ignore[no-any-return]
