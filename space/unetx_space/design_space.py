"""The choices a search may make, as genes with names, choices and a count.

The default space has one decoder node per level; its sources are any subset of the encoder stages. A gene's name says
where it acts: ``D2.E0`` (does D2 read E0?), ``D2.attention``, ``D2.upsampler``, ``D2.fusion``, ``D2.alignment``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from unetx_space.genome import (
    NO_ATTENTION,
    PLACEMENTS,
    Attention,
    DecoderNode,
    Genome,
    StageRef,
    decoder,
    encoder,
    plain_coarser,
)
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS

Choice = bool | str
Params = Mapping[str, Any]


class Suggester(Protocol):
    """The part of an Optuna trial that a space needs."""

    def suggest_categorical(self, name: str, choices: Sequence[Choice]) -> Any:
        """One of ``choices``."""


def attention_genes(types: Sequence[str]) -> tuple[Attention, ...]:
    """Every valid (type, placement) pair of the given types."""
    return tuple(
        gene
        for type_ in types
        for gene in ([NO_ATTENTION] if type_ == "none" else [Attention(type_, place) for place in PLACEMENTS])
    )


@dataclass(frozen=True)
class DesignSpace:
    """The default space for a backbone of ``n_levels`` levels; every genome in it is free of faults."""

    n_levels: int
    attentions: tuple[Attention, ...] = attention_genes(tuple(ATTENTIONS))
    upsamplers: tuple[str, ...] = tuple(UPSAMPLERS)
    fusions: tuple[str, ...] = tuple(FUSIONS)
    alignments: tuple[str, ...] = tuple(ALIGNMENTS)

    @cached_property
    def genes(self) -> Mapping[str, tuple[Choice, ...]]:
        """Every gene with its choices, deepest node first."""
        genes: dict[str, tuple[Choice, ...]] = {}
        for node in self._nodes:
            genes |= {f"{node}.{source}": (False, True) for source in self._candidates(node)}
            genes[f"{node}.attention"] = tuple(map(str, self.attentions))
            genes[f"{node}.upsampler"] = self.upsamplers
            genes[f"{node}.fusion"] = self.fusions
            genes[f"{node}.alignment"] = self.alignments
        return genes

    @property
    def _nodes(self) -> tuple[StageRef, ...]:
        return tuple(decoder(level) for level in reversed(range(self.n_levels - 1)))

    def _candidates(self, node: StageRef) -> tuple[StageRef, ...]:
        """The sources a node may have: all encoder stages but its own coarser input."""
        coarser = plain_coarser(node.level, self.n_levels)
        return tuple(stage for stage in map(encoder, range(self.n_levels)) if stage != coarser)

    def suggest(self, trial: Suggester) -> Genome:
        """A genome from an Optuna trial: one categorical per gene, all of them always asked."""
        return self.from_params({name: trial.suggest_categorical(name, list(c)) for name, c in self.genes.items()})

    def sample(self, rng: random.Random) -> Genome:
        """A genome with every gene drawn uniformly from ``rng``."""
        return self.from_params({name: rng.choice(choices) for name, choices in self.genes.items()})

    def from_params(self, params: Params) -> Genome:
        """The genome that these gene values spell. Raises KeyError when a gene is missing."""
        return Genome(tuple(self._node(node, params) for node in self._nodes))

    def _node(self, ref: StageRef, params: Params) -> DecoderNode:
        return DecoderNode(
            ref=ref,
            coarser=plain_coarser(ref.level, self.n_levels),
            sources=tuple(source for source in self._candidates(ref) if params[f"{ref}.{source}"]),
            attention=Attention.parse(params[f"{ref}.attention"]),
            upsampler=params[f"{ref}.upsampler"],
            fusion=params[f"{ref}.fusion"],
            alignment=params[f"{ref}.alignment"],
        )

    def to_params(self, genome: Genome) -> dict[str, Choice]:
        """The gene values that spell ``genome``. Raises ValueError, naming the gene, when this space lacks it."""
        if {node.ref for node in genome.nodes} != set(self._nodes):
            raise ValueError(f"this space has the nodes {', '.join(map(str, self._nodes))}, one per level")
        params: dict[str, Choice] = {}
        for ref in self._nodes:
            node = genome[ref]
            unknown = set(node.sources) - set(self._candidates(ref))
            if unknown or node.coarser != plain_coarser(ref.level, self.n_levels):
                raise ValueError(f"{ref}: inputs outside this space: {sorted(map(str, unknown or {node.coarser}))}")
            params |= {f"{ref}.{source}": source in node.sources for source in self._candidates(ref)}
            params |= {
                f"{ref}.attention": str(node.attention),
                f"{ref}.upsampler": node.upsampler,
                f"{ref}.fusion": node.fusion,
                f"{ref}.alignment": node.alignment,
            }
        for name, value in params.items():
            if value not in self.genes[name]:
                raise ValueError(f"{name}: {value!r} is not among {list(self.genes[name])}")
        return params

    def size(self) -> int:
        """The exact number of distinct designs, genes without effect counted once."""
        return math.prod(self._node_size(node) for node in self._nodes)

    def _node_size(self, ref: StageRef) -> int:
        n_sources = len(self._candidates(ref))
        n_finer = sum(source.level < ref.level for source in self._candidates(ref))
        without_finer = 1 << (n_sources - n_finer)
        idle = {NO_ATTENTION if a.placement == "source" else a for a in self.attentions}
        attended = len(self.attentions) * len(self.fusions)
        return len(self.upsamplers) * (
            len(idle)  # no source at all: no fusion, no alignment, no attention on sources
            + (without_finer - 1) * attended
            + ((1 << n_sources) - without_finer) * attended * len(self.alignments)
        )
