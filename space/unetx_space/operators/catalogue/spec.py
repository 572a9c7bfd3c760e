"""What every operator says about itself: the shapes of the catalogue's entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from unetx_space.genome import PLACEMENTS, Placement

Gate = Literal["upsampled", "coarse"]
"""The map that decides what a gated attention lets through: the node's coarser input after or before upsampling."""
Size = tuple[int, ...]
"""Voxels per axis of a map."""
Stride = tuple[int, ...]
"""Finer voxels per coarser one along each axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What every operator says about itself."""

    name: str
    title: str
    note: str
    """One line: what it does and what it costs or risks."""
    equation: str
    """Markdown with LaTeX between dollars, ``x`` what it reads and ``y`` what it gives; the reference page declares the
    other letters. Without LaTeX's spaces, whose backslashes Markdown would take for its own."""
    paper: str = ""
    dims: tuple[int, ...] = (2, 3)
    """Where it can be built."""
    min_channels: int = 1
    keeps_input: bool = True
    """Training keeps what it reads until the backward pass."""
    keeps_output: bool = False
    """Training keeps what it gives, whatever comes behind."""


@dataclass(frozen=True, slots=True)
class AttentionContext:
    """Where an attention operator sits in a decoder node: the plain numbers it is built and priced from."""

    channels: int
    """Of the map that it reweights, which has the node's size."""
    stride: tuple[int, ...]
    """Reduction per axis from the node's level to the coarser one."""
    c_upsampled: int
    """Channels of the upsampled map, which has the node's size."""
    c_coarse: int
    """Channels of the coarser input before upsampling."""

    @property
    def dims(self) -> int:
        return len(self.stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec(Spec):
    """Reweights a map; shape unchanged."""

    n_parameters: Callable[[AttentionContext], int]
    """(context); a normalisation of any kind has a scale and a shift per channel"""
    conv_macs: Callable[[AttentionContext, Size, Size], int]
    """(context, size of the map, size of the coarser input)"""
    other_macs: Callable[[AttentionContext, Size, Size], int]
    """(context, size of the map, size of the coarser input)"""
    kept_values: Callable[[AttentionContext, Size, Size], int]
    """(context, size of the map, size of the coarser input): what training keeps beside input, gate and output"""
    keeps_gate: bool = False
    gate: Gate | None = None
    """The map it reads beside the one it reweights; known only where sources enter, hence placement ``source``."""
    placements: tuple[Placement, ...] = PLACEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsamplerSpec(Spec):
    """Brings ``c_in`` channels on ``sites`` coarse voxels to ``c_out`` on ``sites * prod(stride)`` fine ones."""

    n_parameters: Callable[[int, int, Stride], int]
    """(c_in, c_out, stride)"""
    conv_macs: Callable[[int, int, Stride, int], int]
    """(c_in, c_out, stride, sites)"""
    other_macs: Callable[[int, int, Stride, int], int]
    """(c_in, c_out, stride, sites)"""
    kept_values: Callable[[int, int, Stride, int], int]
    """(c_in, c_out, stride, sites): what training keeps beside input and output"""
    optional_bias: bool = False
    """Built without a bias, hence with ``c_out`` fewer parameters, where the backbone's convolutions have none."""


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
    kept_values: Callable[[int, int, int], int]
    """(n_inputs, out_channels, sites): what training keeps beside inputs and output"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentSpec(Spec):
    """Brings a finer source of ``channels`` on ``sites`` voxels down by ``factor`` per axis, to ``target`` voxels.

    A 1x1 projection follows it.
    """

    out_channels: Callable[[int, Stride], int]
    """(channels, factor)"""
    n_parameters: Callable[[int, Stride], int]
    """(channels, factor)"""
    conv_macs: Callable[[int, Stride, int, int], int]
    """(channels, factor, sites, target)"""
    other_macs: Callable[[int, Stride, int, int], int]
    """(channels, factor, sites, target)"""
    kept_values: Callable[[int, Stride, int, int], int]
    """(channels, factor, sites, target): what training keeps beside input and output"""


def taps(edge: int, dims: int) -> int:
    """Weights of a kernel with ``edge`` voxels along each axis."""
    return edge * edge if dims == 2 else edge * edge * edge
