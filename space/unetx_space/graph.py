"""A genome as a graph: networkx view, paths, isomorphism, Weisfeiler-Lehman features.

Only the living part counts, without genes that change nothing. networkx is imported where it is used, so that the
genome's side of the code stays light.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING

from unetx_space.canonical import effective_nodes
from unetx_space.canonical_columns import edges
from unetx_space.genome import DecoderNode, Genome, StageRef, encoder

if TYPE_CHECKING:
    import networkx as nx

Neighbours = dict[StageRef, list[tuple[str, StageRef]]]


def to_graph(genome: Genome) -> nx.DiGraph[str]:
    """Stages as nodes named ``E2`` or ``D0.1``, an edge from each stage to those that read it.

    Nodes have ``level`` and ``label`` (the stage, for a decoder node its level with its operators). Edges have a
    ``kind``: ``encoder`` between encoder stages, ``coarser`` into the upsampler, ``source`` into the fusion (with its
    position where the order of concatenation is part of the function).
    """
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph()
    inputs, labels = _inputs(genome)
    for ref, label in labels.items():
        graph.add_node(str(ref), level=ref.level, label=label)
    for ref, read in inputs.items():
        graph.add_edges_from((str(source), str(ref), {"kind": kind}) for kind, source in read)
    return graph


def is_isomorphic(a: Genome, b: Genome) -> bool:
    """Whether two genomes are the same graph up to the names of columns, labels and kinds included.

    The same question as whether their canonical forms are equal, answered by networkx (VF2).
    """
    import networkx as nx
    from networkx.algorithms.isomorphism import categorical_edge_match, categorical_node_match

    same_label, same_kind = categorical_node_match("label", None), categorical_edge_match("kind", None)
    return bool(nx.is_isomorphic(to_graph(a), to_graph(b), node_match=same_label, edge_match=same_kind))


def paths(genome: Genome) -> Iterator[tuple[str, ...]]:
    """Every path from the finest encoder stage, which the image enters, to the output. Their number grows fast."""
    import networkx as nx

    for path in nx.all_simple_paths(to_graph(genome), str(encoder(0)), str(genome.output.ref)):
        yield tuple(path)


def path_counts(genome: Genome) -> dict[StageRef, int]:
    """For every living stage the number of paths from it to the output, without listing them.

    That of ``E0`` counts the paths from the image: in a U-Net as many as there are levels, one through each skip and
    one through the bottleneck.
    """
    inputs, _ = _inputs(genome)
    counts = dict.fromkeys(inputs, 0) | {genome.output.ref: 1}
    for ref, read in reversed(inputs.items()):  # each stage before those it reads
        for _, source in read:
            counts[source] += counts[ref]
    return counts


def wl_features(genome: Genome, n_iterations: int = 2) -> Counter[str]:
    """Sparse features for a kernel or a linear model: how often each gene and each labelled neighbourhood occurs.

    Weisfeiler-Lehman subtree features (Shervashidze et al. 2011, JMLR 12): after i iterations a stage's colour stands
    for everything within i edges of it, in both directions and with the kinds of the edges. Iteration 0 is spelt out,
    one feature for each operator and edge (``D1 attention se@source``, ``D1 source E0``), so that designs which share a
    part share features; later ones are hashes such as ``2:9f1c0a7b44e0d2c1``. Genomes with one canonical form have
    equal features.

    Computed here and not by ``networkx.weisfeiler_lehman_subgraph_hashes``: with edge attributes that one (3.6) does
    not tell the direction of an edge, and its hashes changed between versions, while features may outlive an upgrade in
    a study. These are stable across processes, machines and versions.
    """
    inputs, colours = _inputs(genome)
    readers: Neighbours = {ref: [] for ref in colours}
    for ref, read in inputs.items():
        for kind, source in read:
            readers[source].append((kind, ref))
    features: Counter[str] = Counter()
    for ref, label in colours.items():  # a stage's operators and edges, one feature each
        stage, *genes = label.split(", ")
        features.update(f"{stage} {gene}" for gene in genes)
        features.update(f"{stage} {kind} {source.kind}{source.level}" for kind, source in inputs[ref])
    for iteration in range(1, n_iterations + 1):
        hashes = {}
        for ref, colour in colours.items():
            around = [
                sorted(f"{kind} {colours[other]}" for kind, other in near) for near in (inputs[ref], readers[ref])
            ]
            hashes[ref] = blake2b(repr((colour, *around)).encode(), digest_size=8).hexdigest()
        colours = hashes
        features.update(f"{iteration}:{colour}" for colour in colours.values())
    return features


def _inputs(genome: Genome) -> tuple[Neighbours, dict[StageRef, str]]:
    """What each living stage reads, every stage after those, and the labels of the stages."""
    nodes = effective_nodes(genome)
    deepest = max(ref.level for node in nodes.values() for ref in node.reads)
    inputs: Neighbours = {encoder(0): []}
    inputs |= {encoder(level): [("encoder", encoder(level - 1))] for level in range(1, deepest + 1)}
    inputs |= {ref: list(edges(node)) for ref, node in nodes.items()}
    return inputs, {ref: _label(ref, nodes) for ref in inputs}


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
