"""Random nested decoders beyond the nested space (any coarser input, any columns), and their twins."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import networkx as nx
from networkx.algorithms.isomorphism import categorical_edge_match, categorical_node_match

from unetx_space import Attention, DecoderNode, Genome, StageRef, decoder, encoder
from unetx_space.graph import to_graph

SYMMETRIC = (Attention(), Attention("se", "source"), Attention("scse", "block"))
"""Attentions that do not mind the order of concatenated channels."""


def free_nested(
    rng: random.Random, n_levels: int, *, max_columns: int = 3, attentions: tuple[Attention, ...] = SYMMETRIC
) -> Genome:
    """A genome without faults whose few genes make symmetries likely; some of its nodes may be dead."""
    n_columns = [rng.randint(1, max_columns) for _ in range(n_levels - 1)]
    nodes: list[DecoderNode] = []
    for level in reversed(range(n_levels - 1)):
        for column in range(1, n_columns[level] + 1):
            below = [node.ref for node in nodes if node.ref.level == level + 1] or [encoder(n_levels - 1)]
            coarser = rng.choice(below)
            possible = [stage for stage in (encoder(level), *(node.ref for node in nodes)) if stage != coarser]
            nodes.append(
                DecoderNode(
                    ref=decoder(level, column),
                    coarser=coarser,
                    sources=tuple(stage for stage in possible if rng.random() < 0.4),
                    attention=rng.choice(attentions),
                    upsampler=rng.choice(("linear", "transposed")),
                )
            )
    return Genome(tuple(nodes))


def rings(lengths: tuple[int, ...]) -> Genome:
    """Nodes x_k on level 2 and y_k on level 1, where y_k brings up x_k and reads the next x of its ring.

    All x look alike from within any distance, and so do all y: colour refinement does not see the rings' lengths.
    """
    n = sum(lengths)
    x = [DecoderNode(decoder(2, k + 1), encoder(3)) for k in range(n)]
    y, start = [], 0
    for length in lengths:
        for k in range(length):
            following = decoder(2, start + (k + 1) % length + 1)
            y.append(DecoderNode(decoder(1, start + k + 1), decoder(2, start + k + 1), (following,)))
        start += length
    collector = DecoderNode(decoder(1, n + 1), encoder(2), tuple(node.ref for node in y))
    return Genome((*x, *y, collector, DecoderNode(decoder(0, 1), collector.ref)))


def renamed(genome: Genome, names: Mapping[StageRef, StageRef]) -> Genome:
    """The genome with other names for its nodes."""
    return Genome(
        tuple(
            replace(
                node,
                ref=names[node.ref],
                coarser=names.get(node.coarser, node.coarser),
                sources=tuple(names.get(source, source) for source in node.sources),
            )
            for node in genome.nodes
        )
    )


def shuffled_columns(genome: Genome, rng: random.Random) -> dict[StageRef, StageRef]:
    """Other names, with gaps, in any order in which each node still comes after those of its level that it reads."""
    names: dict[StageRef, StageRef] = {}
    used: dict[int, int] = {}
    output, waiting = genome.output.ref, [node.ref for node in genome.nodes]
    while waiting:
        ready = [
            ref
            for ref in waiting
            if (ref != output or len(waiting) == 1)
            and all(
                source in names for source in genome[ref].sources if source.level == ref.level and source.kind == "D"
            )
        ]
        ref = rng.choice(ready)
        waiting.remove(ref)
        used[ref.level] = used.get(ref.level, 0) + rng.randint(1, 3)
        names[ref] = decoder(ref.level, used[ref.level])
    return names


def is_isomorphic(a: Genome, b: Genome) -> bool:
    """Whether two genomes are the same graph up to the names of columns, labels and kinds included.

    The same question as whether their canonical forms are equal, answered by networkx (VF2).
    """
    same_label, same_kind = categorical_node_match("label", None), categorical_edge_match("kind", None)
    return bool(nx.is_isomorphic(to_graph(a), to_graph(b), node_match=same_label, edge_match=same_kind))
