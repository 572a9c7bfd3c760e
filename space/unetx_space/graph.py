"""A genome as a graph of networkx.

Only the living part counts, without genes that change nothing. networkx is imported where it is used, so that the
genome's side of the code stays light.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from unetx_space.canonical import effective_nodes
from unetx_space.canonical_columns import Edge, edges
from unetx_space.genome import DecoderNode, Genome, StageRef, encoder

if TYPE_CHECKING:
    import networkx as nx


def to_graph(genome: Genome) -> nx.DiGraph[str]:
    """The graph of a genome: stages as nodes named ``E2`` or ``D0.1``, an edge from each to those that read it.

    Nodes have ``level`` and ``label`` (the stage, for a decoder node its level with its operators). Edges have a
    ``kind``: ``encoder`` between encoder stages, ``coarser`` into the upsampler, ``source`` into the fusion (with its
    position where the order of concatenation is part of the function).
    """
    import networkx as nx

    nodes = effective_nodes(genome)
    deepest = max(ref.level for node in nodes.values() for ref in node.reads)
    inputs: dict[StageRef, tuple[Edge, ...]] = {encoder(0): ()}
    inputs |= {encoder(level): (("encoder", encoder(level - 1)),) for level in range(1, deepest + 1)}
    inputs |= {ref: edges(node) for ref, node in nodes.items()}
    graph: nx.DiGraph[str] = nx.DiGraph()
    for ref in inputs:
        graph.add_node(str(ref), level=ref.level, label=_label(ref, nodes))
    for ref, read in inputs.items():
        graph.add_edges_from((str(source), str(ref), {"kind": kind}) for kind, source in read)
    return graph


def _label(ref: StageRef, nodes: Mapping[StageRef, DecoderNode]) -> str:
    if ref not in nodes:
        return str(ref)
    node = nodes[ref]
    genes = [f"attention {node.attention}", f"upsampler {node.upsampler}"]
    if node.sources:
        genes.append(f"fusion {node.fusion}")
    if any(source.level < ref.level for source in node.sources):
        genes.append(f"alignment {node.alignment}")
    return ", ".join((f"D{ref.level}", *genes))
