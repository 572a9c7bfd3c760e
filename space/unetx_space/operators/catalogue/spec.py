"""What every operator says about itself: the shapes of the catalogue's entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

from unetx_space.backbone import Norm

Placement = Literal["source", "fused", "block"]
PLACEMENTS: tuple[Placement, ...] = ("source", "fused", "block")
"""The places of attention: on each source before fusion, on the fused map, on the output of the node's block."""

Gate = Literal["upsampled", "coarse"]
"""The map that decides what a gated attention lets through: the node's coarser input after or before upsampling."""
Size = tuple[int, ...]
"""Voxels per axis of a map."""
Stride = tuple[int, ...]
"""Finer voxels per coarser one along each axis."""


def zero(*numbers: object) -> int:
    """The formula of an operator that has none of what is counted, whatever the numbers."""
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What every operator says about itself; a formula that is not given is 0."""

    name: str
    module: str
    """Its torch class, as ``package.file:Class``, which is imported when a network is built, never by the catalogue.
    Every class of a family is built and called in the same way, which the family's spec tells."""
    title: str
    note: str
    """What it does and what it costs or risks, in one line."""
    equation: str
    """Markdown with LaTeX between dollars, ``x`` what it reads and ``y`` what it gives; the reference page declares the
    other letters. Without LaTeX's spaces, whose backslashes Markdown would take for its own."""
    paper: str = ""
    by_default: bool = False
    """Whether a search may choose it without being asked to."""
    saves_input: bool = True
    """Whether training saves what it reads until the backward pass."""
    saves_output: bool = False
    """Whether training saves what it gives, whatever comes behind."""
    decision: tuple[str, float] | None = None
    """The layer by which it decides from the map how the map is read, and the logit at which that decision is frozen
    where a network is made linear (synaptic flow); None when it decides nothing, or is passed by there."""


@dataclass(frozen=True, slots=True)
class AttentionContext:
    """The place of an attention operator in a decoder node, as plain numbers from which it is built and priced."""

    channels: int
    """Channels of the map that it reweights, which has the node's size."""
    stride: Stride
    """Reduction per axis from the node's level to the coarser one."""
    c_upsampled: int
    """Channels of the upsampled map, which has the node's size."""
    c_coarse: int
    """Channels of the coarser input before upsampling."""
    norm: Norm = "instance"
    """The backbone's normalisation, on which no cost depends."""

    @classmethod
    def behind_upsampler(cls, c_in: int, c_out: int, stride: Stride) -> Self:
        """The context of attention that is a part of an upsampler and reweights its output."""
        return cls(c_out, stride, c_upsampled=c_out, c_coarse=c_in)

    @property
    def dims(self) -> int:
        return len(self.stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec(Spec):
    """Reweights a map; shape unchanged. Its class is built with an AttentionContext and called with ``x[b,c,*size]``,
    and with its gate where it reads one."""

    n_parameters: Callable[[AttentionContext], int] = zero
    """(context); a normalisation of any kind has a scale and a shift per channel"""
    conv_macs: Callable[[AttentionContext, Size, Size], int] = zero
    """(context, size of the map, size of the coarser input)"""
    other_macs: Callable[[AttentionContext, Size, Size], int] = zero
    """(context, size of the map, size of the coarser input)"""
    saved_values: Callable[[AttentionContext, Size, Size], int] = zero
    """(context, size of the map, size of the coarser input): what training saves beside input, gate and output"""
    saves_gate: bool = False
    """Whether training saves its gate until the backward pass."""
    gate: Gate | None = None
    """The map it reads beside the one it reweights; known only where sources enter, hence placement ``source``."""
    placements: tuple[Placement, ...] = PLACEMENTS
    """The placements that it may have; the choice of no attention has none."""
    only_reweights: bool = True
    """Whether it mixes no channels or voxels of the map itself, so that synaptic flow passes it by."""
    orders_channels: bool = False
    """Whether it treats neighbouring channels alike, so that the order of concatenated maps is part of the function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsamplerSpec(Spec):
    """Brings ``c_in`` channels on ``sites`` coarse voxels to ``c_out`` on ``sites * prod(stride)`` fine ones. Its class
    is built with ``(c_in, c_out, stride)``, and with ``bias=`` where that is optional."""

    n_parameters: Callable[[int, int, Stride], int] = zero
    """(c_in, c_out, stride)"""
    conv_macs: Callable[[int, int, Stride, int], int] = zero
    """(c_in, c_out, stride, sites)"""
    other_macs: Callable[[int, int, Stride, int], int] = zero
    """(c_in, c_out, stride, sites)"""
    saved_values: Callable[[int, int, Stride, int], int] = zero
    """(c_in, c_out, stride, sites): what training saves beside input and output"""
    optional_bias: bool = False
    """Whether it has no bias, hence ``c_out`` fewer parameters, where the backbone's convolutions have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionSpec(Spec):
    """Makes one map of several of equal size. Its class is built with ``(n_inputs, out_channels)`` and called with the
    list of maps, the upsampled one last."""

    equal_widths: bool = True
    """Whether every source must have the node's width, so that one of another width is projected first."""
    out_channels: Callable[[tuple[int, ...]], int] = lambda channels: channels[0]
    """(channels of each input)"""
    n_parameters: Callable[[int, int], int] = zero
    """(n_inputs, out_channels)"""
    conv_macs: Callable[[int, int, int], int] = zero
    """(n_inputs, out_channels, sites)"""
    other_macs: Callable[[int, int, int], int] = zero
    """(n_inputs, out_channels, sites)"""
    saved_values: Callable[[int, int, int], int] = zero
    """(n_inputs, out_channels, sites): what training saves beside inputs and output"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentSpec(Spec):
    """Brings a finer source of ``channels`` on ``sites`` voxels down by ``factor`` per axis, to ``target`` voxels.

    Its class is built with ``(channels, factor, ceil)``, rounding sizes up or down as the backbone does. A 1x1
    projection follows it.
    """

    out_channels: Callable[[int, Stride], int] = lambda channels, factor: channels
    """(channels, factor)"""
    n_parameters: Callable[[int, Stride], int] = zero
    """(channels, factor)"""
    conv_macs: Callable[[int, Stride, int, int], int] = zero
    """(channels, factor, sites, target)"""
    other_macs: Callable[[int, Stride, int, int], int] = zero
    """(channels, factor, sites, target)"""
    saved_values: Callable[[int, Stride, int, int], int] = zero
    """(channels, factor, sites, target): what training saves beside input and output"""


SpecT = TypeVar("SpecT", bound=Spec)


def by_name(*specs: SpecT) -> Mapping[str, SpecT]:
    """A family of the catalogue, in the order in which its operators are offered."""
    return {spec.name: spec for spec in specs}


def taps(edge: int, dims: int) -> int:
    """Weights of a kernel with ``edge`` voxels along each axis."""
    return edge * edge if dims == 2 else edge * edge * edge
