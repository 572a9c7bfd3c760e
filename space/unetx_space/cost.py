"""Parameters and multiply-adds of an architecture from its plan alone; no torch, a fraction of a millisecond.

Parameters and ``conv_macs`` are exact (``torch.utils.flop_counter`` counts two FLOPs for each of the latter).
Normalisations, activations and copies are left out, as everywhere in the field.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS, taps
from unetx_space.plan import BlockPlan, NodePlan, Plan, SourcePlan, make_plan


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one forward pass of one patch (batch 1)."""

    n_parameters: int
    conv_macs: int
    """Convolutions, transposed convolutions and matrix products."""
    other_macs: int
    """Interpolation and sampling (2^dims per value), pooling, gating and adding (1 per value)."""

    @property
    def macs(self) -> int:
        """What a limit judges: all multiply-adds."""
        return self.conv_macs + self.other_macs

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.n_parameters + other.n_parameters,
            self.conv_macs + other.conv_macs,
            self.other_macs + other.other_macs,
        )


FREE = Cost(0, 0, 0)


def cost(architecture: Architecture, patch: tuple[int, ...]) -> Cost:
    """The cost of an architecture without faults on an input of ``patch`` voxels."""
    return plan_cost(make_plan(architecture), patch)


def plan_cost(plan: Plan, patch: tuple[int, ...]) -> Cost:
    """The same for a plan that was made already."""
    backbone = plan.backbone
    sizes = backbone.sizes(patch)
    sites = tuple(map(prod, sizes))
    parts = [_encoder_cost(plan, sites)]
    parts += [_node_cost(node, backbone, sites) for node in plan.nodes]
    parts += [_attentions_cost(node, sizes[node.ref.level], sizes[node.coarser.level]) for node in plan.nodes]
    parts.append(_head_cost(plan.nodes[-1], backbone, sites))
    # Those are not run in a forward pass of inference, so that they cost parameters alone.
    parts += [replace(_head_cost(node, backbone, sites), conv_macs=0) for node in plan.side_heads]
    return sum(parts, FREE)


def _head_cost(node: NodePlan, backbone: Backbone, sites: tuple[int, ...]) -> Cost:
    return _conv(node.c_out, backbone.out_channels, taps(backbone.head_kernel, backbone.dims), sites[node.ref.level])


def _conv(c_in: int, c_out: int, kernel: int, sites: int, *, bias: bool = True) -> Cost:
    """A convolution of ``kernel`` taps to ``sites`` voxels."""
    weights = kernel * c_in * c_out
    return Cost(weights + (c_out if bias else 0), weights * sites, 0)


def _norm(channels: int) -> Cost:
    """A scale and a shift per channel."""
    return Cost(2 * channels, 0, 0)


def _block_cost(block: BlockPlan, backbone: Backbone, sites: int, sites_before: int) -> Cost:
    """From ``sites_before`` voxels to ``sites``."""
    c_in, c_out, residual = block.c_in, block.c_out, block.kind != "plain"
    n_convs = 2 * block.depth if residual else block.depth
    weights = taps(3, backbone.dims) * (c_in + (n_convs - 1) * c_out) * c_out
    per_channel = n_convs * (3 if backbone.conv_bias else 2)
    total = Cost(weights + per_channel * c_out, weights * sites, c_in * sites_before if block.pool else 0)
    return total + _shortcuts_cost(block, sites, sites_before) if residual else total


def _shortcuts_cost(block: BlockPlan, sites: int, sites_before: int) -> Cost:
    """One sum per residual block, and what brings the first shortcut to its size and width."""
    total = Cost(0, 0, block.depth * block.c_out * sites)
    if block.has_shortcut_convolution:
        total += _conv(block.c_in, block.c_out, 1, sites, bias=False) + _norm(block.c_out)
    if block.kind == "resnet-d" and block.is_strided:
        total += Cost(0, 0, block.c_in * sites_before)
    return total


def _encoder_cost(plan: Plan, sites: tuple[int, ...]) -> Cost:
    total = FREE if plan.stem is None else _block_cost(plan.stem, plan.backbone, sites[0], sites[0])
    for level, stage in enumerate(plan.encoder):
        total += _block_cost(stage.block, plan.backbone, sites[level], sites[max(0, level - 1)])
    return total


def _node_cost(node: NodePlan, backbone: Backbone, sites: tuple[int, ...]) -> Cost:
    here = sites[node.ref.level]
    total = _upsampler_cost(node, backbone, sites[node.coarser.level])
    for source in node.sources:
        total += _source_cost(source, backbone, sites[source.ref.level], here)
    total += _fusion_cost(node, here)
    return total + _block_cost(node.block, backbone, here, here)


def _upsampler_cost(node: NodePlan, backbone: Backbone, sites: int) -> Cost:
    spec, c_in, c_out = UPSAMPLERS[node.upsampler], node.c_coarser, node.c_upsampled
    total = Cost(
        spec.n_parameters(c_in, c_out, node.stride),
        spec.conv_macs(c_in, c_out, node.stride, sites),
        spec.other_macs(c_in, c_out, node.stride, sites),
    )
    if spec.optional_bias and not backbone.conv_bias:
        total += Cost(-c_out, 0, 0)
    return total + _norm(c_out) if backbone.normalise_upsampled else total


def _source_cost(source: SourcePlan, backbone: Backbone, sites: int, target: int) -> Cost:
    """From ``sites`` voxels of the source to ``target`` voxels of the node."""
    total = FREE
    if source.alignment is not None:
        spec = ALIGNMENTS[source.alignment]
        total += Cost(
            spec.n_parameters(source.c_in, source.factor),
            spec.conv_macs(source.c_in, source.factor, sites, target),
            spec.other_macs(source.c_in, source.factor, sites, target),
        )
    return total + _projection_cost(source, backbone, sites, target)


def _projection_cost(source: SourcePlan, backbone: Backbone, sites: int, target: int) -> Cost:
    """With the interpolation of a coarser source: behind a 1x1 convolution, but in front of a 3^d one."""
    c_in, c_out, bias = source.c_aligned, source.c_out, backbone.conv_bias
    match source.projection:
        case "block":
            total = _conv(c_in, c_out, taps(3, backbone.dims), target, bias=bias) + _norm(c_out)
        case "pointwise":
            total = _conv(c_in, c_out, 1, min(sites, target), bias=bias)
        case "identity":
            total = FREE
    if source.relation == "coarser":
        c_interpolated = c_in if source.projection == "block" else c_out
        total += Cost(0, 0, (c_interpolated << backbone.dims) * target)
    return total


def _fusion_cost(node: NodePlan, sites: int) -> Cost:
    spec, n_inputs = FUSIONS[node.fusion], len(node.sources) + 1
    return Cost(
        spec.n_parameters(n_inputs, node.c_fused),
        spec.conv_macs(n_inputs, node.c_fused, sites),
        spec.other_macs(n_inputs, node.c_fused, sites),
    )


def _attentions_cost(node: NodePlan, size: tuple[int, ...], coarse: tuple[int, ...]) -> Cost:
    """Of all attention in a node of ``size`` whose coarser input has the size ``coarse``."""
    total, places = FREE, [(source.attention, source.c_out) for source in node.sources]
    for name, channels in (*places, (node.fused_attention, node.c_fused), (node.block_attention, node.c_out)):
        spec, at = ATTENTIONS[name], node.attention_context(channels)
        total += Cost(spec.n_parameters(at), spec.conv_macs(at, size, coarse), spec.other_macs(at, size, coarse))
    return total
