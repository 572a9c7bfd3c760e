"""An architecture as data and drawings: its JSON document, SVG, and the graph of its stages as DOT and GraphML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unetx_space.graph import to_graph
from unetx_studies.drawing import to_svg

if TYPE_CHECKING:
    from unetx_studies.export.model import Model


def write_json(model: Model, path: Path) -> None:
    """Write the document that ``unetx_space.load`` reads."""
    path.write_text(model.architecture.dumps(), encoding="utf-8")


def write_svg(model: Model, path: Path) -> None:
    """Write the drawing as SVG."""
    path.write_text(to_svg(model.architecture), encoding="utf-8")


def write_dot(model: Model, path: Path) -> None:
    """Write the graph for Graphviz: a row for every level, what a stage reads as arrows."""
    graph = to_graph(model.architecture.genome)
    lines = ["digraph architecture {", "  rankdir=TB;", "  node [shape=box];"]
    lines += [f'  "{name}" [label="{data["label"]}"];' for name, data in graph.nodes(data=True)]
    for level in sorted({level for _, level in graph.nodes(data="level")}):
        row = "; ".join(f'"{name}"' for name, of in graph.nodes(data="level") if of == level)
        lines.append(f"  {{ rank=same; {row}; }}")
    lines += [f'  "{source}" -> "{target}" [label="{kind}"];' for source, target, kind in graph.edges(data="kind")]
    path.write_text("\n".join([*lines, "}"]) + "\n", encoding="utf-8")


def write_graphml(model: Model, path: Path) -> None:
    """Write the graph as GraphML, which networkx, yEd, Gephi and igraph read."""
    import networkx as nx

    nx.write_graphml_xml(to_graph(model.architecture.genome), path)
