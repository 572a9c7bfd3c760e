"""An architecture as a plotly figure, which shows a part's parameters, multiply-adds and memory on pointing at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from unetx_space import Architecture, StageRef
from unetx_space.cost import Cost, part_costs
from unetx_space.plan import make_plan
from unetx_space.training_memory import part_memory
from unetx_studies.drawing.captions import operator_words, short_number, size_text
from unetx_studies.drawing.layout import Box, Point, Wire, make_layout
from unetx_studies.drawing.svg import COLOURS, wire_words

N_POINTS = 24
"""Points by which a curve is drawn."""
DASHES = {"finer": "dash", "coarser": "dot"}
HEIGHT_PX = 640


PartCosts = Mapping[StageRef, tuple[Cost, int]]
"""The cost of each part of an architecture, and the bytes that training keeps of it."""


def costs_by_part(architecture: Architecture, patch: Sequence[int]) -> PartCosts:
    """Return what each part of an architecture without faults costs for one patch."""
    plan = make_plan(architecture)
    memory = part_memory(plan, tuple(patch))
    return {ref: (cost, memory[ref]) for ref, cost in part_costs(plan, tuple(patch)).items()}


def to_figure(architecture: Architecture, costs: PartCosts) -> go.Figure:
    """Draw an architecture without faults as a figure that shows the costs of the part that is pointed at."""
    layout = make_layout(architecture)
    figure = go.Figure()
    for wire in sorted(layout.wires, key=lambda wire: wire.is_source):
        x, y = zip(*_points(wire), strict=True)
        figure.add_scatter(
            x=x, y=y, mode="lines", hoverinfo="text", text=escape(wire_words(wire, architecture)), showlegend=False,
            line={"color": COLOURS[wire.kind], "width": 2, "dash": DASHES.get(wire.kind, "solid")},
        )  # fmt: skip
    for box in layout.boxes.values():
        x, y = zip(*_corners(box), strict=True)
        words = _words(architecture, box.ref, *costs[box.ref])
        is_encoder = box.ref.kind == "E"
        figure.add_scatter(
            x=x, y=y, mode="lines", fill="toself", hoveron="fills", hoverinfo="text", text=words, showlegend=False,
            fillcolor="#eaeff7" if is_encoder else "#ffffff", line={"color": "#48556b", "width": 1},
        )  # fmt: skip
        figure.add_annotation(
            x=box.x, y=box.y, text=f"<b>{box.ref}</b>", showarrow=False, font={"color": "#1b2333", "size": 14}
        )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, autorange="reversed")
    figure.update_layout(
        template="none", paper_bgcolor="#fcfdff", plot_bgcolor="#fcfdff",
        hovermode="closest", height=HEIGHT_PX, margin={"l": 10, "r": 10, "t": 10, "b": 10},
        font={"family": "system-ui, sans-serif", "size": 13}, hoverlabel={"align": "left"},
    )  # fmt: skip
    return figure


def part_rows(costs: PartCosts) -> list[tuple[str, str, str, str]]:
    """Return a table's rows: every part with its parameters, multiply-adds and memory."""
    return [
        (str(ref), short_number(cost.n_parameters), short_number(cost.macs), f"{memory / 2**20:.3g} MiB")
        for ref, (cost, memory) in costs.items()
    ]


def _points(wire: Wire) -> Iterator[Point]:
    """Points along a wire."""
    if wire.is_corner:
        (x0, y0), (x1, y1) = wire.start, wire.end
        yield from (wire.start, (x0, y1) if wire.kind == "down" else (x1, y0), wire.end)
        return
    for step in range(N_POINTS + 1):
        t = step / N_POINTS
        weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
        ends = (wire.start, wire.control1, wire.control2, wire.end)
        yield tuple(sum(w * point[axis] for w, point in zip(weights, ends, strict=True)) for axis in (0, 1))  # type: ignore[misc]


def _corners(box: Box) -> list[Point]:
    left, right, top, bottom = (
        box.x - box.width / 2, box.x + box.width / 2, box.y - box.height / 2, box.y + box.height / 2,
    )  # fmt: skip
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


def _words(architecture: Architecture, ref: StageRef, costs: Cost, memory: int) -> str:
    backbone = architecture.backbone
    lines = [f"<b>{ref}</b>: {backbone.widths[ref.level]} channels at 1/{size_text(backbone.factor(0, ref.level))}"]
    if ref.kind == "D":
        node = architecture.genome[ref]
        words = (f"upsampling of {node.coarser}: {node.upsampler}", *operator_words(node))
        lines += [f"reads {', '.join(map(str, node.sources)) or 'no source'}", *filter(None, words)]
    lines += [
        f"{short_number(costs.n_parameters)} parameters", f"{short_number(costs.macs)} multiply-adds",
        f"{memory / 2**20:.3g} MiB kept for training",
    ]  # fmt: skip
    return "<br>".join(lines)
