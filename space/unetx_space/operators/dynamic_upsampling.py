"""Upsamplers that decide from the map itself how each fine voxel reads it: CARAFE, DySample, deformable upsampling.

Built and called like the ones of ``upsampling.py``: by ``(c_in, c_out, stride)``, and
``[b, c_in, *size] -> [b, c_out, *(size * stride)]`` for any per-axis stride, in 2D and 3D.
"""

from __future__ import annotations

import itertools
from math import prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetx_space.operators.blocks import SLOPE
from unetx_space.operators.catalogue import taps
from unetx_space.operators.catalogue.upsampling import (
    CARAFE_ENCODER_EDGE,
    EDGE,
    carafe_kernel_edge,
    carafe_width,
    dysample_groups,
)
from unetx_space.operators.deformable_sampling import sampled
from unetx_space.operators.nd import Convolution, conv, per_channel, recomputed
from unetx_space.operators.upsampling import pixel_shuffle

START_STD = 1e-3
"""Standard deviation of the weights that predict kernels (CARAFE) or offsets (DySample) at the start."""
OFFSET_SCALE = 0.25
"""Static scope of DySample: factor on the predicted offsets, so that neighbouring voxels seldom swap places."""


def _nearly_silent(layer: Convolution) -> None:
    """Shrink the generic initial weights, whose variance is that of Kaiming, to START_STD."""
    fan_in = layer.weight[0].numel()
    layer.weight.mul_(START_STD * sqrt((1 + SLOPE**2) * fan_in / 2))


class CARAFE(nn.Module):
    """Content-aware reassembly of features (Wang et al. 2019, arXiv:1905.02188, equations 1 to 3).

    Every fine voxel is a weighted average of the k_up^d coarse voxels around its cell; a 1x1 convolution to C_m
    channels and a k_e^d convolution on the coarse map predict the weights, a softmax makes them sum to 1. They start
    nearly equal. With a 1x1 convolution to ``c_out`` channels, which goes first: it commutes with averages.

    Departs from the authors' code at the border, where the map is continued by its last voxels instead of zeros (an
    average must not fade there, and the 1x1 convolution commutes with its bias), and in 3D by a smaller k_up and C_m
    (see the catalogue).
    """

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        dims, width = len(stride), carafe_width(c_in, len(stride))
        self.stride = stride
        self.edge = carafe_kernel_edge(dims)
        self.projection = conv(dims, c_in, c_out, 1)
        self.compressor = conv(dims, c_in, width, 1)
        self.encoder = conv(dims, width, self.edge**dims * prod(stride), CARAFE_ENCODER_EDGE)

    def init_weights(self) -> None:
        _nearly_silent(self.encoder)

    def kernels(self, x: Tensor) -> Tensor:
        """The weights of every fine voxel, at least float32: ``[b, k_up^d, cell, *coarse]``."""
        logits: Tensor = self.encoder(self.compressor(x))
        logits = logits.reshape(x.shape[0], self.edge ** len(self.stride), prod(self.stride), *x.shape[2:])
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        values = self.projection(x)  # [b, c', *coarse]
        # [b, c', cell, *coarse], so that training keeps no copy of all neighbours
        cells = recomputed(reassembled, values, self.kernels(x), self.edge)
        return pixel_shuffle(cells.flatten(1, 2), self.stride)


def reassembled(values: Tensor, kernels: Tensor, edge: int) -> Tensor:
    """Averages of ``values[b, c', *coarse]`` over the ``edge``^d voxels around each one, the border continued, with the
    weights ``kernels[b, edge^d, cell, *coarse]`` of every voxel of its cell: ``[b, c', cell, *coarse]``.

    One small matrix product for each coarse voxel. A sum of shifted maps takes four times as long in 3D, measured on
    a CPU; in 2D it is on a par, a little slower forward and faster backward.
    """
    size = values.shape[2:]
    rows = F.pad(values, [edge // 2] * (2 * len(size)), mode="replicate").movedim(1, -1).contiguous()
    windows = [
        rows[(slice(None), *[slice(at, at + n) for at, n in zip(corner, size, strict=True)])]
        for corner in itertools.product(range(edge), repeat=len(size))
    ]
    neighbours = torch.stack(windows, -2)  # [b, *coarse, edge^d, c']
    weights = kernels.to(values.dtype).movedim((1, 2), (-1, -2))  # [b, *coarse, cell, edge^d]
    return torch.matmul(weights, neighbours).movedim((-1, -2), (1, 2))


class DySample(nn.Module):
    """Linear interpolation at learned places (Liu et al. 2023, arXiv:2308.15085, section 3.2, static scope, 'LP').

    Every fine voxel reads the coarse map at its own centre plus an offset, 0.25 times what a 1x1 convolution on the
    coarse map says, for each of (up to) four groups of channels; outside the map the border continues. With zero
    offsets, and nearly so at the start, this is linear interpolation. Positions are computed in float32 also under
    autocast.

    With a 1x1 convolution to ``c_out`` channels first, so that the groups are groups of those. Departs from the paper
    only in going on to 3D and to strides other than 2: the cell of a fine voxel gives its centre in every case.
    """

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        dims = len(stride)
        self.stride = stride
        self.groups = dysample_groups(c_out)
        self.projection = conv(dims, c_in, c_out, 1)
        self.offset = conv(dims, c_in, dims * self.groups * prod(stride), 1)

    def init_weights(self) -> None:
        _nearly_silent(self.offset)

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.projection(x)  # [b, c', *coarse]
        dtype = torch.promote_types(values.dtype, torch.float32)
        offsets = pixel_shuffle(OFFSET_SCALE * self.offset(x).to(dtype), self.stride)
        offsets = self._by_group(offsets)  # [b * g, d, *fine]
        grouped = self._by_group(values.to(dtype))  # [b * g, c' / g, *coarse]
        read = F.grid_sample(grouped, _positions(offsets, x.shape[2:]), padding_mode="border", align_corners=False)
        return read.reshape(x.shape[0], -1, *read.shape[2:]).to(values.dtype)

    def _by_group(self, x: Tensor) -> Tensor:
        """``[b, groups * c, *size] -> [b * groups, c, *size]``."""
        return x.reshape(x.shape[0] * self.groups, -1, *x.shape[2:])


def _positions(offsets: Tensor, coarse: torch.Size) -> Tensor:
    """Fine voxel centres moved by ``offsets[b, d, *fine]`` in coarse voxels, in grid_sample's unit and order.

    That unit goes from -1 to 1 across the map, so a centre lies at the same place whichever grid it is counted on.
    """
    axes = []
    for axis, (n, m) in enumerate(zip(offsets.shape[2:], coarse, strict=True)):
        centres = (2 * torch.arange(n, device=offsets.device, dtype=offsets.dtype) + 1) / n - 1
        shape = [n if i == axis else 1 for i in range(len(coarse))]
        axes.append(centres.reshape(shape) + offsets[:, axis] * (2 / m))
    return torch.stack(axes[::-1], -1)


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

    def init_weights(self) -> None:
        self.moves.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        dims, weight = len(self.stride), self.taps.weight  # [c', c, *3]
        pointwise = weight.flatten(2).permute(2, 0, 1).flatten(0, 1)  # W_t for every tap: [taps * c', c]
        convolve = F.conv2d if dims == 2 else F.conv3d
        values = self._by_tap(convolve(x, per_channel(pointwise, dims)))  # [b, taps, c', *coarse]
        moves = self._by_tap(MOVE_RATE * self.moves(x))  # [b, taps, d + 1, *coarse]
        total = sampled(values, moves, self.stride)  # [b, c', *fine]
        bias = self.taps.bias
        assert bias is not None
        return (total + per_channel(bias[None], dims)).to(values.dtype)

    def _by_tap(self, x: Tensor) -> Tensor:
        """``[b, taps * c, *size] -> [b, taps, c, *size]``."""
        return x.reshape(x.shape[0], taps(EDGE, len(self.stride)), -1, *x.shape[2:])
