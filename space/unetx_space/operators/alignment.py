"""Bringing a source of any level to a decoder node's level.

An alignment is built by ``(channels, factor, ceil)`` and brings a finer map down by ``factor`` per axis. Rounding up
(``ceil``) belongs to backbones whose strided convolutions round up, rounding down to those that pool: ceilings of
ceilings (and floors of floors) compose, so that the result has the node's exact size for any input size.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unetx_space.operators.nd import average_pool, interpolate, max_pool


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


class Source(nn.Module):
    """One source of a decoder node: aligned, projected by a 1x1 convolution, and reweighted.

    A finer source is aligned and then projected; a coarser one projected and then interpolated, which is the same
    function as the other order and cheaper. Parts that a source does not need are ``nn.Identity``.
    """

    def __init__(self, alignment: nn.Module, projection: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.alignment = alignment
        self.projection = projection
        self.attention = attention

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        x = self.projection(self.alignment(x))  # [b, c, *size], or coarser
        return self.attention(interpolate(x, size))  # type: ignore[no-any-return]
