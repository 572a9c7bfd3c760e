"""The four families of operators, each with what its reference pages need beside the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from node_picture import Gate, Place

from unetx_space.operators.catalogue import (
    ALIGNMENTS,
    ATTENTIONS,
    FUSIONS,
    UPSAMPLERS,
    AlignmentSpec,
    AttentionContext,
    AttentionSpec,
    FusionSpec,
    Spec,
    UpsamplerSpec,
)

Size = tuple[int, ...]
SIZES: tuple[Size, ...] = ((64, 64), (32, 32, 32))
"""Of the maps that costs are worked out on."""


@dataclass(frozen=True, slots=True)
class CostRow:
    """What an operator costs in one setting."""

    setting: str
    n_parameters: int
    conv_macs: int
    other_macs: int
    saved_values: int


@dataclass(frozen=True, slots=True)
class Picture:
    """Where an operator sits."""

    name: str
    caption: str
    marked: tuple[Place, ...]
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Operators of one gene."""

    name: str
    title: str
    does: str
    """One sentence: what the gene decides."""
    letters: str
    """Of the equations, beside those that each equation explains."""
    specs: Mapping[str, Spec]
    costs: Callable[[Any], Iterator[CostRow]]
    limits: Callable[[Any], Iterator[str]]
    picture: Callable[[Any], Picture | None]


def _by(size: Size) -> str:
    return "x".join(map(str, size))


def _attention_costs(spec: AttentionSpec) -> Iterator[CostRow]:
    for size in SIZES:
        coarse = tuple(n // 2 for n in size)
        at = AttentionContext(channels=64, stride=(2,) * len(size), c_upsampled=64, c_coarse=128)
        setting = f"64 channels on {_by(size)}" + (f", the {spec.gate} map as gate" if spec.gate else "")
        yield CostRow(
            setting,
            spec.n_parameters(at),
            spec.conv_macs(at, size, coarse),
            spec.other_macs(at, size, coarse),
            spec.saved_values(at, size, coarse),
        )


def _attention_limits(spec: AttentionSpec) -> Iterator[str]:
    if spec.placements:
        yield f"Placements: {', '.join(f'`{spec.name}@{place}`' for place in spec.placements)}."
    if spec.gate:
        yield f"On sources only, because it reads the {spec.gate} map as well."


def _attention_picture(spec: AttentionSpec) -> Picture | None:
    if not spec.placements:
        return None
    if spec.gate:
        caption = f"Attention on each source, decided by the {spec.gate} map"
        return Picture(f"attention-{spec.gate}-gate", caption, spec.placements, spec.gate)
    return Picture("attention", "Attention on each source, on the fused map, or behind the block", spec.placements)


def _upsampler_costs(spec: UpsamplerSpec) -> Iterator[CostRow]:
    for size, stride in ((SIZES[0], (2, 2)), (SIZES[1], (2, 2, 2)), (SIZES[1], (1, 2, 2))):
        fine = tuple(n * s for n, s in zip(size, stride, strict=True))
        yield CostRow(
            f"64 to 32 channels, {_by(size)} to {_by(fine)}",
            spec.n_parameters(64, 32, stride),
            spec.conv_macs(64, 32, stride, prod(size)),
            spec.other_macs(64, 32, stride, prod(size)),
            spec.saved_values(64, 32, stride, prod(size)),
        )


def _upsampler_limits(spec: UpsamplerSpec) -> Iterator[str]:
    yield "Any stride per axis."
    if spec.optional_bias:
        yield "Its bias is the backbone's `conv_bias`; counted here."


def _fusion_costs(spec: FusionSpec) -> Iterator[CostRow]:
    channels = spec.out_channels((64, 64, 64))
    for size in SIZES:
        yield CostRow(
            f"two sources and the upsampled map, 64 channels each, on {_by(size)}: {channels} channels",
            spec.n_parameters(3, channels),
            spec.conv_macs(3, channels, prod(size)),
            spec.other_macs(3, channels, prod(size)),
            spec.saved_values(3, channels, prod(size)),
        )


def _fusion_limits(spec: FusionSpec) -> Iterator[str]:
    if spec.equal_widths:
        yield "All maps have the node's width: a source of another width is projected by a 1x1 convolution first."
    else:
        yield "Maps of any width."


def _alignment_costs(spec: AlignmentSpec) -> Iterator[CostRow]:
    for size, factor in ((SIZES[0], (2, 2)), (SIZES[1], (2, 2, 2)), (SIZES[1], (4, 4, 4))):
        target = tuple(n // f for n, f in zip(size, factor, strict=True))
        yield CostRow(
            f"64 channels, {_by(size)} to {_by(target)}: {spec.out_channels(64, factor)} channels",
            spec.n_parameters(64, factor),
            spec.conv_macs(64, factor, prod(size), prod(target)),
            spec.other_macs(64, factor, prod(size), prod(target)),
            spec.saved_values(64, factor, prod(size), prod(target)),
        )


def _alignment_limits(spec: AlignmentSpec) -> Iterator[str]:
    yield "Any factor per axis, any size; acts on finer sources only, a coarser one is always interpolated."
    yield "A projection to the node's width follows it, whose costs are not counted here."


FAMILIES: tuple[Family, ...] = (
    Family(
        name="attention",
        title="Attention",
        does="Reweights a map and keeps its shape: a source, the fused map, or the output of the block.",
        letters=r"$x$ is the map that is reweighted, $g$ the one that decides, where the operator reads one; "
        r"$\bar x$ the mean of each channel, $\sigma$ the sigmoid, $\ast$ a convolution, $[ ; ]$ channels side by "
        r"side, $N$ the backbone's normalisation, $U$ linear interpolation, $h$ hard swish. The others are learned.",
        specs=ATTENTIONS,
        costs=_attention_costs,
        limits=_attention_limits,
        picture=_attention_picture,
    ),
    Family(
        name="upsampler",
        title="Upsamplers",
        does="Brings the one coarser input of a node up to its level and width.",
        letters=r"$p$ is a coarse voxel, $u$ a fine one, and $s p + q$ the voxel $q$ of the cell of $p$ at stride $s$; "
        r"$\ast$ is a convolution, $U$ linear interpolation, $\sigma$ the sigmoid, $\bar x$ the mean of each channel. "
        r"$W$, $C$, $E$, $O$, $b$ and kernels $k$ are learned.",
        specs=UPSAMPLERS,
        costs=_upsampler_costs,
        limits=_upsampler_limits,
        picture=lambda spec: Picture("upsampler", "The upsampler of a decoder node", ("upsampler",)),
    ),
    Family(
        name="fusion",
        title="Fusions",
        does="Makes one map of a node's sources and its upsampled input. Of one map alone every fusion is that map.",
        letters="$x_1$ to $x_n$ are the sources, $u$ the upsampled map, $[ ; ]$ puts channels side by side. "
        "$W$, $b$ and $p$ are learned.",
        specs=FUSIONS,
        costs=_fusion_costs,
        limits=_fusion_limits,
        picture=lambda spec: Picture("fusion", "The fusion of a decoder node", ("fusion",)),
    ),
    Family(
        name="alignment",
        title="Alignments",
        does="Brings a finer source down to the node's level.",
        letters=r"$p$ is a voxel of the node's level, and $f p + q$ the voxel $q$ of its cell in the source, for a "
        r"factor $f$; $\ast$ is a convolution, $[ ]_q$ puts channels side by side. Kernels $k$ and $R$ are learned.",
        specs=ALIGNMENTS,
        costs=_alignment_costs,
        limits=_alignment_limits,
        picture=lambda spec: Picture("alignment", "The alignment of a finer source", ("alignment",)),
    ),
)
