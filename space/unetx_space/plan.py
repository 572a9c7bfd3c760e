"""Architecture -> ordered build steps with every channel count and scale; no torch.

Whatever a dimension or a shape decides is decided here, so that the modules are built from plain numbers and the cost
is arithmetic on them. Only what reaches the output is planned. An architecture with faults has no plan: ask
``validity.faults`` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone
from unetx_space.genome import NO_ATTENTION, PLACEMENTS, DecoderNode, Genome, Placement, StageRef, encoder
from unetx_space.operators.catalogue import ALIGNMENTS, FUSIONS

Relation = Literal["same", "finer", "coarser"]
"""Where a source's level lies as seen from the node that reads it."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """An encoder stage."""

    ref: StageRef
    c_in: int
    c_out: int
    stride: tuple[int, ...]
    """Reduction per axis on the way into the stage."""


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """How one source enters a decoder node."""

    ref: StageRef
    relation: Relation
    c_in: int
    c_aligned: int
    """Channels after alignment, before the projection."""
    c_out: int
    projected: bool
    """A 1x1 convolution brings ``c_aligned`` to ``c_out``."""
    alignment: str | None
    """Name in ALIGNMENTS for a finer source, otherwise None."""
    factor: tuple[int, ...]
    """Reduction per axis between the two levels, whichever is finer."""
    attention: str
    """Name in ATTENTIONS, applied to the source as it enters the fusion."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A decoder node: upsample, align the sources, fuse, attend, convolve, attend."""

    ref: StageRef
    coarser: StageRef
    c_coarser: int
    c_out: int
    """Channels of the upsampled map and of the node's output."""
    stride: tuple[int, ...]
    upsampler: str
    sources: tuple[SourcePlan, ...]
    """In the order of their references, which is also the order of concatenation; the upsampled map comes last."""
    fusion: str
    c_fused: int
    fused_attention: str
    block_attention: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, each after the ones it reads."""

    backbone: Backbone
    encoder: tuple[StagePlan, ...]
    nodes: tuple[NodePlan, ...]

    @property
    def output(self) -> StageRef:
        """The node that the head reads."""
        return self.nodes[-1].ref

    @property
    def c_head(self) -> int:
        """Channels that the head reads."""
        return self.nodes[-1].c_out


def make_plan(architecture: Architecture) -> Plan:
    """The plan of an architecture without faults."""
    backbone, genome = architecture.backbone, architecture.genome
    nodes = tuple(_node_plan(node, backbone) for node in _in_order(genome))
    deepest = max(ref.level for node in nodes for ref in (node.coarser, *(source.ref for source in node.sources)))
    return Plan(backbone, tuple(_stage_plan(backbone, level) for level in range(deepest + 1)), nodes)


def _in_order(genome: Genome) -> list[DecoderNode]:
    """The nodes on a path to the output, each after those it reads; the output comes last."""
    order: dict[StageRef, DecoderNode] = {}

    def visit(node: DecoderNode) -> None:
        for ref in (node.coarser, *sorted(node.sources)):
            if ref.kind == "D" and ref not in order:
                visit(genome[ref])
        order[node.ref] = node

    visit(genome.output)
    return list(order.values())


def _stage_plan(backbone: Backbone, level: int) -> StagePlan:
    c_in = backbone.widths[level - 1] if level else backbone.in_channels
    return StagePlan(encoder(level), c_in, backbone.widths[level], backbone.strides[level])


def _node_plan(node: DecoderNode, backbone: Backbone) -> NodePlan:
    level, width = node.ref.level, backbone.widths[node.ref.level]
    at: dict[Placement, str] = dict.fromkeys(PLACEMENTS, NO_ATTENTION.type)
    if node.attention.placement is not None:
        at[node.attention.placement] = node.attention.type
    sources = tuple(_source_plan(ref, node, backbone, at["source"]) for ref in sorted(node.sources))
    return NodePlan(
        ref=node.ref,
        coarser=node.coarser,
        c_coarser=backbone.widths[node.coarser.level],
        c_out=width,
        stride=backbone.factor(level, node.coarser.level),
        upsampler=node.upsampler,
        sources=sources,
        fusion=node.fusion,
        c_fused=FUSIONS[node.fusion].out_channels((*(source.c_out for source in sources), width)),
        fused_attention=at["fused"],
        block_attention=at["block"],
    )


def _source_plan(ref: StageRef, node: DecoderNode, backbone: Backbone, attention: str) -> SourcePlan:
    """Same-level sources enter as they are where the fusion allows it; all others are projected to the node's width."""
    level, c_in, width = node.ref.level, backbone.widths[ref.level], backbone.widths[node.ref.level]
    relation: Relation = "same" if ref.level == level else "finer" if ref.level < level else "coarser"
    alignment = node.alignment if relation == "finer" else None
    factor = backbone.factor(min(ref.level, level), max(ref.level, level))
    projected = relation != "same" or (FUSIONS[node.fusion].equal_widths and c_in != width)
    return SourcePlan(
        ref=ref,
        relation=relation,
        c_in=c_in,
        c_aligned=ALIGNMENTS[alignment].out_channels(c_in, _voxels(factor)) if alignment else c_in,
        c_out=width if projected else c_in,
        projected=projected,
        alignment=alignment,
        factor=factor,
        attention=attention,
    )


def _voxels(size: tuple[int, ...]) -> int:
    voxels = 1
    for n in size:
        voxels *= n
    return voxels
