"""The page of a report: one HTML file that needs no network, in the light or the dark of its reader's machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from plotly.offline import get_plotlyjs

from unetx_studies.report.cases import ShownCase, cases_html

if TYPE_CHECKING:
    import plotly.graph_objects as go

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Heads and rows of a table, all of it text."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: words, a figure, drawings, tables; what is empty is left out."""

    title: str
    note: str
    figure: go.Figure | None = None
    drawings: Mapping[str, str] = field(default_factory=dict)
    """SVG documents by their captions, side by side."""
    cases: Sequence[ShownCase] = ()
    table: Table | None = None
    is_folded: bool = False
    """Whether the table is shown only when it is unfolded."""

    @property
    def is_empty(self) -> bool:
        return self.figure is None and not (self.drawings or self.cases) and self.table is None


@dataclass(frozen=True, slots=True)
class Page:
    """What a report's page shows, from the top."""

    title: str
    sentence: str
    """The sentence of the verdict, or on what the study can tell apart."""
    facts: Sequence[tuple[str, str]] = ()
    """The few numbers beside the sentence, each with its name first."""
    worst: Sequence[ShownCase] = ()
    """The case on which the winner does worst; empty where it cannot be shown."""
    classes: Sequence[str] = ()
    """Names of the classes by label value."""
    drawings: Mapping[str, str] = field(default_factory=dict)
    """SVG documents by their captions: the winner beside U-Net."""
    differences: Sequence[str] = ()
    """What the winner has and U-Net has not, and the other way round, in words."""
    limits: Sequence[str] = ()
    """What the study cannot say, a sentence each."""
    sections: Sequence[Section] = ()
    thumbnails: Mapping[str, str] = field(default_factory=dict)
    """SVG documents by the keys of designs, shown where a figure's point is pointed at."""


def page_html(page: Page) -> str:
    """The page as an HTML document."""
    figures: list[dict[str, Any]] = []
    body = "\n".join(
        "".join(_section(section, figures, page.classes)) for section in page.sections if not section.is_empty
    )
    data = json.dumps({"figures": figures, "thumbnails": {key: _inline(svg) for key, svg in page.thumbnails.items()}})
    folder = files("unetx_studies.report")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(page.title)}</title><style>{style}</style></head>\n<body>\n"
        f"{_head(page)}\n<main>{body}</main>\n"
        "<footer>Made by unetx-search. Nothing on this page is loaded from elsewhere.</footer>\n"
        f"<div id='thumbnail' role='img' aria-hidden='true' hidden></div>\n"
        f'<script type="application/json" id="data">{_safe(data)}</script>\n'
        f"<script>{get_plotlyjs()}</script>\n<script>{script}</script></body></html>\n"
    )


def _safe(text: str) -> str:
    """JSON inside a script element; no name of a study or a case can end it."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _head(page: Page) -> str:
    facts = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(much)}</dd></div>" for what, much in page.facts)
    worst, opened = cases_html(page.worst, page.classes), "" if page.drawings else " open"
    differences = "".join(f"<p>{escape(words)}</p>" for words in page.differences)
    limits = "".join(f"<li>{escape(limit)}</li>" for limit in page.limits)
    return (
        f"<header><h1>{escape(page.title)}</h1><div class='look'><div><p class='verdict'>{escape(page.sentence)}</p>"
        f"<dl>{facts}</dl></div>{f'<div>{worst}</div>' if worst else ''}</div>{_drawings(page.drawings)}"
        + (f"<details{opened}><summary>What differs, in words</summary>{differences}</details>" if differences else "")
        + (f"<details><summary>What this cannot say</summary><ul>{limits}</ul></details>" if limits else "")
        + "</header>"
    )


def _drawings(drawings: Mapping[str, str]) -> str:
    if not drawings:
        return ""
    shown = "".join(
        f"<figure><div class='drawing' tabindex='0'>{_inline(svg)}</div>"
        + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "")
        + "</figure>"
        for caption, svg in drawings.items()
    )
    return f"<div class='drawings'>{shown}</div>"


def _inline(svg: str) -> str:
    """A drawing of ours, which has escaped all text already, inside the page."""
    return svg[svg.index("<svg") :]


def _section(section: Section, figures: list[dict[str, Any]], classes: Sequence[str]) -> Iterator[str]:
    """The HTML of a section; its figure is appended to ``figures``, from which the page's script draws it."""
    yield f"<section><h2>{escape(section.title)}</h2>"
    if section.note:
        yield f"<p class='muted'>{escape(section.note)}</p>"
    if section.figure is not None:
        figures.append(json.loads(section.figure.to_json()))
        height = figures[-1]["layout"].get("height", 380)
        label = escape(f"{section.title}: {section.note}", quote=True)
        size = f'style="height:{height}px"'
        yield f'<div class="plot" id="plot{len(figures) - 1}" {size} role="img" aria-label="{label}"></div>'
    yield _drawings(section.drawings)
    yield cases_html(section.cases, classes)
    if section.table is not None:
        heads, rows = section.table
        head = "".join(f"<th scope='col'>{escape(one)}</th>" for one in heads)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        table = (
            f"<div class='scroll' tabindex='0'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
        yield f"<details><summary>Table</summary>{table}</details>" if section.is_folded else table
    yield "</section>"
