"""What a training step saves between forward and backward pass, from the plan alone; no torch.

Autograd saves what a derivative reads: the input of a convolution or normalisation, both factors of a product, the
result of an activation. A map that several of them read is saved once, one that none reads is not. So this walks the
network as ``network.py`` runs it, with maps that know whether they are saved already; what an operator saves of its own
making stands in its spec. Left out are values per channel (statistics, gates) and the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from unetx_space.architecture import Architecture
from unetx_space.genome import StageRef
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS, Gate
from unetx_space.plan import BlockPlan, NodePlan, Plan, SourcePlan, make_plan

FLOAT32_BYTES = 4
INDEX_VALUES = 2
"""Values that the index of a maximum takes up, as it is an int64."""

Size = tuple[int, ...]


def training_memory(architecture: Architecture, patch: Size, *, bytes_per_value: int = FLOAT32_BYTES) -> int:
    """Bytes that autograd saves for each patch of a batch, for an architecture without faults.

    Under autocast to bfloat16 a value takes 2 bytes. Beside this, training needs four values per parameter (weight,
    gradient and Adam's two moments), the loss, and what the largest operator works on.
    """
    return plan_memory(make_plan(architecture), patch, bytes_per_value=bytes_per_value)


def plan_memory(plan: Plan, patch: Size, *, bytes_per_value: int = FLOAT32_BYTES) -> int:
    """``training_memory`` from a plan that was made already."""
    return bytes_per_value * _Walk(plan, patch).n_values


def part_memory(plan: Plan, patch: Size, *, bytes_per_value: int = FLOAT32_BYTES) -> dict[StageRef, int]:
    """Bytes that each encoder stage and decoder node adds to ``training_memory``.

    A map that two of them read counts where the first one saves it, the stem as part of E0 and the head as part of the
    output's node.
    """
    return {ref: bytes_per_value * n_values for ref, n_values in _Walk(plan, patch).by_stage.items()}


@dataclass(slots=True)
class _Map:
    """A map somewhere in the network."""

    channels: int
    size: Size
    is_saved: bool = False

    @property
    def n_values(self) -> int:
        return self.channels * prod(self.size)


class _Walk:
    """Runs through a plan once and counts the values that are saved, in all and by stage."""

    def __init__(self, plan: Plan, patch: Size) -> None:
        self.n_values = 0
        self.by_stage: dict[StageRef, int] = {}
        self._backbone = plan.backbone
        self._sizes = plan.backbone.sizes(patch)
        self._maps: dict[StageRef, _Map] = {}
        x = _Map(plan.backbone.in_channels, patch)
        if plan.stem is not None:
            x = self._block(plan.stem, x, patch)
        for stage in plan.encoder:
            self._maps[stage.ref] = x = self._block(stage.block, x, self._sizes[stage.ref.level])
            self._count_for(stage.ref)
        for node in plan.nodes:
            self._maps[node.ref] = x = self._node(node)
            self._count_for(node.ref)
        self._save(x)  # the head reads it
        self._count_for(plan.output)

    def _count_for(self, ref: StageRef) -> None:
        """Count for this stage what was saved since the last call."""
        self.by_stage[ref] = self.by_stage.get(ref, 0) + self.n_values - sum(self.by_stage.values())

    def _save(self, x: _Map) -> None:
        if not x.is_saved:
            x.is_saved = True
            self.n_values += x.n_values

    def _saved(self, channels: int, size: Size) -> _Map:
        """A new map that is saved by whatever made it."""
        made = _Map(channels, size)
        self._save(made)
        return made

    def _node(self, node: NodePlan) -> _Map:
        size, coarse = self._sizes[node.ref.level], self._maps[node.coarser]
        up = self._upsampled(node, coarse, size)
        gates: dict[Gate, _Map] = {"upsampled": up, "coarse": coarse}
        sources = [self._source(source, node, gates) for source in node.sources]
        fused = self._attended(node.fused_attention, self._fused(node, [*sources, up]), node, gates)
        return self._attended(node.block_attention, self._block(node.block, fused, size), node, gates)

    def _upsampled(self, node: NodePlan, x: _Map, size: Size) -> _Map:
        """Cropped to a view of itself, or padded to a new map, where it has not the node's size."""
        spec, channels = UPSAMPLERS[node.upsampler], node.c_upsampled
        if spec.saves_input:
            self._save(x)
        self.n_values += spec.saved_values(x.channels, channels, node.stride, prod(x.size))
        up = _Map(channels, tuple(n * s for n, s in zip(x.size, node.stride, strict=True)))
        if self._backbone.normalise_upsampled:
            up = self._normalised(up)
        if all(have >= want for have, want in zip(up.size, size, strict=True)):
            return up
        self._save(up)
        return _Map(channels, size)

    def _source(self, source: SourcePlan, node: NodePlan, gates: Mapping[Gate, _Map]) -> _Map:
        x, size = self._maps[source.ref], self._sizes[node.ref.level]
        if source.alignment is not None:
            spec = ALIGNMENTS[source.alignment]
            if spec.saves_input:
                self._save(x)
            self.n_values += spec.saved_values(source.c_in, source.factor, prod(x.size), prod(size))
            x = _Map(source.c_aligned, size)
        match source.projection:
            case "block":
                self._save(x if source.relation != "coarser" else _Map(x.channels, size))
                x = self._normalised(_Map(source.c_out, size))
            case "pointwise":
                self._save(x)
                x = _Map(source.c_out, size)
        return self._attended(source.attention, x, node, gates)

    def _fused(self, node: NodePlan, maps: list[_Map]) -> _Map:
        if len(maps) == 1:
            return maps[0]
        spec, size = FUSIONS[node.fusion], self._sizes[node.ref.level]
        for x in maps if spec.saves_input else []:
            self._save(x)
        self.n_values += spec.saved_values(len(maps), node.c_fused, prod(size))
        return _Map(node.c_fused, size)

    def _attended(self, name: str, x: _Map, node: NodePlan, gates: Mapping[Gate, _Map]) -> _Map:
        spec = ATTENTIONS[name]
        if not spec.placements:
            return x
        if spec.saves_input:
            self._save(x)
        if spec.gate is not None and spec.saves_gate:
            self._save(gates[spec.gate])
        at, size = node.attention_context(x.channels), self._sizes[node.ref.level]
        self.n_values += spec.saved_values(at, size, gates["coarse"].size)
        return self._saved(x.channels, size) if spec.saves_output else _Map(x.channels, size)

    def _block(self, block: BlockPlan, x: _Map, size: Size) -> _Map:
        if block.pool:
            self._save(x)
            x = _Map(x.channels, size)
            self.n_values += INDEX_VALUES * x.n_values
        if block.kind != "plain" and block.has_shortcut_convolution:
            # A convolution of what comes in, or of its averages, and what its normalisation reads.
            is_pooled = block.kind == "resnet-d" and block.is_strided
            self._save(_Map(x.channels, size) if is_pooled else x)
            self._save(_Map(block.c_out, size))
        for _ in range(block.depth):
            self._save(x)
            x = self._normalised(_Map(block.c_out, size))
            if block.kind != "plain":
                self._save(_Map(block.c_out, size))  # what the second normalisation reads
                x = self._saved(block.c_out, size)  # the activation behind the sum
        return x

    def _normalised(self, x: _Map) -> _Map:
        """Normalisation and activation in place: what comes in and what comes out."""
        self._save(x)
        return self._saved(x.channels, x.size)
