"""What every operator says about itself: the shapes of the catalogue's entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unetx_space.genome import PLACEMENTS, Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What every operator says about itself."""

    name: str
    title: str
    note: str
    """One line: what it does and what it costs or risks."""
    paper: str = ""
    dims: tuple[int, ...] = (2, 3)
    """Where it can be built."""
    min_channels: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec(Spec):
    """Reweights a map of ``channels``; shape unchanged."""

    n_parameters: Callable[[int, int], int]
    """(channels, dims)"""
    conv_macs: Callable[[int, int, int], int]
    """(channels, dims, sites)"""
    other_macs: Callable[[int, int, int], int]
    """(channels, dims, sites)"""
    placements: tuple[Placement, ...] = PLACEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsamplerSpec(Spec):
    """Brings ``c_in`` channels on ``sites`` coarse voxels to ``c_out`` channels on ``sites * factor`` fine ones."""

    n_parameters: Callable[[int, int, int, int], int]
    """(c_in, c_out, dims, factor)"""
    conv_macs: Callable[[int, int, int, int, int], int]
    """(c_in, c_out, dims, factor, sites)"""
    other_macs: Callable[[int, int, int, int, int], int]
    """(c_in, c_out, dims, factor, sites)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionSpec(Spec):
    """Makes one map of several of equal size."""

    equal_widths: bool
    """Every source must have the node's width, so that one of another width is projected first."""
    out_channels: Callable[[tuple[int, ...]], int]
    """(channels of each input)"""
    n_parameters: Callable[[int, int], int]
    """(n_inputs, out_channels)"""
    conv_macs: Callable[[int, int, int], int]
    """(n_inputs, out_channels, sites)"""
    other_macs: Callable[[int, int, int], int]
    """(n_inputs, out_channels, sites)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentSpec(Spec):
    """Brings a finer source of ``channels`` on ``sites`` voxels down by ``factor``; a 1x1 projection follows it."""

    out_channels: Callable[[int, int], int]
    """(channels, factor)"""
    n_parameters: Callable[[int, int, int], int]
    """(channels, dims, factor)"""
    conv_macs: Callable[[int, int, int, int], int]
    """(channels, dims, factor, sites)"""
    other_macs: Callable[[int, int, int, int], int]
    """(channels, dims, factor, sites)"""


def taps(edge: int, dims: int) -> int:
    """Weights of a kernel with ``edge`` voxels along each axis."""
    return edge * edge if dims == 2 else edge * edge * edge
