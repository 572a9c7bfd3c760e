"""A design space: genes with names and choices, and the genomes they spell.

A gene's name says where it acts: ``D2.E0`` (does D2 read E0?), ``D0.3.D0.1`` (does the third node of level 0 read the
first?), ``D2.attention``, ``D2.upsampler``, ``D2.fusion``, ``D2.alignment``. A gene that could never have an effect is
not there: no alignment where no source can be finer, no fusion where nothing can be read.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from unetx_space.design_space.decoder_kinds import SPACES, CandidateNode, SpaceName
from unetx_space.genome import (
    Attention,
    DecoderNode,
    Genome,
    Relation,
    StageRef,
    attention_genes,
    decoder,
    live_nodes,
    relation,
)
from unetx_space.operators.catalogue import (
    ALIGNMENTS,
    ATTENTIONS,
    FUSIONS,
    PLAIN_ALIGNMENT,
    PLAIN_FUSION,
    UPSAMPLERS,
    by_default,
)

Choice = bool | str
Params = Mapping[str, Any]

RELATIONS: tuple[Relation, ...] = ("same", "finer", "coarser")


class Suggester(Protocol):
    """The part of an Optuna trial that a space needs."""

    def suggest_categorical(self, name: str, choices: Sequence[Choice]) -> Any:
        """Suggest one of ``choices`` for the gene called ``name``."""


@dataclass(frozen=True, slots=True)
class NodeGenes:
    """The names of the genes of one decoder node."""

    candidate: CandidateNode
    sources: Mapping[str, StageRef]
    """The stage that each source gene is about."""
    attention: str
    upsampler: str
    fusion: str | None
    """The fusion gene; None where the node can read nothing but its coarser input."""
    alignment: str | None
    """The alignment gene; None where no source can be finer."""

    @classmethod
    def of(cls, node: CandidateNode) -> NodeGenes:
        """The genes that have an effect for some choice of sources."""
        ref = node.ref
        return cls(
            node,
            {f"{ref}.{source}": source for source in node.candidates},
            f"{ref}.attention",
            f"{ref}.upsampler",
            f"{ref}.fusion" if node.candidates else None,
            f"{ref}.alignment" if any(source.level < ref.level for source in node.candidates) else None,
        )

    @property
    def operators(self) -> tuple[str, ...]:
        """The names of all genes that are no sources."""
        own = (self.attention, self.upsampler, self.fusion, self.alignment)
        return tuple(name for name in own if name is not None)


@dataclass(frozen=True)
class DesignSpace:
    """A space for backbones of ``n_levels`` levels; every genome in it is free of faults."""

    n_levels: int
    attentions: tuple[Attention, ...] = attention_genes(by_default(ATTENTIONS))
    upsamplers: tuple[str, ...] = by_default(UPSAMPLERS)
    fusions: tuple[str, ...] = by_default(FUSIONS)
    alignments: tuple[str, ...] = by_default(ALIGNMENTS)
    sources: tuple[Relation, ...] = RELATIONS
    """The relations in which a source may lie to its node."""
    name: SpaceName = "default"

    @cached_property
    def nodes(self) -> tuple[NodeGenes, ...]:
        """The genes of each node, deepest level and earliest column first."""

        def narrowed(node: CandidateNode) -> CandidateNode:
            allowed = tuple(source for source in node.candidates if relation(source, node.ref) in self.sources)
            return CandidateNode(node.ref, node.coarser, allowed)

        return tuple(NodeGenes.of(narrowed(node)) for node in SPACES[self.name].nodes(self.n_levels))

    @cached_property
    def genes(self) -> Mapping[str, tuple[Choice, ...]]:
        """Every gene with its choices, deepest node first."""
        genes: dict[str, tuple[Choice, ...]] = {}
        for node in self.nodes:
            genes |= dict.fromkeys(node.sources, (False, True))
            genes[node.attention] = tuple(self._attentions)
            genes[node.upsampler] = self.upsamplers
            if node.fusion is not None:
                genes[node.fusion] = self.fusions
            if node.alignment is not None:
                genes[node.alignment] = self.alignments
        return genes

    @cached_property
    def _attentions(self) -> Mapping[str, Attention]:
        return {str(attention): attention for attention in self.attentions}

    def suggest(self, trial: Suggester) -> Genome:
        """A genome from an Optuna trial: one categorical per gene, all of them always asked."""
        return self.from_params({name: trial.suggest_categorical(name, list(c)) for name, c in self.genes.items()})

    def sample(self, rng: random.Random) -> Genome:
        """A genome with every gene drawn uniformly from ``rng``."""
        choice = rng.choice
        return self.from_params({name: choice(choices) for name, choices in self.genes.items()})

    def from_params(self, params: Params) -> Genome:
        """The genome that these gene values spell; nodes that no path to the output reads are left out.

        Raises KeyError when a gene of a living node is missing.
        """
        read, nodes = {self.nodes[-1].candidate.ref}, []
        for names in reversed(self.nodes):  # the output first, and every node behind all that may read it
            if names.candidate.ref in read:
                node = self.node(names, params)
                read.update(node.reads)
                nodes.append(node)
        return Genome(tuple(reversed(nodes)))

    def node(self, names: NodeGenes, params: Params) -> DecoderNode:
        """The node with these names in the genome that the gene values spell."""
        return DecoderNode(
            names.candidate.ref,
            names.candidate.coarser,
            tuple([source for name, source in names.sources.items() if params[name]]),
            self._attentions[params[names.attention]],
            params[names.upsampler],
            PLAIN_FUSION if names.fusion is None else params[names.fusion],
            PLAIN_ALIGNMENT if names.alignment is None else params[names.alignment],
        )

    def to_params(self, genome: Genome) -> dict[str, Choice]:
        """The gene values that spell ``genome``, or its twin when a gene without effect has a value outside this space.

        Nodes that the genome does not have read nothing and take the first choices. Raises ValueError, naming the gene,
        when no values spell it.
        """
        live = self.places(genome)
        params: dict[str, Choice] = {}
        for names in self.nodes:
            node = live.get(names.candidate.ref)
            if node is None:
                params |= dict.fromkeys(names.sources, False) | {name: self.genes[name][0] for name in names.operators}
            else:
                params |= self._spelling(names, node)
        return params

    def places(self, genome: Genome) -> dict[StageRef, DecoderNode]:
        """The live nodes of a genome by the names this space gives them, written with these names throughout.

        In a nested space the column is the length of the chain of coarser inputs: that of X^{i,j} starts at E{i+j}.
        Raises ValueError when they do not fit the nodes of this space.
        """
        places: dict[StageRef, StageRef] = {}
        for node in live_nodes(genome):
            column = places[node.coarser].column + 1 if node.coarser in places else 1
            places[node.ref] = decoder(node.ref.level, column if self.name == "nested" else 0)
        found = {places[ref]: genome[ref].renamed(places) for ref in places}
        known = [names.candidate.ref for names in self.nodes]
        if len(found) < len(places) or not found.keys() <= set(known) or known[-1] not in found:
            given = ", ".join(map(str, places.values()))
            raise ValueError(f"this space has the nodes {', '.join(map(str, known))}, got {given}")
        return found

    def _spelling(self, names: NodeGenes, node: DecoderNode) -> dict[str, Choice]:
        ref, coarser, candidates = names.candidate.ref, names.candidate.coarser, names.candidate.candidates
        if node.coarser != coarser:
            raise ValueError(f"{ref}: its coarser input is {coarser} in this space, not {node.coarser}")
        if outside := sorted(set(node.sources) - set(candidates)):
            may_read = ", ".join(map(str, candidates)) or "no source"
            raise ValueError(f"{ref}.{outside[0]}: this space has no such gene; {ref} may read {may_read}")
        params: dict[str, Choice] = {name: source in node.sources for name, source in names.sources.items()}
        params[names.attention] = self._attention(names, node)
        params[names.upsampler] = self._checked(names.upsampler, node.upsampler, has_effect=True)
        if names.fusion is not None:
            params[names.fusion] = self._checked(names.fusion, node.fusion, has_effect=bool(node.sources))
        if names.alignment is not None:
            has_finer = any(source.level < ref.level for source in node.sources)
            params[names.alignment] = self._checked(names.alignment, node.alignment, has_effect=has_finer)
        return params

    def _attention(self, names: NodeGenes, node: DecoderNode) -> str:
        """The attention gene of a node; where it has no sources, attention on them is another spelling of none."""
        idle = [str(gene) for gene in self.attentions if gene.placement in (None, "source")]
        if not node.sources and node.attention.placement in (None, "source") and node.attention not in self.attentions:
            return self._checked(names.attention, idle[0] if idle else str(node.attention), has_effect=True)
        return self._checked(names.attention, str(node.attention), has_effect=True)

    def _checked(self, name: str, value: str, *, has_effect: bool) -> str:
        choices = self.genes[name]
        if value in choices:
            return value
        if has_effect:
            raise ValueError(f"{name}: {value!r} is not among {list(choices)}")
        return str(choices[0])
