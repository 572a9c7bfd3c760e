"""Column numbers that depend on the structure of a nested decoder alone, so that its twins get the same ones.

Two decoders whose nodes differ by a permutation of the columns of a level are the same function. Their nodes are told
apart by colour refinement: two nodes keep one colour as long as their genes and the colours around them agree. Where
that leaves a cell of several nodes with one colour, each of them is individualised in turn, and the smallest
certificate counts (McKay 1981, Practical graph isomorphism). This is exact; decoders of a search never need the second
step, because their (level, length of the chain of coarser inputs) already names every node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from unetx_space.genome import DecoderNode, StageRef
from unetx_space.operators.catalogue import ATTENTIONS, FUSIONS

Colours = dict[StageRef, int]
Edge = tuple[str, StageRef]


def edges(node: DecoderNode) -> tuple[Edge, ...]:
    """What a node reads, as (kind, stage). Kinds are ``coarser`` and ``source``, with a position where order counts."""
    kinds: dict[StageRef, str] = {}
    if _is_ordered(node):
        seen: Counter[int] = Counter()
        for source in sorted(source for source in node.sources if source.kind == "D"):
            kinds[source] = f"source {seen[source.level]}"
            seen[source.level] += 1
    return (("coarser", node.coarser), *((kinds.get(source, "source"), source) for source in node.sources))


def _is_ordered(node: DecoderNode) -> bool:
    """Whether the order of the node's sources is part of the function that it computes."""
    attention, concatenates = node.attention, not FUSIONS[node.fusion].equal_widths
    return concatenates and attention.placement == "fused" and ATTENTIONS[attention.type].orders_channels


def columns(nodes: Mapping[StageRef, DecoderNode]) -> dict[StageRef, StageRef]:
    """A new name for each of the nodes, which must be live, without faults and without idle genes.

    Columns count from 1 without gaps; a node comes after those of its level that it reads.
    """
    places = _places(nodes)
    if len(set(places.values())) == len(places):
        names = _numbered(sorted(places, key=places.__getitem__))
        if all(names[earlier].column < names[later].column for earlier, later in _order(nodes)):
            return names
    graph = _Graph(nodes)
    return graph.names(graph.canonical_colours(graph.initial_colours(places)))


def _places(nodes: Mapping[StageRef, DecoderNode]) -> dict[StageRef, tuple[int, int]]:
    """Each node's (level, length of the chain of coarser inputs)."""
    chain: dict[StageRef, int] = {}
    for ref in sorted(nodes, key=lambda ref: -ref.level):
        chain[ref] = chain.get(nodes[ref].coarser, 0) + 1
    return {ref: (ref.level, length) for ref, length in chain.items()}


def _numbered(refs: Iterable[StageRef]) -> dict[StageRef, StageRef]:
    """New names for the nodes: the columns of each level numbered in the given order."""
    used: Counter[int] = Counter()
    names: dict[StageRef, StageRef] = {}
    for ref in refs:
        used[ref.level] += 1
        names[ref] = StageRef("D", ref.level, used[ref.level])
    return names


def _order(nodes: Mapping[StageRef, DecoderNode]) -> Iterator[tuple[StageRef, StageRef]]:
    """Pairs of a level of which the first must keep the smaller column: what a node reads comes before it, and where
    order counts its sources stay in theirs."""
    for ref, node in nodes.items():
        for source in node.sources:
            if source.level == ref.level and source.kind == "D":
                yield source, ref
        if _is_ordered(node):
            sources = sorted(source for source in node.sources if source.kind == "D")
            yield from (pair for pair in pairwise(sources) if pair[0].level == pair[1].level)


class _Graph:
    """The decoder nodes of one genome with their edges in both directions."""

    def __init__(self, nodes: Mapping[StageRef, DecoderNode]) -> None:
        self.nodes = nodes
        self.edges = {ref: edges(node) for ref, node in nodes.items()}
        self.inputs = {ref: [edge for edge in read if edge[1].kind == "D"] for ref, read in self.edges.items()}
        self.readers: dict[StageRef, list[Edge]] = {ref: [] for ref in nodes}
        for ref, read in self.inputs.items():
            for kind, source in read:
                self.readers[source].append((kind, ref))

    def initial_colours(self, places: Mapping[StageRef, tuple[int, int]]) -> Colours:
        """Colours that tell nodes apart by their places, their genes and the encoder stages that they read."""
        return _ranked({ref: (place, _genes(self.nodes[ref], self.edges[ref])) for ref, place in places.items()})

    def canonical_colours(self, colours: Colours) -> Colours:
        """A colour of its own for each node, the same ones for every twin of this graph."""
        return self._smallest_certificate(self._refined(colours))[1]

    def _smallest_certificate(self, colours: Colours) -> tuple[Any, Colours]:
        cell = _target_cell(colours)
        if not cell:
            return self._certificate(colours), colours
        choices = [self._refined(_individualised(colours, ref)) for ref in self._distinct(cell)]
        best = self._smallest_certificate(choices[0])
        first = self._first_certificate(choices[0]) if len(choices) > 1 else None
        for other in choices[1:]:
            if self._first_certificate(other) != first:  # equal ones: an automorphism carries one choice to the other
                best = min(best, self._smallest_certificate(other), key=lambda found: found[0])
        return best

    def _first_certificate(self, colours: Colours) -> Any:
        """The certificate where the first node of every cell is individualised."""
        while cell := _target_cell(colours):
            colours = self._refined(_individualised(colours, cell[0]))
        return self._certificate(colours)

    def _distinct(self, cell: list[StageRef]) -> list[StageRef]:
        """One of the nodes with the same inputs and readers, for each such group: exchanging those changes nothing."""
        kinds = {(frozenset(self.inputs[ref]), frozenset(self.readers[ref])): ref for ref in cell}
        return list(kinds.values())

    def _refined(self, colours: Colours) -> Colours:
        """The coarsest colours below the given ones that neighbourhoods agree with."""
        n_colours = len(set(colours.values()))
        while n_colours < len(colours):
            colours = _ranked({ref: (colour, *self._around(ref, colours)) for ref, colour in colours.items()})
            n_before, n_colours = n_colours, len(set(colours.values()))
            if n_colours == n_before:
                break
        return colours

    def _around(self, ref: StageRef, colours: Colours) -> tuple[tuple[tuple[str, int], ...], ...]:
        return tuple(
            tuple(sorted((kind, colours[other]) for kind, other in neighbours))
            for neighbours in (self.inputs[ref], self.readers[ref])
        )

    def _certificate(self, colours: Colours) -> Any:
        """The whole graph in terms of colours; comparable between its twins."""
        return sorted(
            (colour, _genes(self.nodes[ref], self.edges[ref]), self._around(ref, colours)[0])
            for ref, colour in colours.items()
        )

    def names(self, colours: Colours) -> dict[StageRef, StageRef]:
        """Columns in an order that the edges within each level allow, the smallest colour first."""
        before: dict[StageRef, set[StageRef]] = {ref: set() for ref in self.nodes}
        for earlier, later in _order(self.nodes):
            before[later].add(earlier)
        waiting, ordered = sorted(self.nodes, key=lambda ref: colours[ref]), dict[StageRef, None]()
        while waiting:
            ref = next(ref for ref in waiting if before[ref] <= ordered.keys())
            waiting.remove(ref)
            ordered[ref] = None
        return _numbered(ordered)


def _genes(node: DecoderNode, read: Iterable[Edge]) -> tuple[Any, ...]:
    own = (str(node.attention), node.upsampler, node.fusion, node.alignment)
    return (*own, sorted((kind, stage.level) for kind, stage in read if stage.kind == "E"))


def _ranked(marks: Mapping[StageRef, Any]) -> Colours:
    """Colours counted from 0 in the order of the marks."""
    ordered = sorted(marks.items(), key=lambda item: item[1])
    colours: Colours = {}
    colour, last = -1, None
    for ref, mark in ordered:
        if mark != last:
            colour, last = colour + 1, mark
        colours[ref] = colour
    return colours


def _target_cell(colours: Colours) -> list[StageRef]:
    """The nodes of the smallest colour that several share; empty when all differ."""
    cells: dict[int, list[StageRef]] = {}
    for ref, colour in colours.items():
        cells.setdefault(colour, []).append(ref)
    return next((cells[colour] for colour in sorted(cells) if len(cells[colour]) > 1), [])


def _individualised(colours: Colours, chosen: StageRef) -> Colours:
    return {ref: 2 * colour + (ref != chosen) for ref, colour in colours.items()}
