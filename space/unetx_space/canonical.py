"""One spelling for every function: what reaches no output and genes without effect are dropped.

Equal designs then share one key, which is stable across processes, machines and Python versions.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from unetx_space.genome import NO_ATTENTION, DecoderNode, Genome, StageRef
from unetx_space.validity import reached

if TYPE_CHECKING:
    from collections.abc import Iterable

    from unetx_space.architecture import Architecture

DEFAULT_FUSION = "concat"
"""What is written where fusion has no effect: a node without sources."""
DEFAULT_ALIGNMENT = "max"
"""What is written where alignment has no effect: a node without finer sources."""


def canonical(genome: Genome) -> Genome:
    """The canonical spelling of a genome without faults; applying it twice changes nothing."""
    live = reached(genome)
    names = _compact_names(ref for ref in live if ref.kind == "D")
    nodes = [_canonical_node(node, names) for node in genome.nodes if node.ref in live]
    return Genome(tuple(sorted(nodes, key=lambda node: (-node.ref.level, node.ref.column))))


def _compact_names(refs: Iterable[StageRef]) -> dict[StageRef, StageRef]:
    """Columns counted anew without gaps: a decoder with one node per level is plain, any other starts at 1."""
    by_level: dict[int, list[StageRef]] = {}
    for ref in sorted(refs):
        by_level.setdefault(ref.level, []).append(ref)
    first = 0 if all(len(column) == 1 for column in by_level.values()) else 1
    return {
        ref: StageRef("D", level, column)
        for level, columns in by_level.items()
        for column, ref in enumerate(columns, first)
    }


def _canonical_node(node: DecoderNode, names: dict[StageRef, StageRef]) -> DecoderNode:
    has_finer = any(source.level < node.ref.level for source in node.sources)
    idle_attention = not node.sources and node.attention.placement == "source"
    return replace(
        node,
        ref=names[node.ref],
        coarser=names.get(node.coarser, node.coarser),
        sources=tuple(sorted(names.get(source, source) for source in node.sources)),
        attention=NO_ATTENTION if idle_attention else node.attention,
        fusion=node.fusion if node.sources else DEFAULT_FUSION,
        alignment=node.alignment if has_finer else DEFAULT_ALIGNMENT,
    )


def key(architecture: Architecture) -> str:
    """32 hexadecimal digits that two architectures share exactly when their canonical forms are equal."""
    form = {"backbone": architecture.backbone.to_json(), "genome": canonical(architecture.genome).to_json()}
    text = json.dumps(form, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
