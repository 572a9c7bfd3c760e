"""The canonical spelling of a design, one for every function: what reaches no output or has no effect is dropped.

Equal designs then share one key, which is stable across processes, machines and Python versions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache

from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone
from unetx_space.canonical_columns import columns
from unetx_space.genome import NO_ATTENTION, DecoderNode, Genome, StageRef, live_nodes
from unetx_space.operators.catalogue import PLAIN_ALIGNMENT, PLAIN_FUSION


def canonical(genome: Genome) -> Genome:
    """The canonical spelling of a genome without faults; applying it twice changes nothing."""
    nodes = effective_nodes(genome)
    names = _names(nodes)
    if any(ref != name for ref, name in names.items()):
        nodes = {ref: without_idle_genes(node.renamed(names)) for ref, node in nodes.items()}
    return Genome(tuple(sorted(nodes.values(), key=lambda node: (-node.ref.level, node.ref.column))))


def effective_nodes(genome: Genome) -> dict[StageRef, DecoderNode]:
    """The nodes from which a path leads to the output, by their own names, with idle genes reset."""
    return {node.ref: without_idle_genes(node) for node in live_nodes(genome)}


def without_idle_genes(node: DecoderNode) -> DecoderNode:
    """The node with its sources in order and every gene that changes nothing at its default."""
    level, sources = node.ref.level, node.sources
    if not sources:
        attention = NO_ATTENTION if node.attention.placement == "source" else node.attention
        return DecoderNode(node.ref, node.coarser, (), attention, node.upsampler, PLAIN_FUSION, PLAIN_ALIGNMENT)
    has_finer = any(source.level < level for source in sources)
    return DecoderNode(
        node.ref,
        node.coarser,
        tuple(sorted(sources)),
        node.attention,
        node.upsampler,
        node.fusion,
        node.alignment if has_finer else PLAIN_ALIGNMENT,
    )


def _names(nodes: Mapping[StageRef, DecoderNode]) -> dict[StageRef, StageRef]:
    """The canonical names of the nodes: a plain decoder, one node per level, has no columns, any other counts them."""
    if len({ref.level for ref in nodes}) == len(nodes):
        return {ref: StageRef("D", ref.level) for ref in nodes}
    return columns(nodes)


def key(architecture: Architecture) -> str:
    """32 hexadecimal digits that two architectures share exactly when their canonical forms are equal."""
    text = "\n".join((_backbone_text(architecture.backbone), *map(_node_text, canonical(architecture.genome).nodes)))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=64)
def _backbone_text(backbone: Backbone) -> str:
    """The backbone's part of the text that a key digests; a search needs that of one backbone thousands of times."""
    return json.dumps(backbone.to_json(), sort_keys=True, separators=(",", ":"))


def _node_text(node: DecoderNode) -> str:
    stages = " ".join([str(ref) for ref in (node.ref, node.coarser, *node.sources)])
    return f"{stages} {node.attention} {node.upsampler} {node.fusion} {node.alignment}"
