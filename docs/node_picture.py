"""A decoder node as a small SVG, with the places of an operator marked. It brings its own light ground."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Literal

Place = Literal["", "alignment", "source", "upsampler", "fusion", "fused", "block"]
"""Where an operator can sit; attention has three places."""
Gate = Literal["upsampled", "coarse"]

WIDTH, HEIGHT = 1010, 330
ROWS = {"finer": 66, "same": 126, "coarser": 186, "up": 266}
"""Height of each path's middle."""
BOX_HEIGHT = 36
STYLE = (
    "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;font-size:12px;"
    "fill:#1b2333;text-anchor:middle;dominant-baseline:central}.muted{fill:#566176}.marked{font-weight:700}"
)
PLAIN, MARKED, MAP = ("#ffffff", "#48556b"), ("#ffe3b3", "#b35900"), ("#eaeff7", "#8d9ab0")
"""(fill, edge) of a step, of a marked one, and of a map."""
LINE, GATE_LINE = "#7d8a9e", "#5a2ca0"


@dataclass(frozen=True, slots=True)
class Box:
    """A step of the node, or a map it reads."""

    x: int
    width: int
    y: int
    label: str
    place: Place = ""
    is_map: bool = False
    height: int = BOX_HEIGHT

    @property
    def right(self) -> int:
        return self.x + self.width


FINER, SAME, COARSER, UP = ROWS.values()
BOXES = (
    Box(20, 122, FINER, "finer source", is_map=True),
    Box(168, 96, FINER, "alignment", "alignment"),
    Box(296, 96, FINER, "projection"),
    Box(436, 96, FINER, "attention", "source"),
    Box(20, 122, SAME, "source, own level", is_map=True),
    Box(436, 96, SAME, "attention", "source"),
    Box(20, 122, COARSER, "coarser source", is_map=True),
    Box(168, 96, COARSER, "projection"),
    Box(296, 96, COARSER, "interpolation"),
    Box(436, 96, COARSER, "attention", "source"),
    Box(20, 122, UP, "coarser input", is_map=True),
    Box(168, 96, UP, "upsampler", "upsampler"),
    Box(572, 68, (FINER + UP) // 2, "fusion", "fusion", height=UP - FINER + BOX_HEIGHT),
    Box(676, 84, (FINER + UP) // 2, "attention", "fused"),
    Box(796, 60, (FINER + UP) // 2, "block"),
    Box(892, 84, (FINER + UP) // 2, "attention", "block"),
)


def node_svg(title: str, marked: Collection[Place], gate: Gate | None = None) -> str:
    """The picture with all boxes at the ``marked`` places highlighted, and the map that a ``gate`` reads."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}">',
        f"<title>{escape(title)}</title>",
        f"<defs><style>{STYLE}</style>{_arrowhead('step', LINE)}{_arrowhead('gate', GATE_LINE)}</defs>",
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="12" fill="#fcfdff" stroke="#d3d9e4"/>',
        f'<text x="{WIDTH / 2:g}" y="26" class="muted">{escape(title)}</text>',
        *_paths(),
        *(_gate_line(gate) if gate else ()),
        *(part for box in BOXES for part in _box(box, box.place != "" and box.place in marked)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _paths() -> Iterator[str]:
    """Along each row from box to box and into the fusion, and from the fusion to the right."""
    fusion = next(box for box in BOXES if box.place == "fusion")
    for row in ROWS.values():
        boxes = [box for box in BOXES if box.y == row and box.x < fusion.x]
        for before, after in zip(boxes, [*boxes[1:], fusion], strict=True):
            yield _arrow(before.right, after.x, row)
    rest = [box for box in BOXES if box.x >= fusion.x]
    for before, after in pairwise(rest):
        yield _arrow(before.right, after.x, after.y)
    yield _arrow(rest[-1].right, rest[-1].right + 26, rest[-1].y)


def _arrow(start: int, end: int, y: int) -> str:
    return f'<path d="M{start} {y}H{end}" stroke="{LINE}" stroke-width="2" fill="none" marker-end="url(#step)"/>'


def _gate_line(gate: Gate) -> Iterator[str]:
    """From the map that decides, along a bus before the sources' attention, into each of them."""
    bus = 416
    start = f"M{300 if gate == 'upsampled' else 152} {UP}"
    down = f"V{UP + 34}" if gate == "coarse" else "V234"
    way = f"{start}{down}H{bus}V{FINER + 10}"
    yield f'<path d="{way}" stroke="{GATE_LINE}" stroke-width="1.6" stroke-dasharray="5 4" fill="none"/>'
    for row in (FINER, SAME, COARSER):
        yield (
            f'<path d="M{bus} {row + 10}H436" stroke="{GATE_LINE}" stroke-width="1.6" stroke-dasharray="5 4" '
            'fill="none" marker-end="url(#gate)"/>'
        )
    words = "the upsampled map decides" if gate == "upsampled" else "the coarser input decides, before upsampling"
    x, y = (198, 230) if gate == "upsampled" else (300, UP + 46)
    yield f'<text x="{x}" y="{y}" style="fill:{GATE_LINE}">{words}</text>'


def _box(box: Box, is_marked: bool) -> Iterator[str]:
    fill, edge = MARKED if is_marked else MAP if box.is_map else PLAIN
    width = "2.2" if is_marked else "1.3"
    yield (
        f'<rect x="{box.x}" y="{box.y - box.height / 2:g}" width="{box.width}" height="{box.height}" rx="7" '
        f'fill="{fill}" stroke="{edge}" stroke-width="{width}"/>'
    )
    kind = ' class="marked"' if is_marked else ""
    yield f'<text x="{box.x + box.width / 2:g}" y="{box.y}"{kind}>{escape(box.label)}</text>'


def _arrowhead(name: str, colour: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.8 10 5 0 9.2z" fill="{colour}"/></marker>'
    )
