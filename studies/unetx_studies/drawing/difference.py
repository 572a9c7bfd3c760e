"""The differences of two designs, in words and marked in two drawings side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from unetx_space import Architecture, DecoderNode, StageRef
from unetx_space.canonical import canonical
from unetx_studies.drawing.captions import operator_words
from unetx_studies.drawing.svg import Marks, to_svg

NOTE = "Yellow: what the other design does not have."
GAP = 20.0


def differences(one: Architecture, other: Architecture) -> list[str]:
    """The differences of one design from another, a sentence for each node; empty where there are none."""
    words = []
    for name in (field.name for field in fields(one.backbone)):
        mine, theirs = getattr(one.backbone, name), getattr(other.backbone, name)
        if mine != theirs:
            words.append(f"Backbone: {name.replace('_', ' ')} {_plain(mine)} instead of {_plain(theirs)}.")
    nodes, others = _nodes(one), _nodes(other)
    for ref in sorted({*nodes, *others}, key=lambda ref: (-ref.level, ref.column)):
        if ref not in others:
            words.append(f"{ref} is there.")
        elif ref not in nodes:
            words.append(f"{ref} is not there.")
        elif changes := "; ".join(_node_differences(nodes[ref], others[ref])):
            words.append(f"{ref} {changes}.")
    return words


def to_svgs(one: Architecture, other: Architecture) -> tuple[str, str]:
    """The drawings of two designs; in each, what the other design does not have is marked."""
    return to_svg(one, marks=_marks(one, other)), to_svg(other, marks=_marks(other, one))


def side_by_side(one: Architecture, other: Architecture) -> str:
    """Both drawings in one SVG document."""
    left, right = (svg[svg.index("<svg") :] for svg in to_svgs(one, other))
    (w0, h0), (w1, h1) = (_size(svg) for svg in (left, right))
    width, height = w0 + GAP + w1, max(h0, h1)
    placed = right.replace("<svg ", f'<svg x="{w0 + GAP:.1f}" ', 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.1f} {height:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}">\n{left}{placed}</svg>\n'
    )


def _size(svg: str) -> tuple[float, float]:
    width, height = (float(svg.partition(f' {name}="')[2].partition('"')[0]) for name in ("width", "height"))
    return width, height


def _nodes(architecture: Architecture) -> dict[StageRef, DecoderNode]:
    return {node.ref: node for node in canonical(architecture.genome).nodes}


def _operators(node: DecoderNode) -> tuple[str, ...]:
    """Upsampling, fusion, alignment and attention in words, empty for none."""
    return (node.upsampler, *operator_words(node))


def _node_differences(mine: DecoderNode, theirs: DecoderNode) -> Iterator[str]:
    more = [str(source) for source in mine.sources if source not in theirs.sources]
    fewer = [str(source) for source in theirs.sources if source not in mine.sources]
    if more:
        yield f"also reads {' and '.join(more)}"
    if fewer:
        yield f"does not read {' and '.join(fewer)}"
    if mine.coarser != theirs.coarser:
        yield f"upsamples {mine.coarser} instead of {theirs.coarser}"
    kinds = ("upsampling", "fusion", "alignment", "attention")
    for kind, has, had in zip(kinds, _operators(mine), _operators(theirs), strict=True):
        if has != had:
            yield f"{kind} {has or 'none'} instead of {had or 'none'}"


def _marks(one: Architecture, other: Architecture) -> Marks:
    nodes, others = _nodes(one), _nodes(other)
    sources, changed = set(), set()
    for ref, node in nodes.items():
        theirs = others.get(ref)
        if theirs is None or _operators(node) != _operators(theirs):
            changed.add(ref)
        had = () if theirs is None else theirs.sources
        sources |= {(source, ref) for source in node.sources if source not in had}
    note = NOTE if sources or changed else "Nothing is marked: the other design has all of it."
    return Marks(frozenset(sources), frozenset(changed), note)


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join("x".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in value)
    return str(value)
