"""SkipUNet: the network of an architecture, and the one mapping from the catalogue's names to torch modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone
from unetx_space.errors import RequestError
from unetx_space.genome import StageRef
from unetx_space.initial import initialise
from unetx_space.operators.alignment import AverageAlignment, MaxAlignment, Source
from unetx_space.operators.attention import CBAM, ECA, SCSE, SqueezeExcite
from unetx_space.operators.blocks import DoubleConv
from unetx_space.operators.fusion import Concat, Sum
from unetx_space.operators.nd import conv
from unetx_space.operators.upsampling import (
    DeformableUpsampling,
    LinearUpsampling,
    PixelShuffleUpsampling,
    TransposedUpsampling,
    fit,
)
from unetx_space.plan import NodePlan, SourcePlan, StagePlan, make_plan
from unetx_space.validity import faults

ATTENTION_MODULES: Mapping[str, Callable[[int, int], nn.Module]] = {
    "none": nn.Identity,
    "se": SqueezeExcite,
    "cbam": CBAM,
    "eca": ECA,
    "scse": SCSE,
}
"""(channels, dims)"""

UPSAMPLER_MODULES: Mapping[str, Callable[[int, int, tuple[int, ...]], nn.Module]] = {
    "linear": LinearUpsampling,
    "transposed": TransposedUpsampling,
    "pixel-shuffle": PixelShuffleUpsampling,
    "deformable": DeformableUpsampling,
}
"""(c_in, c_out, stride)"""

FUSION_MODULES: Mapping[str, Callable[[int, int], nn.Module]] = {
    "concat": Concat,
    "sum": Sum,
}
"""(n_inputs, channels)"""

ALIGNMENT_MODULES: Mapping[str, Callable[[int, tuple[int, ...], bool], nn.Module]] = {
    "max": MaxAlignment,
    "average": AverageAlignment,
}
"""(channels, factor, ceil)"""


def module_name(ref: StageRef) -> str:
    """The stage as a part of parameter names, which allow no dot inside: ``D0.1`` is ``D0_1``."""
    return str(ref).replace(".", "_")


class DecoderNode(nn.Module):
    """Fuses the upsampled coarser input with the sources: ``[b, c_out, *size of its level]``."""

    def __init__(self, plan: NodePlan, backbone: Backbone) -> None:
        super().__init__()
        dims = backbone.dims
        self.level = f"E{plan.ref.level}"
        self.coarser = module_name(plan.coarser)
        self.upsampler = UPSAMPLER_MODULES[plan.upsampler](plan.c_coarser, plan.c_out, plan.stride)
        self.sources = nn.ModuleDict({module_name(s.ref): _source(s, backbone) for s in plan.sources})
        self.fusion = FUSION_MODULES[plan.fusion](len(plan.sources) + 1, plan.c_fused)
        self.fused_attention = ATTENTION_MODULES[plan.fused_attention](plan.c_fused, dims)
        self.block = DoubleConv(plan.c_fused, plan.c_out, (1,) * dims, backbone.norm)
        self.block_attention = ATTENTION_MODULES[plan.block_attention](plan.c_out, dims)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        size = maps[self.level].shape[2:]
        sources = [source(maps[name], size) for name, source in self.sources.items()]  # each [b, c_source, *size]
        up = fit(self.upsampler(maps[self.coarser]), size)  # [b, c_out, *size]
        fused = self.fused_attention(self.fusion([*sources, up]))  # [b, c_fused, *size]
        return self.block_attention(self.block(fused))  # type: ignore[no-any-return]


class SkipUNet(nn.Module):
    """The network of an architecture: ``x[b, c, *size] -> logits[b, k, *size]`` for any size that leaves every level a
    voxel (instance normalisation needs two at the bottleneck, and ``faults(architecture, patch)`` says so).

    Its initial values depend on the seed and the parameters' names only (see ``initial.py``). Names say where:
    ``encoder.E1.conv1.weight``, ``decoder.D1.sources.E3.projection.weight``, ``decoder.D1.upsampler...``,
    ``decoder.D1.fused_attention...``, ``decoder.D1.block.norm2.bias``, ``head.weight``.

    Raises RequestError, listing the faults, for an architecture that has any.
    """

    def __init__(self, architecture: Architecture, *, seed: int = 0) -> None:
        super().__init__()
        if found := faults(architecture):
            raise RequestError("an architecture with faults cannot be built:\n" + "\n".join(map(str, found)))
        self.architecture = architecture
        self.plan = plan = make_plan(architecture)
        backbone = architecture.backbone
        with torch.device("meta"):  # no memory and no torch default values, which would draw from the global generator
            self.encoder = nn.ModuleDict({module_name(stage.ref): _stage(stage, backbone) for stage in plan.encoder})
            self.decoder = nn.ModuleDict({module_name(node.ref): DecoderNode(node, backbone) for node in plan.nodes})
            self.head = conv(backbone.dims, plan.c_head, backbone.out_channels, 1)
        self.to_empty(device="cpu")
        initialise(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        maps: dict[str, Tensor] = {}
        for name, stage in self.encoder.items():
            maps[name] = x = stage(x)  # [b, widths[level], *size of the level]
        for name, node in self.decoder.items():
            maps[name] = x = node(maps)  # likewise
        return self.head(x)  # type: ignore[no-any-return]  # [b, k, *size]


def _stage(plan: StagePlan, backbone: Backbone) -> nn.Module:
    pool = backbone.downsampling == "max-pool"
    return DoubleConv(plan.c_in, plan.c_out, plan.stride, backbone.norm, pool=pool)


def _source(plan: SourcePlan, backbone: Backbone) -> Source:
    alignment: nn.Module = nn.Identity()
    if plan.alignment is not None:
        ceil = backbone.downsampling == "strided-conv"
        alignment = ALIGNMENT_MODULES[plan.alignment](plan.c_in, plan.factor, ceil)
    projection = conv(backbone.dims, plan.c_aligned, plan.c_out, 1, bias=False) if plan.projected else nn.Identity()
    return Source(alignment, projection, ATTENTION_MODULES[plan.attention](plan.c_out, backbone.dims))
