"""Fewer (or other) choices for a space, from the words of a command line or of a settings file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unetx_space.design_space.decoder_kinds import SPACES
from unetx_space.design_space.space import RELATIONS, Choice, DesignSpace
from unetx_space.errors import RequestError, unknown_name
from unetx_space.genome import Attention, Genome, attention_genes
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS

Words = str | Sequence[str]
"""``"none,se"`` or ``["none", "se"]``; ``"all"`` is every one there is."""

ALL = "all"


def design_space(name: str, n_levels: int) -> DesignSpace:
    """The space of that name. Raises RequestError naming the nearest one."""
    for known in SPACES:
        if name == known:
            return DesignSpace(n_levels, name=known)
    raise RequestError(unknown_name("space", name, SPACES))


def narrowed(
    space: DesignSpace,
    *,
    attention: Words | None = None,
    upsampler: Words | None = None,
    fusion: Words | None = None,
    alignment: Words | None = None,
    sources: Words | None = None,
) -> DesignSpace:
    """``space`` with these choices only; a family that is not named keeps its choices.

    An attention is a type at all its placements (``se``) or at one (``se@source``); ``sources`` are ``same``, ``finer``
    and ``coarser`` as seen from the node. The order of words and repeated words carry no meaning. Raises RequestError
    for a word that is not known, with the nearest one, and for an empty list.
    """
    changes: dict[str, Any] = {}
    if attention is not None:
        wanted = {gene for word in _words("attention", attention) for gene in _placed(word)}
        changes["attentions"] = tuple(gene for gene in attention_genes(ATTENTIONS) if gene in wanted)
    for field, family, words, known in (
        ("upsamplers", "upsampler", upsampler, UPSAMPLERS),
        ("fusions", "fusion", fusion, FUSIONS),
        ("alignments", "alignment", alignment, ALIGNMENTS),
        ("sources", "sources", sources, RELATIONS),
    ):
        if words is not None:
            given = _words(family, words)
            for word in sorted(given - {ALL, *known}):
                raise RequestError(unknown_name(family, word, (*known, ALL)))
            # In the catalogue's order, so that two spellings of a list give one space.
            changes[field] = tuple(name for name in known if name in given or ALL in given)
    space = replace(space, **changes)
    if not any(node.sources for node in space.nodes):
        raise RequestError(
            f"sources: with {', '.join(space.sources)} alone no node of the space {space.name!r} may read anything; "
            "add 'same', the encoder stage of the node's own level"
        )
    return space


def adapted(space: DesignSpace, genome: Genome) -> dict[str, Choice]:
    """The gene values of ``space`` that come nearest to a genome of its kind of decoder.

    A gene whose value the space lacks gets its first choice, and sources that it lacks are left out: how a published
    design is tried in a narrowed space. Raises ValueError for a genome of other nodes.
    """
    wide = narrowed(design_space(space.name, space.n_levels), attention=ALL, upsampler=ALL, fusion=ALL, alignment=ALL)
    values = wide.to_params(genome)
    return {name: values[name] if values.get(name) in choices else choices[0] for name, choices in space.genes.items()}


def _words(family: str, words: Words) -> set[str]:
    parts = words.split(",") if isinstance(words, str) else words
    given = {part.strip() for part in parts} - {""}
    if not given:
        raise RequestError(f"{family}: at least one name is needed; leave it out to keep the default, or say {ALL!r}")
    return given


def _placed(word: str) -> tuple[Attention, ...]:
    """The attentions that one word means: ``all``, a type, or a type at one placement."""
    if word == ALL:
        return attention_genes(ATTENTIONS)
    type_, at, placement = word.partition("@")
    if type_ not in ATTENTIONS:
        raise RequestError(unknown_name("attention", type_, (*ATTENTIONS, ALL)))
    if not at:
        return attention_genes((type_,))
    for place in ATTENTIONS[type_].placements:
        if place == placement:
            return (Attention(type_, place),)
    if not ATTENTIONS[type_].placements:
        raise RequestError(f"attention {type_!r} has no placement, got {word!r}")
    raise RequestError(unknown_name(f"placement of attention {type_!r}", placement, ATTENTIONS[type_].placements))
