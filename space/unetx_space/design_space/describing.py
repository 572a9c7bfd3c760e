"""A design space in words and as facts: what ``show --space`` prints."""

from __future__ import annotations

from textwrap import fill
from typing import Any

from unetx_space.design_space.counting import n_designs
from unetx_space.design_space.decoder_kinds import SPACES
from unetx_space.design_space.space import DesignSpace
from unetx_space.genome import Attention


def space_facts(space: DesignSpace) -> dict[str, Any]:
    """The name, levels, number of designs and genes of a space, as JSON values."""
    return {
        "space": space.name,
        "n_levels": space.n_levels,
        "n_designs": n_designs(space),
        "genes": {name: list(choices) for name, choices in space.genes.items()},
    }


def space_text(space: DesignSpace, *, width: int = 100) -> str:
    """The genes of every node, the choices of every kind of gene, and the exact number of distinct designs."""
    spec, number = SPACES[space.name], n_designs(space)
    about = f" (about {number:.1e})" if number >= 10**6 else ""
    rows = [
        ("space", f"{space.name}: {spec.title} ({spec.paper}). {spec.note}"),
        ("designs", f"{number:,} distinct ones{about} on {space.n_levels} levels"),
        ("genes", f"{len(space.genes)}"),
        *((f"  {node.candidate.ref}", ", ".join([*node.sources, *node.operators])) for node in space.nodes),
        ("choices", "every gene that reads a stage is no or yes"),
        ("  attention", _attentions(space.attentions)),
        ("  upsampler", ", ".join(space.upsamplers)),
        ("  fusion", ", ".join(space.fusions)),
    ]
    if any(node.alignment for node in space.nodes):
        rows.append(("  alignment", ", ".join(space.alignments)))
    return "\n".join(
        fill(text, width, initial_indent=f"{head:<13}", subsequent_indent=" " * 13, break_on_hyphens=False)
        for head, text in rows
    )


def _attentions(attentions: tuple[Attention, ...]) -> str:
    """The attentions in words, one for each type with its placements, such as ``se@source|fused|block``."""
    placements: dict[str, list[str]] = {}
    for attention in attentions:
        placements.setdefault(attention.type, []).extend([attention.placement] if attention.placement else [])
    return ", ".join(f"{type_}@{'|'.join(places)}" if places else type_ for type_, places in placements.items())
