"""The picture sheet: one HTML file that needs no network, in the light or the dark of its reader's machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from unetx_studies.drawing.captions import counted
from unetx_studies.sheet.curves import curve_class, curves_svg, sample_svg
from unetx_studies.sheet.facts import (
    PARTS,
    ChannelIntensities,
    ClassSize,
    DatasetFacts,
    Decision,
    PilotFacts,
    axis_ranges,
    number_words,
    size_words,
)
from unetx_studies.sheet.pictures import Picture, figure_html
from unetx_studies.sheet.style import class_colour, class_style, page_style

STRIP_WIDTH, STRIP_HEIGHT = 260, 22
"""CSS pixels of the drawing of a channel's intensities."""


def sheet_html(facts: DatasetFacts, pictures: Sequence[Picture] = (), *, why_no_pictures: str = "") -> str:
    """The picture sheet as an HTML document; ``why_no_pictures`` stands in their place where there are none."""
    sections = (
        _findings("Problems", "no search starts before these are mended", facts.problems, "problem"),
        _findings("Warnings", "a search can start", facts.warnings, "warning"),
        _gallery(facts, pictures, why_no_pictures),
        _classes(facts),
        _intensities(facts.intensities),
        _grids(facts),
        _choices(facts.choices),
        _pilot(facts.pilot),
        _split(facts),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(facts.name)}: picture sheet</title>"
        f"<style>{page_style()}{class_style(len(facts.classes))}</style></head>\n<body>\n{_header(facts)}\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n<footer>Made by unetx-search doctor. Nothing on this page is loaded from elsewhere.</footer>"
        "\n</body></html>\n"
    )


def _header(facts: DatasetFacts) -> str:
    n = len(facts.problems)
    verdict = f"{n} problem{'s' if n != 1 else ''}" if n else "fit for a search"
    parts = [
        f"{facts.dims}D",
        counted(len(facts.channels), "channel"),
        counted(len(facts.classes) - 1, "class", "classes"),
        counted(len(facts.cases), "case"),
    ]
    if facts.n_bytes:
        parts.append(f"{size_words(facts.n_bytes)} on disk")
    if facts.cache_bytes is not None:
        parts.append(f"{size_words(facts.cache_bytes)} prepared")
    return (
        f'<header><h1>{escape(facts.name)} <span class="verdict {"bad" if n else "good"}">{verdict}</span></h1>'
        f"<p>{' · '.join(parts)}</p><p class='muted'>{escape(facts.source)}</p></header>"
    )


def _findings(title: str, note: str, findings: Sequence[str], kind: str) -> str:
    if not findings:
        return ""
    items = "".join(f"<li>{escape(finding)}</li>" for finding in findings)
    return _section(title, note, f'<ul class="{kind}">{items}</ul>')


def _section(title: str, note: str, body: str) -> str:
    return f"<section><h2>{title}</h2><p class='muted'>{escape(note)}</p>{body}</section>"


def _gallery(facts: DatasetFacts, pictures: Sequence[Picture], why_not: str) -> str:
    if not pictures:
        return _section("Cases", why_not, "") if why_not else ""
    note = (
        f"{counted(len(pictures), 'training case')} drawn by lot, as a network gets them; every channel from its "
        "0.5th to its 99.5th percentile. Click a class to hide its outline."
    )
    keys = [f'<label class="k{i}"><input type="checkbox" id="show{i}" checked>{_swatch(i)}{escape(name)}</label>'
            for i, name in enumerate(facts.classes) if i > 0]  # fmt: skip
    if any(picture.has_ignored for picture in pictures):
        keys.append('<span><i class="swatch ignored"></i>ignored</span>')
    figures = "".join(map(figure_html, pictures))
    return _section("Cases", note, f'<div class="legend">{"".join(keys)}</div><div class="gallery">{figures}</div>')


def _swatch(index: int) -> str:
    return f'<i class="swatch" style="background:{class_colour(index)}"></i>'


def _classes(facts: DatasetFacts) -> str:
    if not facts.class_sizes:
        return ""
    n_train = len(facts.names("train"))
    largest = max((size.share for size in facts.class_sizes), default=0.0) or 1.0
    rows = [_class_row(index, size, largest, n_train) for index, size in enumerate(facts.class_sizes, start=1)]
    background = 1 - sum(size.share for size in facts.class_sizes)
    note = f"of the {counted(n_train, 'training case')}; the background takes {_percent(background)} of the voxels"
    return _section("Classes", note, _table(("class", "share of voxels", "", "cases that show it", ""), rows, "bars"))


def _class_row(index: int, size: ClassSize, largest: float, n_train: int) -> list[str]:
    return [
        f"{_swatch(index)}{escape(size.name)}",
        _bar(size.share / largest, index),
        _percent(size.share),
        _bar(size.n_cases / max(n_train, 1), index),
        f"{size.n_cases} of {n_train}",
    ]


def _bar(part: float, index: int) -> str:
    return f'<span class="bar" style="width:{max(100 * part, 0.5):.1f}%;background:{class_colour(index)}"></span>'


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _intensities(channels: Sequence[ChannelIntensities]) -> str:
    if not channels:
        return ""
    rows = [
        [
            escape(channel.channel),
            _strip(channel),
            f"{number_words(channel.lowest)} to {number_words(channel.highest)}",
            *map(number_words, (channel.low, channel.median, channel.high, channel.mean, channel.std)),
        ]
        for channel in channels
    ]
    note = (
        "of the training cases as stored; line: whole images; bar: percentiles 0.5 to 99.5 of their foreground, whose "
        "numbers follow; tick: its median"
    )
    heads = ("channel", "", "whole images", "0.5 %", "median", "99.5 %", "mean", "std")
    return _section("Intensities", note, _table(heads, rows, "numbers"))


def _strip(channel: ChannelIntensities) -> str:
    low, high = min(channel.lowest, channel.low), max(channel.highest, channel.high)
    middle = STRIP_HEIGHT / 2

    def place(value: float) -> float:
        return 2 + (STRIP_WIDTH - 4) * (value - low) / ((high - low) or 1.0)

    left, right, tick = place(channel.low), place(channel.high), place(channel.median)
    return (
        f'<svg class="strip" width="{STRIP_WIDTH}" height="{STRIP_HEIGHT}" aria-hidden="true">'
        f'<path class="whole" d="M2 {middle}H{STRIP_WIDTH - 2}"/>'
        f'<rect x="{left:.1f}" y="{middle - 6}" width="{max(right - left, 2):.1f}" height="12" rx="3"/>'
        f'<path d="M{tick:.1f} 2V{STRIP_HEIGHT - 2}"/></svg>'
    )


def _grids(facts: DatasetFacts) -> str:
    training = facts.training_grids
    if not training:
        return ""
    shapes = list(axis_ranges([case.shape for case in training]))
    spacings = list(axis_ranges([case.spacing for case in training]))
    rows = [
        [str(axis), *map(number_words, shape), *map(number_words, spacing)]
        for axis, (shape, spacing) in enumerate(zip(shapes, spacings, strict=True))
    ]
    heads = ("axis", "fewest voxels", "median", "most", "finest mm", "median", "coarsest")
    n_shapes, n_spacings = (len({getattr(case, name) for case in training}) for name in ("shape", "spacing"))
    note = (
        f"of the training cases as stored: {counted(n_shapes, 'different shape')}, "
        f"{counted(n_spacings, 'different spacing')}"
    )
    return _section("Shapes and spacings", note, _table(heads, rows, "numbers"))


def _choices(choices: Sequence[Decision]) -> str:
    if not choices:
        return ""
    rows = [[escape(choice.what), _decision(choice)] for choice in choices]
    return _section("Choices", "what was decided, and why", _table(("", ""), rows, "choices"))


def _decision(choice: Decision) -> str:
    value = f"<b>{escape(choice.value)}</b><br>" if choice.value else ""
    return f"{value}{escape(choice.reason)}"


def _pilot(pilot: PilotFacts | None) -> str:
    if pilot is None:
        return ""
    heads, rows = pilot.table()
    lines = zip(rows, pilot.trainings, strict=True)
    cells = [[f"{sample_svg(curve_class(pilot, one))}{row[0]}", *map(escape, row[1:])] for row, one in lines]
    settled = [[escape(choice.what), _decision(choice)] for choice in pilot.settled]
    advice = f"<p>{escape(pilot.advice)}</p>" if pilot.advice else ""
    note = f"short trainings of the U-Net that settle how this dataset is trained; {pilot.origin}"
    body = (
        f"{_table(heads, cells, 'numbers pilot')}<p class='muted'>Dice in the table: on the original voxels of the "
        "validation cases. Curves: at rungs, on the prepared voxels, before the last rung on a part of the cases; a "
        f"line's number is its row, lines of one learning rate and background weight look alike.</p>"
        f"{curves_svg(pilot)}{_table(('', ''), settled, 'choices')}{advice}"
    )
    return _section("Pilot", note, body)


def _split(facts: DatasetFacts) -> str:
    if not any(case.part for case in facts.cases):
        return ""
    return _section("Split", "a search reads train and validation; test is for the verdict", "".join(_parts(facts)))


def _parts(facts: DatasetFacts) -> Iterator[str]:
    for part in PARTS:
        names = facts.names(part)
        listed = ", ".join(escape(name) for name in sorted(names))
        yield (
            f'<details><summary>{part}: {counted(len(names), "case")}</summary><p class="names">{listed}</p></details>'
        )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str) -> str:
    """A table whose cells hold HTML already."""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
