"""Parameters and multiply-adds of an architecture from its plan alone; no torch, a fraction of a millisecond.

Parameters and ``conv_macs`` are exact (``torch.utils.flop_counter`` counts two FLOPs for each of the latter).
Normalisations, activations and copies are left out, as everywhere in the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from unetx_space.architecture import Architecture
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS, taps
from unetx_space.plan import NodePlan, Plan, SourcePlan, make_plan


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
    dims = plan.backbone.dims
    sites = tuple(prod(size) for size in plan.backbone.sizes(patch))
    parts = [_encoder_cost(plan, sites)]
    parts += [_node_cost(node, dims, sites) for node in plan.nodes]
    parts.append(_pointwise(plan.c_head, plan.backbone.out_channels, sites[0], bias=True))
    return sum(parts, FREE)


def _pointwise(c_in: int, c_out: int, sites: int, *, bias: bool) -> Cost:
    """A 1x1 convolution."""
    return Cost(c_in * c_out + (c_out if bias else 0), c_in * c_out * sites, 0)


def _double_conv(c_in: int, c_out: int, dims: int, sites: int) -> Cost:
    """Two 3^d convolutions without bias, each with a scale and a shift per channel behind it."""
    weights = taps(3, dims) * (c_in + c_out) * c_out
    return Cost(weights + 4 * c_out, weights * sites, 0)


def _encoder_cost(plan: Plan, sites: tuple[int, ...]) -> Cost:
    total, pools = FREE, plan.backbone.downsampling == "max-pool"
    for level, stage in enumerate(plan.encoder):
        total += _double_conv(stage.c_in, stage.c_out, plan.backbone.dims, sites[level])
        if pools and level:
            total += Cost(0, 0, stage.c_in * sites[level - 1])
    return total


def _node_cost(node: NodePlan, dims: int, sites: tuple[int, ...]) -> Cost:
    here = sites[node.ref.level]
    total = _upsampler_cost(node, dims, sites[node.coarser.level])
    for source in node.sources:
        total += _source_cost(source, dims, sites[source.ref.level], here)
    total += _fusion_cost(node, here)
    total += _attention_cost(node.fused_attention, node.c_fused, dims, here)
    total += _double_conv(node.c_fused, node.c_out, dims, here)
    return total + _attention_cost(node.block_attention, node.c_out, dims, here)


def _upsampler_cost(node: NodePlan, dims: int, sites: int) -> Cost:
    spec, factor = UPSAMPLERS[node.upsampler], prod(node.stride)
    c_in, c_out = node.c_coarser, node.c_out
    return Cost(
        spec.n_parameters(c_in, c_out, dims, factor),
        spec.conv_macs(c_in, c_out, dims, factor, sites),
        spec.other_macs(c_in, c_out, dims, factor, sites),
    )


def _source_cost(source: SourcePlan, dims: int, sites: int, target: int) -> Cost:
    """From ``sites`` voxels of the source to ``target`` voxels of the node."""
    total, factor = FREE, prod(source.factor)
    if source.alignment is not None:
        spec = ALIGNMENTS[source.alignment]
        total += Cost(
            spec.n_parameters(source.c_in, dims, factor),
            spec.conv_macs(source.c_in, dims, factor, sites),
            spec.other_macs(source.c_in, dims, factor, sites),
        )
    if source.projected:
        total += _pointwise(source.c_aligned, source.c_out, min(sites, target), bias=False)
    if source.relation == "coarser":
        total += Cost(0, 0, (source.c_out << dims) * target)
    return total + _attention_cost(source.attention, source.c_out, dims, target)


def _fusion_cost(node: NodePlan, sites: int) -> Cost:
    spec, n_inputs = FUSIONS[node.fusion], len(node.sources) + 1
    return Cost(
        spec.n_parameters(n_inputs, node.c_fused),
        spec.conv_macs(n_inputs, node.c_fused, sites),
        spec.other_macs(n_inputs, node.c_fused, sites),
    )


def _attention_cost(name: str, channels: int, dims: int, sites: int) -> Cost:
    spec = ATTENTIONS[name]
    return Cost(
        spec.n_parameters(channels, dims), spec.conv_macs(channels, dims, sites), spec.other_macs(channels, dims, sites)
    )
