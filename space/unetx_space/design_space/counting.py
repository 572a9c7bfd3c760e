"""How many distinct designs a space holds: exact, whatever its size.

Two gene assignments are one design when their canonical forms are equal. Genes without effect are counted once, and in
a nested space so are the genes of nodes that nothing reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod

from unetx_space.design_space.space import DesignSpace
from unetx_space.genome import NO_ATTENTION, StageRef


def n_designs(space: DesignSpace) -> int:
    """The number of canonical forms in a space."""
    if space.name == "nested":
        return _nested(space)
    return prod(_node_designs(space, genes.candidate.ref, genes.candidate.candidates) for genes in space.nodes)


def _node_designs(space: DesignSpace, ref: StageRef, candidates: tuple[StageRef, ...]) -> int:
    """Distinct genes of one node that may read any of ``candidates``."""
    n_finer = sum(source.level < ref.level for source in candidates)
    without_finer = 1 << (len(candidates) - n_finer)
    with_finer = (1 << len(candidates)) - without_finer
    idle = {NO_ATTENTION if attention.placement == "source" else attention for attention in space.attentions}
    reading = len(space.attentions) * len(space.fusions)
    return len(space.upsamplers) * (
        len(idle)  # no source at all: no fusion, no alignment, no attention on sources
        + (without_finer - 1) * reading
        + with_finer * reading * len(space.alignments)
    )


def _nested(space: DesignSpace) -> int:
    """Level by level from the finest: sets of living columns are bit masks (bit j for column j).

    The chain of coarser inputs makes X^{i,j} live when X^{i-1,j+1} does; a further column lives when a later one of its
    level reads it. (Level, length of the chain) is a name that no isomorphism changes, so no design is counted twice.
    """
    ways = Counter({1 << (space.n_levels - 1): 1})  # the output
    for level in range(space.n_levels - 1):
        deeper: Counter[int] = Counter()
        for demanded, n in ways.items():
            # Of columns from 1 up to the highest that is demanded: what lies beyond it is read by nothing.
            below = (1 << (demanded.bit_length() - 1)) - 2 if demanded else 0
            for extra in _subsets(below & ~demanded):
                living = demanded | extra
                deeper[living >> 1 & ~1] += n * _level_designs(space, level, living, demanded)
        ways = deeper
    return ways[0]


def _level_designs(space: DesignSpace, level: int, living: int, demanded: int) -> int:
    """Distinct genes of the living columns of a level, each of them demanded from above or read by a later one.

    Inclusion and exclusion over the columns that nothing reads.
    """
    nodes = {genes.candidate.ref.column: genes.candidate for genes in space.nodes if genes.candidate.ref.level == level}
    total = 0
    for unread in _subsets(living & ~demanded):
        readable = living & ~unread
        product = prod(
            _node_designs(
                space,
                nodes[column].ref,
                tuple(s for s in nodes[column].candidates if s.kind == "E" or readable >> s.column & 1),
            )
            for column in range(living.bit_length())
            if living >> column & 1
        )
        total += -product if unread.bit_count() % 2 else product
    return total


def _subsets(mask: int) -> Iterator[int]:
    subset = mask
    while subset:
        yield subset
        subset = (subset - 1) & mask
    yield 0
