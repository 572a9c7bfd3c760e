"""Parameters and multiply-adds of an architecture from its plan alone; no torch, a fraction of a millisecond.

Parameters and ``conv_macs`` are exact (``torch.utils.flop_counter`` counts two FLOPs for each of the latter).
Normalisations, activations and copies are left out, as everywhere in the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone
from unetx_space.genome import StageRef
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS, taps
from unetx_space.plan import BlockPlan, NodePlan, Plan, SourcePlan, make_plan


@dataclass(frozen=True, slots=True)
class Cost:
    """The parameters of a network, and the multiply-adds of its forward pass for one patch (batch 1)."""

    n_parameters: int
    conv_macs: int
    """Convolutions, transposed convolutions and matrix products."""
    other_macs: int
    """Interpolation and sampling (2^dims per value), pooling, gating and adding (1 per value)."""

    @property
    def macs(self) -> int:
        """All multiply-adds, by which limits judge."""
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
    """``cost`` from a plan that was made already."""
    return sum(part_costs(plan, patch).values(), FREE)


def part_costs(plan: Plan, patch: tuple[int, ...]) -> dict[StageRef, Cost]:
    """The cost of every encoder stage and decoder node; the stem counts as part of E0, a head as part of its node."""
    backbone = plan.backbone
    sizes = backbone.sizes(patch)
    sites = tuple(map(prod, sizes))
    parts = {
        stage.ref: _block_cost(stage.block, backbone, sites[level], sites[max(0, level - 1)])
        for level, stage in enumerate(plan.encoder)
    }
    if plan.stem is not None:
        parts[plan.encoder[0].ref] += _block_cost(plan.stem, backbone, sites[0], sites[0])
    parts |= {node.ref: sum(_node_costs(node, backbone, sizes), FREE) for node in plan.nodes}
    parts[plan.nodes[-1].ref] += _head_cost(plan.nodes[-1], backbone, sites)
    for node in plan.side_heads:  # not run in a forward pass of inference, so that they cost parameters alone
        parts[node.ref] += replace(_head_cost(node, backbone, sites), conv_macs=0)
    return parts


def _head_cost(node: NodePlan, backbone: Backbone, sites: tuple[int, ...]) -> Cost:
    return _conv(node.c_out, backbone.out_channels, taps(backbone.head_kernel, backbone.dims), sites[node.ref.level])


def _conv(c_in: int, c_out: int, kernel: int, sites: int, *, bias: bool = True) -> Cost:
    """A convolution of ``kernel`` taps to ``sites`` voxels."""
    weights = kernel * c_in * c_out
    return Cost(weights + (c_out if bias else 0), weights * sites, 0)


def _norm(channels: int) -> Cost:
    """A scale and a shift per channel."""
    return Cost(2 * channels, 0, 0)


def _operator(spec: Any, built: tuple[Any, ...], *sizes: Any) -> Cost:
    """An operator that is built with ``built``, on maps of ``sizes`` (or of so many voxels)."""
    return Cost(spec.n_parameters(*built), spec.conv_macs(*built, *sizes), spec.other_macs(*built, *sizes))


def _block_cost(block: BlockPlan, backbone: Backbone, sites: int, sites_before: int) -> Cost:
    """The cost of a block that brings a map of ``sites_before`` voxels to ``sites``."""
    c_in, c_out, residual = block.c_in, block.c_out, block.kind != "plain"
    n_convs = 2 * block.depth if residual else block.depth
    weights = taps(3, backbone.dims) * (c_in + (n_convs - 1) * c_out) * c_out
    per_channel = n_convs * (3 if backbone.conv_bias else 2)
    total = Cost(weights + per_channel * c_out, weights * sites, c_in * sites_before if block.pool else 0)
    if residual:
        total += Cost(0, 0, block.depth * c_out * sites)  # a sum for each block
        if block.has_shortcut_convolution:
            total += _conv(c_in, c_out, 1, sites, bias=False) + _norm(c_out)
        if block.kind == "resnet-d" and block.is_strided:
            total += Cost(0, 0, c_in * sites_before)
    return total


def _node_costs(node: NodePlan, backbone: Backbone, sizes: tuple[tuple[int, ...], ...]) -> Iterator[Cost]:
    size, coarse = sizes[node.ref.level], sizes[node.coarser.level]
    sites, upsampler, c_up = prod(size), UPSAMPLERS[node.upsampler], node.c_upsampled
    yield _operator(upsampler, (node.c_coarser, c_up, node.stride), prod(coarse))
    if upsampler.optional_bias and not backbone.conv_bias:
        yield Cost(-c_up, 0, 0)
    if backbone.normalise_upsampled:
        yield _norm(c_up)
    for source in node.sources:
        yield _source_cost(source, backbone, prod(sizes[source.ref.level]), sites)
    yield _operator(FUSIONS[node.fusion], (len(node.sources) + 1, node.c_fused), sites)
    places = [(source.attention, source.c_out) for source in node.sources]
    for name, channels in (*places, (node.fused_attention, node.c_fused), (node.block_attention, node.c_out)):
        yield _operator(ATTENTIONS[name], (node.attention_context(channels),), size, coarse)
    yield _block_cost(node.block, backbone, sites, sites)


def _source_cost(source: SourcePlan, backbone: Backbone, sites: int, target: int) -> Cost:
    """The cost of bringing ``sites`` voxels of a source to ``target`` voxels of its node.

    A coarser source is interpolated behind a 1x1 convolution, but in front of a 3^d one.
    """
    total, c_in, c_out, bias = FREE, source.c_aligned, source.c_out, backbone.conv_bias
    if source.alignment is not None:
        total += _operator(ALIGNMENTS[source.alignment], (source.c_in, source.factor), sites, target)
    match source.projection:
        case "block":
            total += _conv(c_in, c_out, taps(3, backbone.dims), target, bias=bias) + _norm(c_out)
        case "pointwise":
            total += _conv(c_in, c_out, 1, min(sites, target), bias=bias)
    if source.relation == "coarser":
        c_interpolated = c_in if source.projection == "block" else c_out
        total += Cost(0, 0, (c_interpolated << backbone.dims) * target)
    return total
