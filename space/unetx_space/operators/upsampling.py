"""Upsamplers: ``[b, c_in, *size] -> [b, c_out, *(size * stride)]`` for any per-axis stride, in 2D and 3D.

Every class is built by ``(c_in, c_out, stride)``. ``fit`` then brings the result to the exact size of its level.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from unetx_space.operators.catalogue import EDGE, taps
from unetx_space.operators.nd import conv, interpolate, per_channel, transposed_conv
from unetx_space.operators.sampling import sampled


def fit(x: Tensor, size: Sequence[int]) -> Tensor:
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


class LinearUpsampling(nn.Module):
    """1x1 convolution, then linear interpolation between voxel centres.

    The convolution goes first: the two commute exactly (interpolation weights sum to 1), and the coarse map is smaller.
    """

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride
        self.projection = conv(len(stride), c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return interpolate(self.projection(x), fine_size(x, self.stride))


class TransposedUpsampling(nn.Module):
    """Transposed convolution with kernel = stride: no overlap, hence no checkerboard (nnU-Net's upsampler)."""

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...], *, bias: bool = True) -> None:
        super().__init__()
        self.transposed = transposed_conv(c_in, c_out, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.transposed(x)  # type: ignore[no-any-return]


def shuffle(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """``[b, c * prod(stride), *size] -> [b, c, *(size * stride)]``: pixel shuffle for any dimension and stride.

    Channel ``c * prod(stride) + j`` becomes the j-th voxel, in array order, of every cell of channel c.
    """
    dims, size = len(stride), x.shape[2:]
    x = x.reshape(x.shape[0], -1, *stride, *size)
    interleaved = [axis for i in range(dims) for axis in (2 + dims + i, 2 + i)]  # size_0, stride_0, size_1, stride_1
    x = x.permute(0, 1, *interleaved)
    return x.reshape(*x.shape[:2], *(n * s for n, s in zip(size, stride, strict=True)))


class PixelShuffleUpsampling(nn.Module):
    """3^d convolution to every voxel of the finer cell, then a shuffle (Shi et al. 2016, arXiv:1609.05158, section 3).

    Starts by ICNR (Aitken et al. 2017, arXiv:1707.02937): all voxels of a cell share one kernel, so that at first this
    is a convolution followed by nearest interpolation, without checkerboard.
    """

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride
        self.conv = conv(len(stride), c_in, c_out * prod(stride), EDGE)

    def start(self) -> None:
        weight = self.conv.weight
        cells = weight.view(-1, prod(self.stride), *weight.shape[1:])  # [c_out, voxels of a cell, c_in, *3]
        cells.copy_(cells[:, :1].clone().expand_as(cells))

    def forward(self, x: Tensor) -> Tensor:
        return shuffle(self.conv(x), self.stride)


MOVE_RATE = 0.1
"""Offsets and modulation learn ten times slower than the rest, as in Deformable ConvNets."""


class DeformableUpsampling(nn.Module):
    """Modulated deformable convolution on the fine grid (after Zhu et al. 2019, arXiv:1811.11168, equation 1).

    y(p) = bias + sum over taps t of W_t x(p + t + offset_t(p)) * m_t(p), where p runs over the *fine* voxels, and t,
    offset and p are in coarse voxels; x is read by linear interpolation and is 0 outside. So the offsets move the very
    places that the upsampling reads. They come, as does m = 2 sigmoid(.), from a 3^d convolution on the coarse map that
    starts at zero, hence offset 0 and m = 1: at first this is a 3^d convolution followed by linear interpolation.

    Departs from the paper: the fine grid, m up to 2 (theirs starts at one half), offsets interpolated from the coarse
    map. Their lower learning rate is a factor on the output of that convolution: the same thing under Adam, whose
    steps do not depend on the scale of the gradient. Each W_t is applied on the coarse map before sampling, with which
    it commutes, so that the matrix products cost what a 3^d convolution costs there. Positions are computed in float32
    also under autocast: bfloat16 resolves only half a voxel beyond 128.
    """

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        dims = len(stride)
        self.stride = stride
        self.taps = conv(dims, c_in, c_out, EDGE)
        self.moves = conv(dims, c_in, taps(EDGE, dims) * (dims + 1), EDGE)

    def start(self) -> None:
        self.moves.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        values = self._tap_maps(x)  # [b, taps, c', *coarse]
        moves = self._by_tap(MOVE_RATE * self.moves(x))  # [b, taps, d + 1, *coarse]
        total = sampled(values, moves, self.stride)  # [b, c', *fine]
        bias = self.taps.bias
        assert bias is not None
        return (total + per_channel(bias[None], len(self.stride))).to(values.dtype)

    def _tap_maps(self, x: Tensor) -> Tensor:
        """W_t x for every tap, by one 1x1 convolution whose output channels are taps x c'."""
        dims, weight = len(self.stride), self.taps.weight  # [c', c, *3]
        pointwise = weight.flatten(2).permute(2, 0, 1).flatten(0, 1)  # [taps * c', c]
        convolve = F.conv2d if dims == 2 else F.conv3d
        return self._by_tap(convolve(x, per_channel(pointwise, dims)))

    def _by_tap(self, x: Tensor) -> Tensor:
        """``[b, taps * c, *size] -> [b, taps, c, *size]``."""
        return x.reshape(x.shape[0], taps(EDGE, len(self.stride)), -1, *x.shape[2:])
