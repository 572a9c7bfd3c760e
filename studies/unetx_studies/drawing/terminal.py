"""The drawing of an architecture as text for a terminal: the U with its wires, then a table of its nodes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from unetx_space import Architecture, Backbone, DecoderNode, Relation, StageRef, decoder, encoder, relation
from unetx_studies.drawing.captions import captions, counted, operator_words, title

MARKS: Mapping[Relation, str] = {"same": "●", "finer": "▼", "coarser": "▲"}
LEGEND = "● own level   ▼ finer, brought down   ▲ coarser, brought up   ┼ only crosses"
ASCII = str.maketrans("─│┐┘┤┴┼╰╯●▼▲▶↓↑·×÷…", "-|.'++|''ov^>v^.x/.")
FIRST_TRACK = 18
TRACK = 5
"""Columns from one encoder stage's wire to the next."""


def to_text(architecture: Architecture, *, width: int = 100, ascii: bool = False) -> str:
    """The drawing of an architecture without faults, lines at most ``width`` long (at least 80).

    The U is drawn for a plain decoder where it fits; the table is always there. ``ascii`` keeps to ASCII characters.
    """
    head = [title(architecture), *captions(architecture)]
    parts = [head, _u(architecture, width), _table(architecture, width)]
    if ascii:
        parts[0] = [line.replace("·", "|") for line in head]
    text = "\n\n".join("\n".join(line.rstrip() for line in part) for part in parts if part)
    return text.translate(ASCII).encode("ascii", "replace").decode() if ascii else text


# The U. Every encoder stage that is read feeds one vertical wire; a decoder stage taps the wires of its sources.


def _u(architecture: Architecture, width: int) -> list[str]:
    """The U in two lines per level, the encoder stage's and the decoder node's; none where it cannot be drawn."""
    backbone, genome = architecture.backbone, architecture.genome
    bottom = backbone.n_levels - 1
    end = FIRST_TRACK + TRACK * backbone.n_levels + 4
    is_plain = not any(node.ref.column or any(source.kind == "D" for source in node.sources) for node in genome.nodes)
    if end + 16 > width or not is_plain:
        return []
    targets = {
        level: sorted(node.ref.level for node in genome.nodes if encoder(level) in node.sources)
        for level in range(bottom + 1)
    }
    lines = [f"  {counted(backbone.in_channels, 'channel'):<{end}}{counted(backbone.out_channels, 'class', 'classes')}"]
    lines.append(_put(end + 4, {2: "↓", end + 2: "↑"}))
    for level in range(bottom):
        lines.append(_encoder_line(level, backbone, targets, end))
        lines.append(_decoder_line(genome[decoder(level)], backbone, targets, end))
    return [*lines, _bottom_line(backbone, targets, end)]


def _put(length: int, cells: Mapping[int, str]) -> str:
    return "".join(cells.get(at, " ") for at in range(length))


def _column(level: int) -> int:
    return FIRST_TRACK + TRACK * level


def _passing(row: int, targets: Mapping[int, Sequence[int]]) -> dict[int, str]:
    """The vertical wires in a row; rows 2l and 2l + 1 are the encoder's and the decoder's line of level l."""
    cells = {}
    for level, readers in targets.items():
        rows = [2 * level, *(2 * reader + 1 for reader in readers)]
        if readers and min(rows) <= row <= max(rows):
            cells[_column(level)] = "│"
    return cells


def _cross(cells: dict[int, str], start: int, stop: int) -> None:
    """Draw a horizontal wire over the vertical ones."""
    for at in range(start, stop):
        cells[at] = "┼" if at in cells else "─"


def _encoder_line(level: int, backbone: Backbone, targets: Mapping[int, Sequence[int]], end: int) -> str:
    cells = _passing(2 * level, targets)
    if readers := targets[level]:
        _cross(cells, FIRST_TRACK - 5, _column(level))
        cells[_column(level)] = "┐" if readers[0] >= level else "┘" if readers[-1] < level else "┤"
    cells[end + 2] = "↑" if level else "│"
    return f"  E{level}{backbone.widths[level]:>6}".ljust(FIRST_TRACK - 6) + _put(end + 3, cells)[FIRST_TRACK - 6 :]


def _decoder_line(node: DecoderNode, backbone: Backbone, targets: Mapping[int, Sequence[int]], end: int) -> str:
    level = node.ref.level
    cells = _passing(2 * level + 1, targets)
    if node.sources:
        taps = {_column(source.level): MARKS[relation(source, node.ref)] for source in node.sources}
        _cross(cells, min(taps), end)
        cells |= {**taps, end: "▶"}
    cells[2] = "│"
    return _put(end + 2, cells) + f"D{level}{backbone.widths[level]:>6}"


def _bottom_line(backbone: Backbone, targets: Mapping[int, Sequence[int]], end: int) -> str:
    bottom = backbone.n_levels - 1
    cells = dict.fromkeys(range(FIRST_TRACK - 5, end + 2), "─") | {end + 2: "╯"}
    if targets[bottom]:
        cells[_column(bottom)] = "┴"
    return f"  E{bottom}{backbone.widths[bottom]:>6}".ljust(FIRST_TRACK - 6) + _put(end + 3, cells)[FIRST_TRACK - 6 :]


# The table.


def _table(architecture: Architecture, width: int) -> list[str]:
    """A row per node; sources as a matrix where that fits, otherwise as a list that wraps."""
    nodes = sorted(architecture.genome.nodes, key=lambda node: (node.ref.level, node.ref.column))
    stages = _encoder_first({source for node in nodes for source in node.sources})
    widths = architecture.backbone.widths
    before = [["node", "ch", "from", "upsampler"]]
    before += [[str(node.ref), str(widths[node.ref.level]), str(node.coarser), node.upsampler] for node in nodes]
    after = [["fusion", "align", "attention"], *([words or "-" for words in operator_words(node)] for node in nodes)]
    matrix = [[str(stage) for stage in stages]]
    for node in nodes:
        matrix.append([MARKS[relation(s, node.ref)] if s in node.sources else "·" for s in stages])
    lines = _columns([[*b, *m, *a] for b, m, a in zip(before, matrix, after, strict=True)])
    if max(map(len, lines)) > width:
        lines = _listed(nodes, before, after, width)
    return [*lines, "", LEGEND] if stages else lines


def _encoder_first(refs: Iterable[StageRef]) -> list[StageRef]:
    return sorted(refs, key=lambda ref: (ref.kind == "D", ref))


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _listed(
    nodes: Sequence[DecoderNode], before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], width: int
) -> list[str]:
    """The table with each node's sources on lines of their own below it."""
    heads = _columns([[*b, *a] for b, a in zip(before, after, strict=True)])
    lines = heads[:1]
    for node, head in zip(nodes, heads[1:], strict=True):
        sources = " ".join(MARKS[relation(source, node.ref)] + str(source) for source in _encoder_first(node.sources))
        lines += [head, *textwrap.wrap(sources, width, initial_indent="    ", subsequent_indent="    ")]
    return lines
