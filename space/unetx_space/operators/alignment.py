"""Bringing a source of any level to a decoder node's level.

An alignment is built by ``(channels, factor, ceil)`` and brings a finer map down by ``factor`` per axis. Rounding up
(``ceil``) belongs to backbones whose strided convolutions round up, rounding down to those that pool: ceilings of
ceilings (and floors of floors) compose, so that the result has the node's exact size for any input size.

Pooling counts a cut-off cell by the voxels it has. What needs whole cells gets them first, by ``whole_cells``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import Tensor, nn

from unetx_space.operators.blocks import SLOPE
from unetx_space.operators.catalogue import Gate
from unetx_space.operators.catalogue.alignment import STEP_EDGE, folded_width, stride_steps
from unetx_space.operators.nd import average_pool, conv, interpolate, max_pool
from unetx_space.operators.upsampling import crop_or_pad


def whole_cells(x: Tensor, factor: tuple[int, ...], ceil: bool) -> Tensor:
    """``x`` with whole cells of ``factor`` voxels only.

    A cell that the end of an axis cuts off is completed by the border's values with ``ceil``, and left out without.
    """
    sizes = zip(x.shape[2:], factor, strict=True)
    return crop_or_pad(x, [(n + f - 1 if ceil else n) // f * f for n, f in sizes])


class MaxAlignment(nn.Module):
    """Max pooling over the cells of the node's voxels (UNet 3+, arXiv:2004.08790, section 2.1)."""

    def __init__(self, channels: int, factor: tuple[int, ...], ceil: bool) -> None:
        super().__init__()
        self.pool = max_pool(factor, ceil=ceil)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)  # type: ignore[no-any-return]


class AverageAlignment(nn.Module):
    """Average pooling over the cells of the node's voxels."""

    def __init__(self, channels: int, factor: tuple[int, ...], ceil: bool) -> None:
        super().__init__()
        self.pool = average_pool(factor, ceil=ceil)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)  # type: ignore[no-any-return]


class StridedConvAlignment(nn.Module):
    """3^d convolutions with strides of 2 (and 3) until ``factor`` is reached, channels kept (HRNet, arXiv:1908.07919).

    As in HRNet there is an activation between two convolutions and none behind the last; without its normalisations,
    and so without bias: the node's block normalises. On whole cells each convolution divides the size exactly.
    """

    def __init__(self, channels: int, factor: tuple[int, ...], ceil: bool) -> None:
        super().__init__()
        self.factor = factor
        self.ceil = ceil
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for i, stride in enumerate(stride_steps(factor), 1):
            if i > 1:
                parts[f"act{i - 1}"] = nn.LeakyReLU(SLOPE)
            parts[f"conv{i}"] = conv(len(factor), channels, channels, STEP_EDGE, stride=stride, bias=False)
        self.steps = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(whole_cells(x, self.factor, self.ceil))  # type: ignore[no-any-return]


def pixel_unshuffle(x: Tensor, factor: tuple[int, ...]) -> Tensor:
    """``[b, c, *(size * factor)] -> [b, c * prod(factor), *size]``, the inverse of ``pixel_shuffle``."""
    dims = len(factor)
    cells = [n for whole, f in zip(x.shape[2:], factor, strict=True) for n in (whole // f, f)]
    x = x.reshape(*x.shape[:2], *cells)  # size_0, factor_0, size_1, factor_1
    x = x.permute(0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2))
    return x.flatten(1, 1 + dims)


class SpaceToDepthAlignment(nn.Module):
    """The voxels of a cell side by side as channels, nothing thrown away (SPD-Conv, arXiv:2208.03641, section 3).

    With the source's projection behind it this is a convolution with kernel = stride, but in front of cells of more
    than 2^d voxels a 1x1 convolution narrows the map, so that at most 2^d times the channels come out.
    """

    def __init__(self, channels: int, factor: tuple[int, ...], ceil: bool) -> None:
        super().__init__()
        self.factor = factor
        self.ceil = ceil
        width = folded_width(channels, factor)
        narrows = width < channels
        self.reduction = conv(len(factor), channels, width, 1, bias=False) if narrows else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return pixel_unshuffle(whole_cells(self.reduction(x), self.factor, self.ceil), self.factor)


NO_GATES: Mapping[Gate, Tensor] = MappingProxyType({})
"""The gates of a source whose attention reads no second map."""


class SourceModule(nn.Module):
    """One source of a decoder node: aligned, projected by a 1x1 convolution, and reweighted.

    A finer source is aligned and then projected; a coarser one projected and then interpolated, which is the same
    function as the other order and cheaper. A larger projection does not commute with interpolation: it is applied
    ``on_node_grid``. Parts that a source does not need are ``nn.Identity``. Attention that reads a second map is handed
    the one called ``gate``.
    """

    def __init__(
        self,
        alignment: nn.Module,
        projection: nn.Module,
        attention: nn.Module,
        *,
        gate: Gate | None = None,
        on_node_grid: bool = False,
    ) -> None:
        super().__init__()
        self.gate: Gate | None = gate
        self.on_node_grid = on_node_grid
        self.alignment = alignment
        self.projection = projection
        self.attention = attention

    def forward(self, x: Tensor, size: Sequence[int], gates: Mapping[Gate, Tensor] = NO_GATES) -> Tensor:
        x = self.alignment(x)  # [b, c_aligned, *size], or coarser
        x = self.projection(interpolate(x, size) if self.on_node_grid else x)  # [b, c, *size], or coarser
        x = interpolate(x, size)  # [b, c, *size]
        return self.attention(x) if self.gate is None else self.attention(x, gates[self.gate])  # type: ignore[no-any-return]
