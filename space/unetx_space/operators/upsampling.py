"""Upsamplers that read the same places everywhere: ``[b, c_in, *size] -> [b, c_out, *(size * stride)]``.

Every class is built by ``(c_in, c_out, stride)`` for any per-axis stride, in 2D and 3D. ``crop_or_pad`` then brings the
result to the exact size of its level. Upsamplers that decide from the map where they read stand in
``dynamic_upsampling.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt

import torch.nn.functional as F
from torch import Tensor, nn

from unetx_space.operators.attention import ECA, SqueezeExcite
from unetx_space.operators.catalogue import AttentionContext
from unetx_space.operators.catalogue.upsampling import EDGE, overlapping_kernel
from unetx_space.operators.nd import conv, interpolate, transposed_conv


def crop_or_pad(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x`` cropped or padded with its border values at the end of each axis, to exactly ``size``."""
    missing = [want - have for have, want in zip(x.shape[2:], size, strict=True)]
    if min(missing) < 0:
        x = x[(slice(None), slice(None), *[slice(want) for want in size])]
    if max(missing) > 0:
        x = F.pad(x, [n for gap in reversed(missing) for n in (0, max(gap, 0))], mode="replicate")
    return x


def fine_size(x: Tensor, stride: tuple[int, ...]) -> tuple[int, ...]:
    """Spatial size of ``x`` times ``stride``."""
    return tuple(n * s for n, s in zip(x.shape[2:], stride, strict=True))


def repeat(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Every voxel of ``x`` as a cell of ``stride`` equal voxels: nearest interpolation."""
    return F.interpolate(x, size=fine_size(x, stride), mode="nearest")


def pixel_shuffle(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """``[b, c * prod(stride), *size] -> [b, c, *(size * stride)]``: pixel shuffle for any dimension and stride.

    Channel ``c * prod(stride) + j`` becomes the j-th voxel, in array order, of every cell of channel c.
    """
    dims, size = len(stride), x.shape[2:]
    x = x.reshape(x.shape[0], -1, *stride, *size)
    interleaved = [axis for i in range(dims) for axis in (2 + dims + i, 2 + i)]  # size_0, stride_0, size_1, stride_1
    x = x.permute(0, 1, *interleaved)
    return x.reshape(*x.shape[:2], *(n * s for n, s in zip(size, stride, strict=True)))


class NearestUpsampling(nn.Module):
    """1x1 convolution, then nearest interpolation; the other order is the same function on a larger map."""

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride
        self.projection = conv(len(stride), c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return repeat(self.projection(x), self.stride)


class LinearUpsampling(NearestUpsampling):
    """1x1 convolution, then linear interpolation between voxel centres.

    The convolution goes first: the two commute exactly (interpolation weights sum to 1), and the coarse map is smaller.
    """

    def forward(self, x: Tensor) -> Tensor:
        return interpolate(self.projection(x), fine_size(x, self.stride))


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


class LinearConvUpsampling(NearestConvUpsampling):
    """Linear interpolation, then a 3^d convolution with bias: ``NearestConvUpsampling`` without its blocks."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(interpolate(x, fine_size(x, self.stride)))  # type: ignore[no-any-return]


class TransposedUpsampling(nn.Module):
    """Transposed convolution with kernel = stride: no overlap, hence no checkerboard (nnU-Net's upsampler)."""

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...], *, bias: bool = True) -> None:
        super().__init__()
        self.transposed = transposed_conv(c_in, c_out, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.transposed(x)  # type: ignore[no-any-return]


class OverlappingTransposedUpsampling(nn.Module):
    """Transposed convolution with kernel = 2 * stride along each enlarged axis, 4 for 2 (Odena et al. 2016).

    Every fine voxel reads two coarse ones along such an axis, evenly, because the kernel is a multiple of the stride.
    Along an axis of stride 1 the kernel is 1, as without overlap. Kernels are centred on their cells; for an odd stride
    that is impossible, and they lie half a fine voxel before the centre.
    """

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...], *, bias: bool = True) -> None:
        super().__init__()
        self.transposed = transposed_conv(c_in, c_out, stride, kernel=overlapping_kernel(stride), bias=bias)

    def init_weights(self) -> None:
        # The generic start counts one coarse voxel for each fine one, as if there was no overlap.
        self.transposed.weight.mul_(sqrt(prod(self.transposed.stride) / prod(self.transposed.kernel_size)))

    def forward(self, x: Tensor) -> Tensor:
        return self.transposed(x)  # type: ignore[no-any-return]


class PixelShuffleUpsampling(nn.Module):
    """3^d convolution to every voxel of the finer cell, then a shuffle (Shi et al. 2016, arXiv:1609.05158, section 3).

    Starts by ICNR (Aitken et al. 2017, arXiv:1707.02937): all voxels of a cell share one kernel, so that at first this
    is a convolution followed by nearest interpolation, without checkerboard.
    """

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride
        self.conv = conv(len(stride), c_in, c_out * prod(stride), EDGE)

    def init_weights(self) -> None:
        weight = self.conv.weight
        cells = weight.view(-1, prod(self.stride), *weight.shape[1:])  # [c_out, voxels of a cell, c_in, *3]
        cells.copy_(cells[:, :1].clone().expand_as(cells))

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle(self.conv(x), self.stride)


# Learnable upsampling followed by attention. Subclasses, so that the shared part keeps its parameter names, and with
# them its initial values and the weights that a design may inherit.


class TransposedSE(TransposedUpsampling):
    """Transposed convolution with kernel = stride, then squeeze and excitation of its output."""

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...], *, bias: bool = True) -> None:
        super().__init__(c_in, c_out, stride, bias=bias)
        self.se = SqueezeExcite(AttentionContext.behind_upsampler(c_in, c_out, stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.se(super().forward(x))  # type: ignore[no-any-return]


class PixelShuffleECA(PixelShuffleUpsampling):
    """3^d convolution and pixel shuffle, then efficient channel attention of its output."""

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
        super().__init__(c_in, c_out, stride)
        self.eca = ECA(AttentionContext.behind_upsampler(c_in, c_out, stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.eca(super().forward(x))  # type: ignore[no-any-return]
