"""The plan of a network: its build steps in order, with every channel count and scale; no torch.

Whatever a dimension or a shape decides is decided here, so that the modules are built from plain numbers and the cost
is arithmetic on them. Only what reaches the output is planned. An architecture with faults has no plan: ask
``validity.faults`` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone, EncoderBlock, Norm
from unetx_space.genome import NO_ATTENTION, DecoderNode, Relation, StageRef, encoder, live_nodes, relation
from unetx_space.operators.catalogue import ALIGNMENTS, FUSIONS, PLACEMENTS, AttentionContext, Placement

Projection = Literal["identity", "pointwise", "block"]
"""How a source gets the width at which it enters: as it is, by a 1x1 convolution, or by convolution, normalisation and
activation on the node's grid."""


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """The convolutions of an encoder stage or of a decoder node."""

    kind: EncoderBlock
    c_in: int
    c_out: int
    stride: tuple[int, ...]
    """Reduction per axis on the way in."""
    depth: int
    """Convolutions when plain, blocks of two convolutions when residual."""
    pool: bool = False
    """Max pooling reduces the map, not the first convolution."""

    @property
    def is_strided(self) -> bool:
        """Whether a convolution, and no pooling, reduces the map."""
        return not self.pool and max(self.stride) > 1

    @property
    def has_shortcut_convolution(self) -> bool:
        """Whether the first residual block has a convolution on its shortcut; the later ones never have."""
        return self.c_in != self.c_out or (self.kind == "residual" and self.is_strided)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The build step of an encoder stage."""

    ref: StageRef
    block: BlockPlan


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """The build step of one source of a decoder node: aligned, projected, reweighted by attention."""

    ref: StageRef
    relation: Relation
    c_in: int
    c_aligned: int
    """Channels after alignment, before the projection."""
    c_out: int
    projection: Projection
    """How ``c_aligned`` channels become ``c_out``."""
    alignment: str | None
    """Name in ALIGNMENTS for a finer source, otherwise None."""
    factor: tuple[int, ...]
    """Reduction per axis between the two levels, whichever is finer."""
    attention: str
    """Name in ATTENTIONS, applied to the source as it enters the fusion."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """The build step of a decoder node: upsample, align the sources, fuse, attend, convolve, attend."""

    ref: StageRef
    coarser: StageRef
    c_coarser: int
    c_upsampled: int
    c_out: int
    """Channels of the node's output."""
    stride: tuple[int, ...]
    upsampler: str
    sources: tuple[SourcePlan, ...]
    """The sources in the order of their references, which is that of concatenation; the upsampled map comes last."""
    fusion: str
    c_fused: int
    fused_attention: str
    block: BlockPlan
    block_attention: str

    def attention_context(self, channels: int, norm: Norm = "instance") -> AttentionContext:
        """The plain numbers from which attention on a map of ``channels`` in this node is built and priced."""
        return AttentionContext(channels, self.stride, self.c_upsampled, self.c_coarser, norm)


@dataclass(frozen=True, slots=True)
class Plan:
    """All build steps of a network, each after those it reads."""

    backbone: Backbone
    stem: BlockPlan | None
    """The convolution before the first encoder stage; None where the backbone has none."""
    encoder: tuple[StagePlan, ...]
    nodes: tuple[NodePlan, ...]
    side_heads: tuple[NodePlan, ...]
    """Nodes with a head of their own for deep supervision, beside the output."""

    @property
    def output(self) -> StageRef:
        """The node that the head reads."""
        return self.nodes[-1].ref


def make_plan(architecture: Architecture) -> Plan:
    """The plan of an architecture without faults."""
    backbone, live = architecture.backbone, live_nodes(architecture.genome)
    nodes = tuple(_node_plan(node, backbone) for node in live)
    stem, c_in = None, backbone.in_channels
    if backbone.encoder_block == "resnet-d":
        stem = BlockPlan("plain", c_in, backbone.widths[0], (1,) * backbone.dims, depth=1)
        c_in = stem.c_out
    stages = []
    for level in range(max(ref.level for node in live for ref in node.reads) + 1):
        stages.append(_stage_plan(backbone, level, c_in))
        c_in = backbone.widths[level]
    return Plan(backbone, stem, tuple(stages), nodes, _side_heads(nodes, backbone))


def _side_heads(nodes: tuple[NodePlan, ...], backbone: Backbone) -> tuple[NodePlan, ...]:
    others = nodes[:-1] if backbone.deep_supervision else ()
    of_level_0 = tuple(node for node in others if node.ref.level == 0)  # several columns, as in UNet++
    return of_level_0 or others


def _stage_plan(backbone: Backbone, level: int, c_in: int) -> StagePlan:
    block = BlockPlan(
        kind=backbone.encoder_block,
        c_in=c_in,
        c_out=backbone.widths[level],
        stride=backbone.strides[level],
        depth=_depth(backbone.encoder_depth, level),
        pool=backbone.downsampling == "max-pool" and level > 0,
    )
    return StagePlan(encoder(level), block)


def _depth(depths: int | tuple[int, ...], level: int) -> int:
    return depths if isinstance(depths, int) else depths[level]


def _channels(ref: StageRef, backbone: Backbone) -> int:
    return backbone.widths[ref.level] if ref.kind == "E" else backbone.decoder_width(ref.level)


def _node_plan(node: DecoderNode, backbone: Backbone) -> NodePlan:
    level, width = node.ref.level, backbone.decoder_width(node.ref.level)
    c_upsampled = backbone.source_width or width
    at: dict[Placement, str] = dict.fromkeys(PLACEMENTS, NO_ATTENTION.type)
    if node.attention.placement is not None:
        at[node.attention.placement] = node.attention.type
    sources = tuple(_source_plan(ref, node, backbone, at["source"]) for ref in sorted(node.sources))
    c_fused = FUSIONS[node.fusion].out_channels((*(source.c_out for source in sources), c_upsampled))
    return NodePlan(
        ref=node.ref,
        coarser=node.coarser,
        c_coarser=_channels(node.coarser, backbone),
        c_upsampled=c_upsampled,
        c_out=width,
        stride=backbone.factor(level, node.coarser.level),
        upsampler=node.upsampler,
        sources=sources,
        fusion=node.fusion,
        c_fused=c_fused,
        fused_attention=at["fused"],
        block=BlockPlan(
            kind=backbone.decoder_block,
            c_in=c_fused,
            c_out=width,
            stride=(1,) * backbone.dims,
            depth=_depth(backbone.decoder_depth, level),
        ),
        block_attention=at["block"],
    )


def _source_plan(ref: StageRef, node: DecoderNode, backbone: Backbone, attention: str) -> SourcePlan:
    level, c_in = node.ref.level, _channels(ref, backbone)
    where = relation(ref, node.ref)
    alignment = node.alignment if where == "finer" else None
    factor = backbone.factor(min(ref.level, level), max(ref.level, level))
    c_aligned = ALIGNMENTS[alignment].out_channels(c_in, factor) if alignment else c_in
    c_upsampled = backbone.source_width or backbone.decoder_width(level)
    # Same-level sources enter as they are where the fusion allows it; others get the upsampled map's width.
    must_widen = c_in != c_upsampled and FUSIONS[node.fusion].equal_widths
    projection: Projection = "pointwise" if must_widen or where != "same" else "identity"
    if backbone.source_width is not None:
        projection = "block"
    return SourcePlan(
        ref=ref,
        relation=where,
        c_in=c_in,
        c_aligned=c_aligned,
        c_out=c_in if projection == "identity" else c_upsampled,
        projection=projection,
        alignment=alignment,
        factor=factor,
        attention=attention,
    )
