"""The layout of a drawing: boxes for stages, wires for what they read. Geometry only, in pixels.

A plain decoder is drawn as a U: encoder stages down the left, decoder nodes up the right, the bottleneck between them
at the bottom, and cross-level sources as curves through the middle. A nested one is drawn as in UNet++
(arXiv:1807.10165, figure 1): column j of level i stands at i + 2j half steps, so that every node lies up right of
its coarser input, own-level sources arch over the row, and cross-level ones pass between the boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from unetx_space import Architecture, DecoderNode, Relation, StageRef, encoder, relation
from unetx_studies.drawing.captions import operator_words

Side = Literal["left", "right", "top", "bottom"]
Kind = Literal["down", "up"] | Relation
Point = tuple[float, float]

OUTWARD: Mapping[Side, Point] = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}

ENCODER_WIDTH = 128.0
DECODER_WIDTH = 196.0
NESTED_WIDTH = 164.0
ENCODER_HEIGHT = 48.0
DECODER_HEIGHT = 82.0
LABEL_PITCH = 11.0
"""Space between two incoming wires on the left or right of a box, so that their labels do not touch."""
WIDE_LABEL_PITCH = 27.0
"""Space between two incoming wires on the top or bottom of a box."""
BARE_PITCH = 7.0
"""Space between two outgoing wires, which have no labels."""
GAP = 36.0
"""Space between rows."""
LABEL_WIDTH = 34.0
"""Space left of a node's words, for the names of the sources that enter there."""
NUMBER_WIDTH = 44.0
"""More space there, for a number beside each name."""
NUMBER_PITCH = 10.0
"""Space for a number beneath a name, where wires enter from above or below."""
NOTE_HEIGHT = 20.0
NOTE_CHARACTERS = 16
"""Height and most characters of one more line in every box."""
CHARACTER_WIDTH = 6.8
"""Widest character of a node's words."""


@dataclass(frozen=True, slots=True)
class Box:
    """The box of a stage, by its centre and its size."""

    ref: StageRef
    x: float
    y: float
    width: float
    height: float

    def port(self, side: Side, shift: float = 0.0) -> Point:
        """A point on the border, ``shift`` pixels down or right of the side's middle."""
        dx, dy = OUTWARD[side]
        along = (0.0, shift) if dx else (shift, 0.0)
        return self.x + dx * self.width / 2 + along[0], self.y + dy * self.height / 2 + along[1]


@dataclass(frozen=True, slots=True)
class Wire:
    """The curve from a stage to one that reads it: ``down`` the encoder, ``up`` the decoder, or by their relation."""

    source: StageRef
    target: StageRef
    kind: Kind
    leaves: Side
    enters: Side
    start: Point
    control1: Point
    control2: Point
    end: Point

    @property
    def is_source(self) -> bool:
        return self.kind not in ("down", "up")

    @property
    def is_corner(self) -> bool:
        """Whether it is one of the two lower corners of the U."""
        return not self.is_source and (self.enters == "left" or self.leaves == "right")


@dataclass(frozen=True, slots=True)
class Layout:
    """The boxes and wires of a drawing."""

    boxes: Mapping[StageRef, Box]
    wires: tuple[Wire, ...]
    is_nested: bool

    def bounds(self) -> tuple[float, float, float, float]:
        """The left, top, right and bottom end of all boxes and wires."""
        points = [p for wire in self.wires for p in (wire.start, wire.control1, wire.control2, wire.end)]
        points += [box.port(side) for box in self.boxes.values() for side in OUTWARD]
        xs, ys = zip(*points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


Rank = tuple[int, float]
"""Group and order of an end on its side: negative groups lie before the side's middle (above it, or left of it),
positive ones behind, group 0 right on it."""


@dataclass(frozen=True, slots=True)
class _Link:
    """A wire whose ends have sides and ranks, but no places yet."""

    source: StageRef
    target: StageRef
    kind: Kind
    leaves: Side
    leave_rank: Rank
    enters: Side
    enter_rank: Rank


def make_layout(architecture: Architecture, *, with_numbers: bool = False) -> Layout:
    """The layout of an architecture without faults.

    ``with_numbers`` leaves room for a number at every name of a source and for one more line in every box.
    """
    nodes, n_levels = architecture.genome.nodes, architecture.backbone.n_levels
    columns = sorted({node.ref.column for node in nodes})
    if any(columns):
        ranks = {node.ref: columns.index(node.ref.column) + 1 for node in nodes}  # counted without gaps
        links = _nested_links(nodes, n_levels, ranks)
        shifts = _shifts(links, WIDE_LABEL_PITCH + (NUMBER_PITCH + 2 if with_numbers else 0))
        boxes = _nested_boxes(nodes, n_levels, ranks, shifts, with_numbers)
    else:
        links = _plain_links(nodes, n_levels)
        shifts = _shifts(links)
        boxes = _plain_boxes(nodes, n_levels, shifts, with_numbers)
    return Layout(boxes, tuple(_wire(link, boxes, shifts) for link in links), any(columns))


def _signed(order: float) -> Rank:
    return (order > 0) - (order < 0), order


MIDDLE: Rank = (0, 0)


def _plain_links(nodes: Iterable[DecoderNode], n_levels: int) -> list[_Link]:
    bottleneck = encoder(n_levels - 1)
    links = []
    for level in range(n_levels - 1):
        enters: Side = "left" if level == n_levels - 2 else "top"
        links.append(_Link(encoder(level), encoder(level + 1), "down", "bottom", MIDDLE, enters, MIDDLE))
    for node in nodes:
        leaves: Side = "right" if node.coarser == bottleneck else "top"
        links.append(_Link(node.coarser, node.ref, "up", leaves, MIDDLE, "bottom", MIDDLE))
        for source in node.sources:
            kind, rise = relation(source, node.ref), source.level - node.ref.level
            start: tuple[Side, Rank] = ("right", _signed(-rise))
            end: tuple[Side, Rank] = ("left", _signed(rise))
            if source.kind == "D":  # bends round the right side, where an inner bend must not cross an outer one
                start, end = ("right", (-1, -1 / rise)), ("right", (1, 1 / rise))
            elif source == bottleneck:
                start = ("top", (-1, node.ref.level))
            links.append(_Link(source, node.ref, kind, *start, *end))
    return links


def _half_steps(ref: StageRef, ranks: Mapping[StageRef, int]) -> int:
    return ref.level + 2 * ranks.get(ref, 0)


def _nested_links(nodes: Iterable[DecoderNode], n_levels: int, ranks: Mapping[StageRef, int]) -> list[_Link]:
    links = [
        _Link(encoder(level), encoder(level + 1), "down", "bottom", MIDDLE, "top", MIDDLE)
        for level in range(n_levels - 1)
    ]
    for node in nodes:
        for ref in (node.coarser, *node.sources):
            kind: Kind = "up" if ref == node.coarser else relation(ref, node.ref)
            across = _half_steps(node.ref, ranks) - _half_steps(ref, ranks)
            links.append(_nested_link(node.ref, ref, kind, across))
    return links


def _nested_link(node: StageRef, source: StageRef, kind: Kind, across: int) -> _Link:
    """``across`` is how many half steps the node lies to the right of the source."""
    if kind == "same" and across == 2:
        return _Link(source, node, kind, "right", MIDDLE, "left", MIDDLE)
    if kind == "same":  # arches over the row, where a wide arch must not cross the narrow one under it
        return _Link(source, node, kind, "top", (2, -across), "top", (-2, across))
    if kind == "finer":
        return _Link(source, node, kind, "bottom", (1, across), "top", (-1, -across))
    return _Link(source, node, kind, "top", (1, across), "bottom", (1 if across < 0 else -1, -across))


_End = tuple[StageRef, StageRef, bool]
"""Source and target of a wire, and whether this is its end at the target."""


def _shifts(links: Iterable[_Link], wide_pitch: float = WIDE_LABEL_PITCH) -> dict[_End, float]:
    """How far from the middle of its side each end lies."""
    sides: dict[tuple[StageRef, Side], list[tuple[Rank, _End, float]]] = {}
    for link in links:
        pitch = LABEL_PITCH if link.enters in ("left", "right") else wide_pitch  # the label included
        if link.kind in ("up", "down"):
            pitch = BARE_PITCH
        start, end = (link.source, link.target, False), (link.source, link.target, True)
        sides.setdefault((link.source, link.leaves), []).append((link.leave_rank, start, BARE_PITCH))
        sides.setdefault((link.target, link.enters), []).append((link.enter_rank, end, pitch))
    return {end: shift for ends in sides.values() for end, shift in _spread(ends)}


def _spread(ends: list[tuple[Rank, _End, float]]) -> Iterator[tuple[_End, float]]:
    """Ends side by side from the middle outwards."""
    middle = [item for item in ends if item[0][0] == 0]
    before = sorted((item for item in ends if item[0][0] < 0), reverse=True)
    behind = sorted(item for item in ends if item[0][0] > 0)
    yield from ((end, 0.0) for _, end, _ in middle)
    for sign, half in ((-1, before), (1, behind)):
        at = max((pitch for _, _, pitch in middle), default=0.0) / 2
        for _, end, pitch in half:
            yield end, sign * (at + pitch / 2)
            at += pitch


Shifts = Mapping[_End, float]


def _reach(shifts: Shifts, at_end: bool | None = None) -> float:
    """The farthest that any end lies from the middle of its side."""
    return max((abs(shift) for (_, _, end), shift in shifts.items() if at_end in (None, end)), default=0.0)


def label_width(with_numbers: bool) -> float:
    """Space in a box left of its words."""
    return LABEL_WIDTH + (NUMBER_WIDTH if with_numbers else 0)


def _words_width(nodes: Iterable[DecoderNode], with_numbers: bool) -> float:
    """The width at which no node's words leave its box, nor meet the names at its right side."""
    beside = label_width(with_numbers)
    widest, note = 0.0, NOTE_CHARACTERS if with_numbers else 0
    for node in nodes:
        fusion, alignment, attention = operator_words(node)
        lengths = len(node.upsampler) + 2, len(fusion) + len(alignment) + 3, len(attention) + 2, note
        at_right = beside if any(source.kind == "D" for source in node.sources) else 8.0
        widest = max(widest, beside + CHARACTER_WIDTH * max(lengths) + at_right)
    return widest


def _plain_boxes(
    nodes: Iterable[DecoderNode], n_levels: int, shifts: Shifts, with_numbers: bool
) -> dict[StageRef, Box]:
    more = NOTE_HEIGHT if with_numbers else 0.0
    height = max(DECODER_HEIGHT + more, 2 * _reach(shifts, True) + 18)
    encoder_height = max(ENCODER_HEIGHT + more, 2 * _reach(shifts, False) + 14)
    width = max(DECODER_WIDTH, _words_width(nodes, with_numbers))
    middle = max(360.0, 76.0 * n_levels)
    pitch = max(height, encoder_height) + GAP
    boxes = {
        encoder(level): Box(encoder(level), 0, level * pitch, ENCODER_WIDTH, encoder_height)
        for level in range(n_levels - 1)
    }
    bottleneck = encoder(n_levels - 1)
    boxes[bottleneck] = Box(
        bottleneck, (ENCODER_WIDTH + middle) / 2, (n_levels - 1) * pitch, ENCODER_WIDTH, ENCODER_HEIGHT + more
    )
    x = (ENCODER_WIDTH + width) / 2 + middle
    boxes |= {node.ref: Box(node.ref, x, node.ref.level * pitch, width, height) for node in nodes}
    return boxes


def _nested_boxes(
    nodes: Iterable[DecoderNode], n_levels: int, ranks: Mapping[StageRef, int], shifts: Shifts, with_numbers: bool
) -> dict[StageRef, Box]:
    height = DECODER_HEIGHT + 22 + (NOTE_HEIGHT + 2 * NUMBER_PITCH if with_numbers else 0)
    width = max(NESTED_WIDTH, 2 * _reach(shifts) + 40, _words_width(nodes, with_numbers))
    half_step = (width + 60) / 2
    widest = max((ranks[node.ref] - ranks.get(source, 0) for node in nodes for source in node.sources), default=1)
    pitch = height + GAP + 11 * max(widest, 2)
    encoder_height = ENCODER_HEIGHT + (NOTE_HEIGHT if with_numbers else 0)
    boxes = {
        encoder(level): Box(encoder(level), level * half_step, level * pitch, ENCODER_WIDTH, encoder_height)
        for level in range(n_levels)
    }
    for node in nodes:
        x = _half_steps(node.ref, ranks) * half_step
        boxes[node.ref] = Box(node.ref, x, node.ref.level * pitch, width, height)
    return boxes


def _wire(link: _Link, boxes: Mapping[StageRef, Box], shifts: Shifts) -> Wire:
    start = boxes[link.source].port(link.leaves, shifts[link.source, link.target, False])
    end = boxes[link.target].port(link.enters, shifts[link.source, link.target, True])
    # How far each end goes straight out of its box before the wire turns.
    dx, dy = abs(end[0] - start[0]), abs(end[1] - start[1])
    if link.leaves == link.enters:  # a bend or an arch
        first = last = 30 + 0.22 * dy if link.leaves == "right" else 18 + 0.07 * dx
    else:
        is_turn = (link.leaves == "right") != (link.enters == "left")
        share = 0.62 if is_turn else 0.5
        first, last = share * (dx if link.leaves == "right" else dy), share * (dx if link.enters == "left" else dy)
    (ax, ay), (bx, by) = OUTWARD[link.leaves], OUTWARD[link.enters]
    control1 = start[0] + ax * first, start[1] + ay * first
    control2 = end[0] + bx * last, end[1] + by * last
    return Wire(link.source, link.target, link.kind, link.leaves, link.enters, start, control1, control2, end)
