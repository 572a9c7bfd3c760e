"""The drawing of an architecture as one self-contained SVG, with a light ground of its own for any page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

from unetx_space import Architecture, StageRef
from unetx_studies.drawing.captions import captions, counted, operator_words, size_text, title
from unetx_studies.drawing.layout import NUMBER_PITCH, Box, Kind, Layout, Point, Wire, label_width, make_layout

COLOURS: Mapping[Kind, str] = {
    "down": "#7d8a9e",
    "up": "#7d8a9e",
    "same": "#1864c7",
    "finer": "#c2500a",
    "coarser": "#0b7f5c",
}
DASHES: Mapping[Kind, str] = {"down": "", "up": "", "same": "", "finer": "7 4", "coarser": "1.5 4"}
LEGEND: Mapping[Kind, str] = {
    "same": "source of the own level",
    "finer": "finer source, aligned",
    "coarser": "coarser source, interpolated",
    "up": "main path",
}
STYLE = (
    "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;fill:#1b2333}"
    ".muted{fill:#566176}.port{font-size:9px;font-weight:600}.fact{font-size:12px}"
    ".name{font-size:15px;font-weight:700}"
)
MARGIN = 28.0
HEADER = 74.0
FOOTER = 46.0
LEGEND_STEP = 215.0
MIN_WIDTH = 3 * LEGEND_STEP + 110
MARK, ATTENDING = "#ffe08a", "#ece5fb"
LINE = 15.0
"""Space between lines of notes below the legend."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers in a drawing: short, for there is room for seven characters at a source and 16 in a box."""

    sources: Mapping[tuple[StageRef, StageRef], str]
    """The text beside the name of a source, by source and node."""
    widths: Mapping[tuple[StageRef, StageRef], float]
    """Widths of the wires in pixels, by source and node."""
    stages: Mapping[StageRef, str]
    """The last line of a stage's box."""
    worth: str
    """The line that takes the place of the design's score and costs."""
    notes: tuple[str, ...] = ()
    """What the numbers mean: lines below the legend, at most 110 characters each."""


NO_NUMBERS = Numbers({}, {}, {}, "")


@dataclass(frozen=True, slots=True)
class Marks:
    """The parts that stand out in a drawing."""

    sources: frozenset[tuple[StageRef, StageRef]] = frozenset()
    """Marked wires, by source and node."""
    nodes: frozenset[StageRef] = frozenset()
    note: str = ""
    """What the marks mean: a line below the legend."""


NO_MARKS = Marks()


def to_svg(architecture: Architecture, numbers: Numbers = NO_NUMBERS, marks: Marks = NO_MARKS) -> str:
    """The drawing of an architecture without faults, with numbers and marks on it where some are given."""
    notes = (*numbers.notes, *filter(None, (marks.note,)))
    layout = make_layout(architecture, with_numbers=numbers is not NO_NUMBERS)
    worth, fixed = captions(architecture)
    left, top, right, bottom = layout.bounds()
    ends = 96.0 if layout.is_nested else 0.0  # room for the words at both ends of the path
    above = 0.0 if layout.is_nested else 40.0
    width = max(right - left + 2 * ends, MIN_WIDTH) + 2 * MARGIN
    x = (left + right - width) / 2
    y = top - above - HEADER - MARGIN
    below = LINE * (len(notes) + 1 if notes else 0)
    height = bottom - y + FOOTER + MARGIN + below
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="{_n(x)} {_n(y)} {_n(width)} {_n(height)}" '
        f'width="{_n(width)}" height="{_n(height)}">',
        f"<title>{escape(title(architecture))}</title>",
        f"<desc>{escape(_description(architecture))}</desc>",
        f"<defs><style>{STYLE}</style>{''.join(map(_arrowhead, COLOURS))}</defs>",
        f'<rect x="{_n(x + 1)}" y="{_n(y + 1)}" width="{_n(width - 2)}" height="{_n(height - 2)}" rx="12" '
        'fill="#fcfdff" stroke="#d3d9e4"/>',
        _text(x + MARGIN, y + MARGIN + 14, title(architecture), more=' font-size="18" font-weight="700"'),
        _text(x + MARGIN, y + MARGIN + 36, numbers.worth or worth, more=' font-size="13"'),
        _text(x + MARGIN, y + MARGIN + 54, fixed, kind="muted fact"),
        *(
            part
            for wire in sorted(layout.wires, key=lambda wire: wire.is_source)
            for part in _wire(wire, architecture, numbers, (wire.source, wire.target) in marks.sources)
        ),
        *(
            part
            for box in layout.boxes.values()
            for part in _box(box, architecture, layout, numbers, box.ref in marks.nodes)
        ),
        *_ends(architecture, layout),
        *_legend(x + MARGIN, y + height - MARGIN - below),
        *(
            _text(x + MARGIN, y + height - MARGIN - LINE * line, words, kind="muted", more=' font-size="11"')
            for line, words in enumerate(reversed(notes))
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def to_thumbnail(architecture: Architecture) -> str:
    """A drawing to be seen at a third of its size: stages by name, wires, and in violet the nodes with attention."""
    layout = make_layout(architecture)
    left, top, right, bottom = layout.bounds()
    x, y, width, height = left - MARGIN, top - MARGIN, right - left + 2 * MARGIN, bottom - top + 2 * MARGIN
    attending = {node.ref for node in architecture.genome.nodes if operator_words(node)[2]}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="{_n(x)} {_n(y)} {_n(width)} {_n(height)}">',
        f"<title>{escape(title(architecture))}</title><defs>{''.join(map(_arrowhead, COLOURS))}</defs>",
        *(part for wire in layout.wires for part in _wire(wire, architecture, NO_NUMBERS, False)),
    ]
    for ref, box in layout.boxes.items():
        fill = ATTENDING if ref in attending else "#eaeff7" if ref.kind == "E" else "#ffffff"
        at = f'x="{_n(box.x - box.width / 2)}" y="{_n(box.y - box.height / 2)}"'
        size = f'width="{_n(box.width)}" height="{_n(box.height)}"'
        parts.append(f'<rect {at} {size} rx="7" fill="{fill}" stroke="#48556b" stroke-width="2"/>')
        large = ' style="font:700 34px system-ui,sans-serif"'
        parts.append(_text(box.x, box.y + 12, str(ref), anchor="middle", more=large))
    return "".join((*parts, "</svg>\n"))


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _text(x: float, y: float, words: str, *, kind: str = "", anchor: str = "start", more: str = "") -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" class="{kind}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def _description(architecture: Architecture) -> str:
    """The whole drawing in words, for whoever cannot see it."""
    sentences = []
    for node in architecture.genome.nodes:
        operators = ", ".join(words for words in operator_words(node) if words)
        sources = ", ".join(map(str, node.sources)) or "no source"
        reads = f"{sources} ({operators})" if operators else sources
        sentences.append(f"{node.ref} upsamples {node.coarser} ({node.upsampler}) and reads {reads}.")
    return " ".join(sentences)


def _arrowhead(kind: Kind) -> str:
    return (
        f'<marker id="unetx-{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" markerHeight="9" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.8 10 5 0 9.2z" fill="{COLOURS[kind]}"/></marker>'
    )


def _wire(wire: Wire, architecture: Architecture, numbers: Numbers, is_marked: bool) -> Iterator[str]:
    """A wire over a light edge, so that at a crossing one sees which wire goes on where; a broad one marks it."""
    path = f"M{_p(wire.start)}C{_p(wire.control1)} {_p(wire.control2)} {_p(wire.end)}"
    if wire.is_corner:
        (x0, y0), (x1, y1) = wire.start, wire.end
        before, corner, after = (
            ((x0, y1 - 14), (x0, y1), (x0 + 14, y1))
            if wire.kind == "down"
            else ((x1 - 14, y0), (x1, y0), (x1, y0 - 14))
        )
        path = f"M{_p(wire.start)}L{_p(before)}Q{_p(corner)} {_p(after)}L{_p(wire.end)}"
    identity = f'class="{wire.kind}"'
    if wire.is_source:
        identity = f'class="source" data-source="{wire.source}" data-node="{wire.target}"'
    edge, edge_width = (MARK, 11) if is_marked and wire.is_source else ("#fcfdff", 5)
    yield f'<path d="{path}" fill="none" stroke="{edge}" stroke-width="{edge_width}"/>'
    width, dash = ("1.8", DASHES[wire.kind]) if wire.is_source else ("2.4", "")
    if (wire.source, wire.target) in numbers.widths and wire.is_source:
        width = _n(numbers.widths[wire.source, wire.target])
    dashes = f' stroke-dasharray="{dash}" stroke-linecap="round"' if dash else ""
    yield (
        f'<path d="{path}" fill="none" stroke="{COLOURS[wire.kind]}" stroke-width="{width}"{dashes} '
        f'marker-end="url(#unetx-{wire.kind})" {identity}><title>{escape(wire_words(wire, architecture))}</title>'
        "</path>"
    )


def wire_words(wire: Wire, architecture: Architecture) -> str:
    """A wire in words: the stage that is read, the one that reads it, and how."""
    if wire.kind == "down":
        return f"{wire.source} to {wire.target}, stride {size_text(architecture.backbone.strides[wire.target.level])}"
    node = architecture.genome[wire.target]
    if wire.kind == "up":
        return f"{wire.source} to {wire.target}, {node.upsampler}"
    how = {"same": "own level", "finer": f"finer, {node.alignment}", "coarser": "coarser, interpolated"}[wire.kind]
    return f"{wire.source} to {wire.target}, {how}"


def _p(point: Point) -> str:
    return f"{_n(point[0])} {_n(point[1])}"


def _box(
    box: Box, architecture: Architecture, layout: Layout, numbers: Numbers, is_marked: bool
) -> Iterator[str]:  # fmt: skip
    left, top = box.x - box.width / 2, box.y - box.height / 2
    is_encoder = box.ref.kind == "E"
    fill, stroke = ("#eaeff7", "#8d9ab0") if is_encoder else ("#ffffff", "#48556b")
    if is_marked:
        fill = MARK
    opacity = "0.84" if layout.is_nested else "1"  # a wire that must pass behind a box stays visible
    yield (
        f'<rect x="{_n(left)}" y="{_n(top)}" width="{_n(box.width)}" height="{_n(box.height)}" rx="7" '
        f'fill="{fill}" fill-opacity="{opacity}" stroke="{stroke}" stroke-width="1.3"/>'
    )
    if is_encoder:
        factor, width = architecture.backbone.factor(0, box.ref.level), architecture.backbone.widths[box.ref.level]
        scale = f" · 1/{factor[0]}" if len(set(factor)) == 1 else f" · ÷{size_text(factor)}"
        size = f"{width} ch{scale if box.ref.level else ''}"
        rise = 0 if numbers is NO_NUMBERS else 9
        yield _text(box.x, box.y - 3 - rise, str(box.ref), kind="name", anchor="middle")
        yield _text(box.x, box.y + 15 - rise, size, kind="muted fact", anchor="middle")
        if box.ref in numbers.stages:
            yield _text(box.x, box.y + 23, numbers.stages[box.ref], kind="fact", anchor="middle")
    else:
        yield from _node_words(box, architecture, left + label_width(numbers is not NO_NUMBERS), numbers)
        for wire in layout.wires:
            if wire.target == box.ref and wire.is_source:
                yield from _port_label(wire, numbers.sources.get((wire.source, wire.target), ""))


def _node_words(box: Box, architecture: Architecture, x: float, numbers: Numbers) -> Iterator[str]:
    node = architecture.genome[box.ref]
    *fusing_words, attention = operator_words(node)
    fusing = " · ".join(filter(None, fusing_words))
    y = box.y - (21 if attention else 12) - (0 if numbers is NO_NUMBERS else 9)
    yield _text(x, y, str(node.ref), kind="name")
    yield _text(
        x + 9 * len(str(node.ref)) + 10, y, f"{architecture.backbone.widths[node.ref.level]} ch", kind="muted fact"
    )
    yield _text(x, y + 18, f"↑ {node.upsampler}", kind="fact")
    yield _text(x, y + 34, fusing or "no source", kind="fact" if fusing else "fact muted")
    if attention:
        width = 6.8 * len(attention) + 12
        yield (f'<rect x="{_n(x - 7)}" y="{_n(y + 40)}" width="{_n(width)}" height="18" rx="9" fill="{ATTENDING}"/>')
        yield _text(x, y + 53, attention, more=' font-size="12" style="fill:#5a2ca0"')
    if box.ref in numbers.stages:
        yield _text(x, y + (74 if attention else 52), numbers.stages[box.ref], kind="fact")


def _port_label(wire: Wire, number: str) -> Iterator[str]:
    """The name of the source, just inside the box where its wire enters, and a number where there is one."""
    x, y = wire.end
    fill = f' style="fill:{COLOURS[wire.kind]}"'
    dx, dy, anchor = {
        "left": (4.0, 3.2, "start"),
        "right": (-4.0, 3.2, "end"),
        "top": (0.0, 11.0, "middle"),
        "bottom": (0.0, -5.0, "middle"),
    }[wire.enters]
    name = str(wire.source)
    if wire.enters in ("left", "right"):
        yield _text(x + dx, y + dy, f"{name} {number}".rstrip(), kind="port", anchor=anchor, more=fill)
        return
    yield _text(x + dx, y + dy, name, kind="port", anchor=anchor, more=fill)
    if number:
        down = NUMBER_PITCH if wire.enters == "top" else -NUMBER_PITCH
        yield _text(x + dx, y + dy + down, number, kind="port", anchor=anchor, more=fill)


def _ends(architecture: Architecture, layout: Layout) -> Iterator[str]:
    """The arrows by which the image comes in and the classes come out."""
    backbone = architecture.backbone
    first = next(box for ref, box in layout.boxes.items() if str(ref) == "E0")
    last = layout.boxes[architecture.genome.output.ref]
    channels = counted(backbone.in_channels, "channel")
    classes = counted(backbone.out_channels, "class", "classes")
    if layout.is_nested:
        (x0, y0), (x1, y1) = first.port("left"), last.port("right")
        yield _line((x0 - 30, y0), (x0, y0)) + _text(x0 - 36, y0 + 4, channels, kind="muted fact", anchor="end")
        yield _line((x1, y1), (x1 + 30, y1)) + _text(x1 + 36, y1 + 4, classes, kind="muted fact")
    else:
        (x0, y0), (x1, y1) = first.port("top"), last.port("top")
        yield _line((x0, y0 - 26), (x0, y0)) + _text(x0, y0 - 32, channels, kind="muted fact", anchor="middle")
        yield _line((x1, y1), (x1, y1 - 26)) + _text(x1, y1 - 32, classes, kind="muted fact", anchor="middle")


def _line(start: Point, end: Point) -> str:
    colour = COLOURS["up"]
    return (
        f'<path d="M{_p(start)}L{_p(end)}" fill="none" stroke="{colour}" stroke-width="2.4" '
        'marker-end="url(#unetx-up)"/>'
    )


def _legend(x: float, y: float) -> Iterator[str]:
    for i, (kind, words) in enumerate(LEGEND.items()):
        at = x + i * LEGEND_STEP
        dash = f' stroke-dasharray="{DASHES[kind]}" stroke-linecap="round"' if DASHES[kind] else ""
        yield (
            f'<path d="M{_n(at)} {_n(y - 4)}h30" fill="none" stroke="{COLOURS[kind]}" stroke-width="2"{dash} '
            f'marker-end="url(#unetx-{kind})"/>'
        )
        yield _text(at + 36, y, words, kind="muted", more=' font-size="11"')
