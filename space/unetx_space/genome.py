"""The searched half of an architecture: which encoder stages feed each decoder node, and how.

Frozen data without torch. A level is a resolution: 0 is the finest, L-1 the bottleneck. ``E{level}`` is the output
of the encoder at a level, ``D{level}`` the decoder node of a plain decoder there, ``D{level}.{column}`` (columns
from 1, as the j of X^{i,j} in UNet++, arXiv:1807.10165) a node of a nested one.

Nothing here judges a genome: that is ``validity.faults``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from unetx_space.operators.catalogue import (
    ATTENTIONS,
    PLACEMENTS,
    PLAIN_ALIGNMENT,
    PLAIN_ATTENTION,
    PLAIN_FUSION,
    PLAIN_UPSAMPLER,
    Placement,
)

StageKind = Literal["E", "D"]
Relation = Literal["same", "finer", "coarser"]
"""The position of a source's level as seen from the node that reads it."""

_REF = re.compile(r"([ED])(0|[1-9]\d?)(?:\.([1-9]\d?))?")


@dataclass(frozen=True, slots=True, order=True)
class StageRef:
    """A place in the network whose output another place reads: ``E2``, ``D1``, ``D0.3``."""

    kind: StageKind
    level: int
    column: int = 0

    def __str__(self) -> str:
        return f"{self.kind}{self.level}" + (f".{self.column}" if self.column else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reference that ``str`` gave. Raises ValueError for any other text."""
        match = _REF.fullmatch(text)
        if match is None or (match[1] == "E" and match[3]):
            raise ValueError(f"expected a stage such as 'E2', 'D1' or 'D0.3', got {text!r}")
        kind: StageKind = "E" if match[1] == "E" else "D"
        return cls(kind, int(match[2]), int(match[3] or 0))


def encoder(level: int) -> StageRef:
    """The reference to the encoder stage of a level, ``E{level}``."""
    return StageRef("E", level)


def decoder(level: int, column: int = 0) -> StageRef:
    """The reference to a decoder node: ``D{level}`` of a plain decoder, ``D{level}.{column}`` of a nested one."""
    return StageRef("D", level, column)


def relation(source: StageRef, node: StageRef) -> Relation:
    """The position of the level of ``source`` as seen from ``node``."""
    return "same" if source.level == node.level else "finer" if source.level < node.level else "coarser"


@dataclass(frozen=True, slots=True, order=True)
class Attention:
    """One gene: an attention type with its placement, spelt ``none`` or ``se@source``."""

    type: str = PLAIN_ATTENTION
    placement: Placement | None = None

    def __post_init__(self) -> None:
        if (self.type == PLAIN_ATTENTION) != (self.placement is None):
            raise ValueError(f"attention {PLAIN_ATTENTION!r} has no placement and every other has one, got {self}")

    def __str__(self) -> str:
        return self.type if self.placement is None else f"{self.type}@{self.placement}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The gene that ``str`` gave. Raises ValueError for any other text."""
        type_, _, place = text.partition("@")
        for placement in PLACEMENTS:
            if type_ and place == placement:
                return cls(type_, placement)
        if text == PLAIN_ATTENTION:
            return cls()
        raise ValueError(
            f"expected {PLAIN_ATTENTION!r} or TYPE@PLACEMENT with a placement of {PLACEMENTS}, got {text!r}"
        )


NO_ATTENTION = Attention()


def attention_genes(types: Iterable[str]) -> tuple[Attention, ...]:
    """Every valid (type, placement) pair of the given types."""
    return tuple(
        gene
        for type_ in types
        for gene in [Attention(type_, place) for place in ATTENTIONS[type_].placements] or [NO_ATTENTION]
    )


@dataclass(frozen=True, slots=True)
class DecoderNode:
    """Fuses one upsampled coarser input with its sources."""

    ref: StageRef
    """The node itself, a ``D``."""
    coarser: StageRef
    """The one input of the next coarser level, brought up by ``upsampler``."""
    sources: tuple[StageRef, ...] = ()
    """Further inputs, of any level; their order carries no meaning."""
    attention: Attention = NO_ATTENTION
    upsampler: str = PLAIN_UPSAMPLER
    fusion: str = PLAIN_FUSION
    alignment: str = PLAIN_ALIGNMENT
    """How a finer source is brought down to the node's level; a coarser one is always interpolated."""

    @property
    def reads(self) -> tuple[StageRef, ...]:
        """All its inputs, the coarser one first."""
        return (self.coarser, *self.sources)

    def renamed(self, names: Mapping[StageRef, StageRef]) -> Self:
        """The same node with these names for itself and for what it reads; a stage without one keeps its own."""
        reads = [names.get(ref, ref) for ref in self.reads]
        return replace(self, ref=names.get(self.ref, self.ref), coarser=reads[0], sources=tuple(reads[1:]))

    def to_json(self) -> dict[str, Any]:
        return {
            "node": str(self.ref),
            "coarser": str(self.coarser),
            "sources": [str(source) for source in self.sources],
            "attention": str(self.attention),
            "upsampler": self.upsampler,
            "fusion": self.fusion,
            "alignment": self.alignment,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The node in a document that has passed the schema; ``documents.py`` checks strangers' ones."""
        return cls(
            ref=StageRef.parse(data["node"]),
            coarser=StageRef.parse(data["coarser"]),
            sources=tuple(StageRef.parse(source) for source in data["sources"]),
            attention=Attention.parse(data["attention"]),
            upsampler=data["upsampler"],
            fusion=data["fusion"],
            alignment=data["alignment"],
        )


@dataclass(frozen=True, slots=True)
class Genome:
    """The decoder nodes, in any order; the output is the level-0 node of the highest column."""

    nodes: tuple[DecoderNode, ...]
    _by_ref: dict[StageRef, DecoderNode] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_ref", {node.ref: node for node in self.nodes})

    def __getitem__(self, ref: StageRef) -> DecoderNode:
        return self._by_ref[ref]

    def __contains__(self, ref: object) -> bool:
        return ref in self._by_ref

    @property
    def output(self) -> DecoderNode:
        """The node the head reads. Raises LookupError when no node is of level 0."""
        finest = [node for node in self.nodes if node.ref.level == 0]
        if not finest:
            raise LookupError("no decoder node of level 0")
        return max(finest, key=lambda node: node.ref.column)

    def to_json(self) -> dict[str, Any]:
        return {"nodes": [node.to_json() for node in self.nodes]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(tuple(DecoderNode.from_json(node) for node in data["nodes"]))


def live_nodes(genome: Genome) -> tuple[DecoderNode, ...]:
    """The nodes on a path to the output, each after those it reads; the output comes last.

    Its references must exist and lead deeper or to earlier columns, as ``validity`` requires.
    """
    order: dict[StageRef, DecoderNode] = {}

    def visit(node: DecoderNode) -> None:
        for ref in (node.coarser, *sorted(source for source in node.sources if source.kind == "D")):
            if ref.kind == "D" and ref not in order:
                visit(genome[ref])
        order[node.ref] = node

    visit(genome.output)
    return tuple(order.values())


def plain_coarser(level: int, n_levels: int) -> StageRef:
    """The coarser input of ``D{level}`` in a plain decoder: the node below, or the bottleneck."""
    return encoder(n_levels - 1) if level == n_levels - 2 else decoder(level + 1)
