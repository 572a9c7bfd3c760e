"""Every rule an architecture must obey, each with its reason; nothing here builds or changes anything.

Sources may be encoder stages of any level, deeper decoder nodes, or earlier columns of the node's own level. Together
with "the coarser input is exactly one level down" this makes every genome that has no fault a directed acyclic graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from unetx_space import backbone as rules
from unetx_space.architecture import Architecture
from unetx_space.backbone import HEAD_KERNELS, MAX_LEVELS, MAX_STAGE_DEPTH, MAX_STRIDE, MAX_WIDTH, Backbone
from unetx_space.errors import unknown_name
from unetx_space.genome import DecoderNode, Genome, StageRef, encoder, live_nodes
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, PLACEMENTS, UPSAMPLERS


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken rule: where, and the rule with what came and the way out."""

    field: str
    """Path in the JSON document, such as ``genome.nodes[2].sources[0]``."""
    rule: str

    def __str__(self) -> str:
        return f"{self.field}: {self.rule}"


def faults(architecture: Architecture, patch: tuple[int, ...] | None = None) -> tuple[Fault, ...]:
    """All faults of an architecture, and of its fit to a training patch (voxels per axis) when one is given.

    An empty tuple means valid. The genome is judged only on a backbone without faults.
    """
    found = tuple(_backbone_faults(architecture.backbone))
    if found:
        return found
    found = genome_faults(architecture.genome, architecture.backbone.n_levels)
    return found if patch is None else (*found, *_patch_faults(architecture.backbone, patch))


def genome_faults(genome: Genome, n_levels: int) -> tuple[Fault, ...]:
    """The faults of a genome alone, on any backbone of ``n_levels`` levels."""
    return tuple(_genome_faults(genome, n_levels))


def _backbone_faults(backbone: Backbone) -> Iterator[Fault]:
    if backbone.dims not in (2, 3):
        yield Fault("backbone.dims", f"must be 2 or 3, got {backbone.dims}")
        return
    if not 2 <= backbone.n_levels <= MAX_LEVELS:
        yield Fault("backbone.widths", f"the number of levels must lie in 2..{MAX_LEVELS}, got {backbone.n_levels}")
    for name, value, low, high in _backbone_ranges(backbone):
        if not low <= value <= high:
            yield Fault(f"backbone.{name}", f"must lie in {low}..{high}, got {value}")
    for name, known in _BACKBONE_NAMES.items():
        if (value := getattr(backbone, name)) not in known:
            yield Fault(f"backbone.{name}", unknown_name(name.replace("_", " "), value, known))
    if backbone.head_kernel not in HEAD_KERNELS:
        yield Fault("backbone.head_kernel", f"must be one of {HEAD_KERNELS}, got {backbone.head_kernel}")
    # A field with one number per level has as many as there are levels; a decoder has one level fewer.
    for name, length, of in (
        ("encoder_depth", backbone.n_levels, "level"),
        ("decoder_depth", backbone.n_levels - 1, "level but the coarsest"),
        ("decoder_widths", backbone.n_levels - 1, "level but the coarsest"),
    ):
        value = getattr(backbone, name)
        if isinstance(value, tuple) and len(value) != length:
            yield Fault(f"backbone.{name}", f"needs {length} numbers, one per {of}, got {len(value)}")
    yield from _stride_faults(backbone)


_BACKBONE_NAMES: Mapping[str, tuple[str, ...]] = {
    "norm": rules.NORMS,
    "downsampling": rules.DOWNSAMPLINGS,
    "encoder_block": rules.ENCODER_BLOCKS,
    "decoder_block": rules.DECODER_BLOCKS,
}


def _backbone_ranges(backbone: Backbone) -> Iterator[tuple[str, float, int, float]]:
    """Every number as (field, value, lowest, highest)."""
    yield "in_channels", backbone.in_channels, 1, MAX_WIDTH
    yield "out_channels", backbone.out_channels, 1, rules.MAX_CLASSES
    yield "negative_slope", backbone.negative_slope, 0, rules.MAX_SLOPE
    for name, high in _PER_LEVEL.items():
        value = getattr(backbone, name)
        if isinstance(value, int):
            yield name, value, 1, high
        for level, number in enumerate(value if isinstance(value, tuple) else ()):
            yield f"{name}[{level}]", number, 1, high


_PER_LEVEL: Mapping[str, int] = {
    "widths": MAX_WIDTH,
    "decoder_widths": MAX_WIDTH,
    "source_width": MAX_WIDTH,
    "encoder_depth": MAX_STAGE_DEPTH,
    "decoder_depth": MAX_STAGE_DEPTH,
}
"""Fields of one number, or of one for every level; absent (None) where the backbone needs none."""


def _stride_faults(backbone: Backbone) -> Iterator[Fault]:
    if len(backbone.strides) != backbone.n_levels:
        yield Fault(
            "backbone.strides",
            f"one stride per level is needed: {backbone.n_levels} widths, {len(backbone.strides)} strides",
        )
        return
    for level, stride in enumerate(backbone.strides):
        field = f"backbone.strides[{level}]"
        if len(stride) != backbone.dims:
            yield Fault(field, f"needs {backbone.dims} numbers, one per axis, got {list(stride)}")
        elif level == 0 and any(s != 1 for s in stride):
            yield Fault(field, f"the finest level has the input's resolution, so all ones, got {list(stride)}")
        elif level > 0 and (not all(1 <= s <= MAX_STRIDE for s in stride) or max(stride) == 1):
            yield Fault(field, f"must lie in 1..{MAX_STRIDE} and reduce at least one axis, got {list(stride)}")


def _patch_faults(backbone: Backbone, patch: tuple[int, ...]) -> Iterator[Fault]:
    if len(patch) != backbone.dims:
        yield Fault("patch", f"needs {backbone.dims} numbers, one per axis, got {list(patch)}")
        return
    smallest = backbone.sizes(patch)[-1]
    if prod(smallest) < 2:
        yield Fault(
            "patch",
            f"{'x'.join(map(str, patch))} leaves a bottleneck of {'x'.join(map(str, smallest))}; normalisation needs "
            "more than one voxel, so use a larger patch or fewer levels",
        )


def _genome_faults(genome: Genome, n_levels: int) -> Iterator[Fault]:
    if not genome.nodes:
        yield Fault("genome.nodes", "at least one decoder node is needed")
        return
    sound = True
    seen: set[StageRef] = set()
    for index, node in enumerate(genome.nodes):
        for fault in _node_faults(node, genome, n_levels, f"genome.nodes[{index}]"):
            sound = False
            yield fault
        if node.ref in seen:
            sound = False
            yield Fault(f"genome.nodes[{index}].node", f"{node.ref} is declared twice")
        seen.add(node.ref)
    if len({node.ref.column == 0 for node in genome.nodes}) == 2:
        yield Fault("genome.nodes", "a nested decoder numbers its columns from 1 on every level: no mix of D0 and D0.1")
    if not any(ref.level == 0 for ref in seen):
        yield Fault("genome.nodes", "no node of level 0, so there is no output")
    elif sound and not any(encoder(n_levels - 1) in node.reads for node in live_nodes(genome)):
        yield Fault("genome.nodes", f"the bottleneck E{n_levels - 1} does not reach the output")


def _node_faults(node: DecoderNode, genome: Genome, n_levels: int, field: str) -> Iterator[Fault]:
    level = node.ref.level
    if node.ref.kind != "D" or level > n_levels - 2:
        yield Fault(f"{field}.node", f"a decoder node lies on D0..D{n_levels - 2}, got {node.ref}")
        return
    if node.coarser.level != level + 1:
        yield Fault(
            f"{field}.coarser", f"must lie exactly one level below {node.ref}, on level {level + 1}, got {node.coarser}"
        )
    elif not _exists(node.coarser, genome, n_levels):
        yield Fault(f"{field}.coarser", f"there is no {node.coarser} in an architecture of {n_levels} levels")
    for position, source in enumerate(node.sources):
        if problem := _source_problem(node, source, position, genome, n_levels):
            yield Fault(f"{field}.sources[{position}]", problem)
    yield from _name_faults(node, field)


def _source_problem(node: DecoderNode, source: StageRef, position: int, genome: Genome, n_levels: int) -> str | None:
    if not _exists(source, genome, n_levels):
        return f"there is no {source} in an architecture of {n_levels} levels"
    if source == node.coarser:
        return f"{source} repeats the node's own coarser input; leave it out"
    if source in node.sources[:position]:
        return f"{source} is listed twice"
    level, column = node.ref.level, node.ref.column
    if source.kind == "D" and not (source.level > level or (source.level == level and source.column < column)):
        return f"{node.ref} may read deeper decoder nodes or earlier columns of its level, not {source}"
    return None


def _name_faults(node: DecoderNode, field: str) -> Iterator[Fault]:
    for gene, name, known in (
        ("attention", node.attention.type, ATTENTIONS),
        ("upsampler", node.upsampler, UPSAMPLERS),
        ("fusion", node.fusion, FUSIONS),
        ("alignment", node.alignment, ALIGNMENTS),
    ):
        if name not in known:
            yield Fault(f"{field}.{gene}", unknown_name(gene, name, known))
    place, spec = node.attention.placement, ATTENTIONS.get(node.attention.type)
    if place is not None and place not in PLACEMENTS:
        yield Fault(f"{field}.attention", unknown_name("placement", place, PLACEMENTS))
    elif place is not None and spec is not None and place not in spec.placements:
        only = f"{spec.name} can be placed at {', '.join(spec.placements)} only, got {place!r}"
        yield Fault(f"{field}.attention", only)


def _exists(ref: StageRef, genome: Genome, n_levels: int) -> bool:
    return ref in genome if ref.kind == "D" else ref.level < n_levels and ref.column == 0
