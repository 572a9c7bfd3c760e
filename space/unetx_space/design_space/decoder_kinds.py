"""Which decoder nodes a space has, and which stages each of them may read.

A space is a function from the number of levels to candidate nodes, deepest level and earliest column first. The coarser
input of a candidate is fixed; its sources are genes. Every choice of sources is an acyclic graph without faults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from unetx_space.genome import StageRef, decoder, encoder, plain_coarser

SpaceName = Literal["default", "full-scale", "nested"]


@dataclass(frozen=True, slots=True)
class CandidateNode:
    """A decoder node that a genome of the space may have."""

    ref: StageRef
    coarser: StageRef
    candidates: tuple[StageRef, ...]
    """The sources it may have; never its own coarser input."""


@dataclass(frozen=True, slots=True)
class SpaceSpec:
    """A kind of decoder, as a function of the number of levels."""

    name: SpaceName
    title: str
    note: str
    """The sources that a node may have, or the published designs that lie inside, in one line."""
    paper: str
    nodes: Callable[[int], tuple[CandidateNode, ...]]


def _default(n_levels: int) -> tuple[CandidateNode, ...]:
    return tuple(_plain_node(level, n_levels, []) for level in reversed(range(n_levels - 1)))


def _full_scale(n_levels: int) -> tuple[CandidateNode, ...]:
    return tuple(
        _plain_node(level, n_levels, [decoder(deeper) for deeper in range(level + 1, n_levels - 1)])
        for level in reversed(range(n_levels - 1))
    )


def _plain_node(level: int, n_levels: int, deeper: list[StageRef]) -> CandidateNode:
    coarser = plain_coarser(level, n_levels)
    stages = [*map(encoder, range(n_levels)), *deeper]
    return CandidateNode(decoder(level), coarser, tuple(stage for stage in stages if stage != coarser))


def _nested(n_levels: int) -> tuple[CandidateNode, ...]:
    """X^{i,j} with i + j < n_levels and j >= 1; X^{i,0} is E{i}, and X^{0,L-1} the output."""
    nodes = []
    for level in reversed(range(n_levels - 1)):
        for column in range(1, n_levels - level):
            coarser = decoder(level + 1, column - 1) if column > 1 else encoder(level + 1)
            earlier = [decoder(level, k) for k in range(1, column)]
            nodes.append(CandidateNode(decoder(level, column), coarser, (encoder(level), *earlier)))
    return tuple(nodes)


SPACES: Mapping[SpaceName, SpaceSpec] = {
    "default": SpaceSpec(
        "default",
        "one decoder node per level, any encoder stages as sources",
        "U-Net, Attention U-Net, LinkNet and every other choice of skips between encoder and decoder.",
        "Ronneberger et al. 2015, arXiv:1505.04597",
        _default,
    ),
    "full-scale": SpaceSpec(
        "full-scale",
        "one decoder node per level, encoder stages and deeper decoder nodes as sources",
        "The default space and UNet 3+.",
        "Huang et al. 2020, UNet 3+, arXiv:2004.08790",
        _full_scale,
    ),
    "nested": SpaceSpec(
        "nested",
        "several columns per level; a node reads the encoder stage and earlier columns of its level",
        "No-skip, U-Net and UNet++: the longest diagonal always lives, another node while a living one reads it.",
        "Zhou et al. 2018, UNet++, arXiv:1807.10165",
        _nested,
    ),
}
