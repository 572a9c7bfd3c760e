"""``build`` makes the network of an architecture, a SkipUNet; this is the one way from the data to torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone, EncoderBlock
from unetx_space.errors import RequestError
from unetx_space.genome import StageRef
from unetx_space.initial_values import initialise
from unetx_space.operators.alignment import SourceModule
from unetx_space.operators.blocks import NormAct, PlainStage, ResidualStage, ResNetDStage, Style
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS, Gate, Spec
from unetx_space.operators.nd import conv
from unetx_space.operators.upsampling import crop_or_pad
from unetx_space.plan import BlockPlan, NodePlan, SourcePlan, make_plan
from unetx_space.validity import faults

BLOCK_MODULES: Mapping[EncoderBlock, Callable[..., nn.Module]] = {
    "plain": PlainStage,
    "residual": ResidualStage,
    "resnet-d": ResNetDStage,
}
"""The module of each kind of block, built with (c_in, c_out, stride, style, depth, pool)."""


def module_of(spec: Spec) -> type[nn.Module]:
    """The torch class of an operator of the catalogue."""
    found: type[nn.Module] = resolve_name(spec.module)
    return found


def build(architecture: Architecture, *, seed: int = 0) -> SkipUNet:
    """The network of an architecture; its initial values depend on the seed and the parameters' names only.

    Raises RequestError, listing the faults, for an architecture that has any.
    """
    if found := faults(architecture):
        raise RequestError("an architecture with faults cannot be built:\n" + "\n".join(map(str, found)))
    with torch.device("meta"):  # no memory and no torch default values, which would draw from the global generator
        network = SkipUNet(architecture)
    network.to_empty(device="cpu")
    initialise(network, seed)
    return network


def module_name(ref: StageRef) -> str:
    """The name of a stage in parameter names, which allow no dot inside: ``D0.1`` is ``D0_1``."""
    return str(ref).replace(".", "_")


class DecoderModule(nn.Module):
    """Fuses the upsampled coarser input with the sources: ``[b, c_out, *size of its level]``."""

    def __init__(self, plan: NodePlan, backbone: Backbone) -> None:
        super().__init__()
        dims, style = backbone.dims, _style(backbone)
        upsampler = UPSAMPLERS[plan.upsampler]
        bias: dict[str, Any] = {"bias": backbone.conv_bias} if upsampler.optional_bias else {}
        self.level = f"E{plan.ref.level}"
        self.coarser = module_name(plan.coarser)
        self.upsampler = module_of(upsampler)(plan.c_coarser, plan.c_upsampled, plan.stride, **bias)
        self.upsampled = NormAct(plan.c_upsampled, dims, style) if backbone.normalise_upsampled else nn.Identity()
        self.sources = nn.ModuleDict({module_name(s.ref): _source(s, plan, backbone) for s in plan.sources})
        self.fusion = module_of(FUSIONS[plan.fusion])(len(plan.sources) + 1, plan.c_fused)
        self.fused_attention = _attention(plan.fused_attention, plan.c_fused, plan, backbone)
        self.block = _block(plan.block, style)
        self.block_attention = _attention(plan.block_attention, plan.c_out, plan, backbone)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        size = maps[self.level].shape[2:]
        coarse = maps[self.coarser]
        up = crop_or_pad(self.upsampled(self.upsampler(coarse)), size)  # [b, c_upsampled, *size]
        gates: dict[Gate, Tensor] = {"upsampled": up, "coarse": coarse}
        sources = [source(maps[name], size, gates) for name, source in self.sources.items()]  # each [b, c_i, *size]
        fused = self.fused_attention(self.fusion([*sources, up]))  # [b, c_fused, *size]
        return self.block_attention(self.block(fused))  # type: ignore[no-any-return]


class SkipUNet(nn.Module):
    """The network of an architecture: ``x[b, c, *size] -> logits[b, k, *size]`` for any size that leaves every level a
    voxel (instance normalisation needs two at the bottleneck, and ``faults(architecture, patch)`` says so).

    Made by ``build``, which gives it its initial values. Names say where:
    ``encoder.E1.conv1.weight``, ``decoder.D1.sources.E3.projection.weight``, ``decoder.D1.upsampler...``,
    ``decoder.D1.fused_attention...``, ``decoder.D1.block.norm2.bias``, ``head.weight``; where the backbone has them
    ``stem.conv1.weight``, ``encoder.E1.block2.conv1.weight`` (residual), ``side_heads.D1.weight``.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.plan = plan = make_plan(architecture)
        self.output = module_name(plan.output)
        backbone, style = architecture.backbone, _style(architecture.backbone)
        self.stem = nn.Identity() if plan.stem is None else _block(plan.stem, style)
        self.encoder = nn.ModuleDict({module_name(stage.ref): _block(stage.block, style) for stage in plan.encoder})
        self.decoder = nn.ModuleDict({module_name(node.ref): DecoderModule(node, backbone) for node in plan.nodes})
        self.head = _head(plan.nodes[-1], backbone)
        self.side_heads = nn.ModuleDict({module_name(node.ref): _head(node, backbone) for node in plan.side_heads})

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)[self.output])  # type: ignore[no-any-return]  # [b, k, *size]

    def forward_all(self, x: Tensor) -> list[Tensor]:
        """The logits of every head for deep supervision, the output's first, then the latest node's.

        Each has the size of its node's level. Without deep supervision in the backbone the output is the only one.
        """
        maps = self.features(x)
        sides = [head(maps[name]) for name, head in self.side_heads.items()]
        return [self.head(maps[self.output]), *reversed(sides)]

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """The output of every stage and node, each ``[b, its channels, *size of its level]``."""
        maps: dict[str, Tensor] = {}
        x = self.stem(x)
        for name, stage in self.encoder.items():
            maps[name] = x = stage(x)
        for name, node in self.decoder.items():
            maps[name] = node(maps)
        return maps


def _style(backbone: Backbone) -> Style:
    return Style(backbone.norm, backbone.conv_bias, backbone.negative_slope)


def _block(plan: BlockPlan, style: Style) -> nn.Module:
    build = BLOCK_MODULES[plan.kind]
    return build(plan.c_in, plan.c_out, plan.stride, style, depth=plan.depth, pool=plan.pool)


def _head(plan: NodePlan, backbone: Backbone) -> nn.Module:
    return conv(backbone.dims, plan.c_out, backbone.out_channels, backbone.head_kernel)


def _attention(name: str, channels: int, node: NodePlan, backbone: Backbone) -> nn.Module:
    return module_of(ATTENTIONS[name])(node.attention_context(channels, backbone.norm))


def _source(plan: SourcePlan, node: NodePlan, backbone: Backbone) -> SourceModule:
    alignment: nn.Module = nn.Identity()
    if plan.alignment is not None:
        alignment = module_of(ALIGNMENTS[plan.alignment])(plan.c_in, plan.factor, backbone.rounds_up)
    match plan.projection:
        case "identity":
            projection: nn.Module = nn.Identity()
        case "pointwise":
            projection = conv(backbone.dims, plan.c_aligned, plan.c_out, 1, bias=backbone.conv_bias)
        case "block":
            projection = PlainStage(plan.c_aligned, plan.c_out, (1,) * backbone.dims, _style(backbone), depth=1)
    return SourceModule(
        alignment,
        projection,
        _attention(plan.attention, plan.c_out, node, backbone),
        gate=ATTENTIONS[plan.attention].gate,
        on_node_grid=plan.projection == "block",
    )
