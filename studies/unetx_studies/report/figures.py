"""The figures of a report, in colours that the colour-blind tell apart, on the page's own ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from unetx_studies.report.numbers import lowest_shown
from unetx_studies.spread import REACH

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import CurvePoint
    from unetx_studies.ranking import Ranked
    from unetx_studies.report.numbers import Effect, Frequency, ProgressPoint

DESIGN, REFERENCE, QUIET, LUCKY = "#0072b2", "#d55e00", "#8a94a6", "#e69f00"
LINES = (DESIGN, "#009e73", "#cc79a7", "#56b4e9", LUCKY)
"""Colours of several designs beside the reference: the palette of Okabe and Ito without what white paper swallows."""
MOST_RANKED, MOST_CURVES = 20, 6
Row = tuple[str, float, float, float]
"""A row of a forest plot: its label, a mean, and the bounds of its 95 % interval."""


def ranking_figure(designs: Sequence[Ranked], names: Mapping[str, str], reference: str | None) -> go.Figure:
    """The best designs and the reference by their estimates, with 95 % and every single score."""
    shown = list(designs[:MOST_RANKED])
    shown += [one for one in designs[MOST_RANKED:] if one.key == reference]
    figure = _figure("estimated Dice, with 95 %", "")
    for one in shown:
        figure.add_scatter(
            x=[trial.score for trial in one.trials], y=[names[one.key]] * len(one.trials), mode="markers",
            marker={"color": QUIET, "symbol": "line-ns-open", "size": 14, "line": {"width": 2}}, showlegend=False,
            hovertemplate="%{y}: one seed, Dice %{x:.4f}<extra></extra>",
        )  # fmt: skip
    for colour, group in (
        (DESIGN, [one for one in shown if one.key != reference]),
        (REFERENCE, [one for one in shown if one.key == reference]),
    ):
        figure.add_scatter(
            x=[one.estimate for one in group], y=[names[one.key] for one in group], mode="markers",
            error_x={"type": "data", "array": [REACH * one.standard_error for one in group], "thickness": 1.5},
            marker={"color": colour, "size": 9}, customdata=[one.key for one in group], showlegend=False,
            hovertemplate="%{y}: %{x:.4f} &plusmn; %{error_x.array:.4f}<extra></extra>",
        )  # fmt: skip
    reaches = [one.estimate + side * REACH * one.standard_error for one in shown for side in (-1, 1)]
    figure.update_xaxes(range=_range([*reaches, *(trial.score or 0.0 for one in shown for trial in one.trials)]))
    order = [names[one.key] for one in shown]
    figure.update_yaxes(autorange="reversed", type="category", categoryorder="array", categoryarray=order)
    figure.update_layout(height=120 + 26 * len(shown))
    return figure


def pareto_figure(
    designs: Sequence[Ranked], front: Sequence[Ranked], costs: Mapping[str, float], names: Mapping[str, str],
    reference: str | None, cost_title: str,
) -> go.Figure:  # fmt: skip
    """Every design by its cost and its estimate, which has its 95 % on the front and at the reference."""
    figure = _figure(cost_title, "estimated Dice")
    for group, colour, symbol, label in (
        ([one for one in designs if one not in front and one.key != reference], QUIET, "circle", "design"),
        ([one for one in front if one.key != reference], DESIGN, "diamond", "nothing is better and cheaper"),
        ([one for one in designs if one.key == reference], REFERENCE, "star", "U-Net"),
    ):
        if group:
            figure.add_scatter(
                x=[costs[one.key] for one in group], y=[one.estimate for one in group], mode="markers", name=label,
                marker={"color": colour, "symbol": symbol, "size": 13 if symbol == "star" else 8},
                error_y={"type": "data", "array": [REACH * one.standard_error for one in group], "thickness": 0.6,
                         "width": 0, "color": colour, "visible": colour != QUIET},
                text=[names[one.key] for one in group], customdata=[one.key for one in group],
                hovertemplate="%{text}: Dice %{y:.4f} at %{x:.3g}<extra></extra>",
            )  # fmt: skip
    if front:
        figure.add_scatter(
            x=[costs[one.key] for one in front], y=[one.estimate for one in front], mode="lines",
            line={"color": DESIGN, "width": 1, "dash": "dot"}, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
    low = lowest_shown([one.estimate for one in designs])
    leading = [one for one in designs if (one in front or one.key == reference) and one.estimate >= low]
    reaches = [one.estimate + side * REACH * one.standard_error for one in leading for side in (-1, 1)]
    figure.update_yaxes(range=_range([*reaches, *(one.estimate for one in designs)]))
    figure.update_xaxes(type="log", exponentformat="SI", title=f"{cost_title}, logarithmic")
    return figure


def progress_figure(points: Sequence[ProgressPoint]) -> go.Figure:
    """Scores trial by trial, the highest so far, and the best estimate, which luck does not move as much."""
    figure = _figure("trial", "Dice")
    trials = [one.trial for one in points]
    figure.add_scatter(
        x=trials, y=[one.dice for one in points], mode="markers", name="one training",
        marker={"color": QUIET, "size": 5},
    )  # fmt: skip
    figure.add_scatter(
        x=trials, y=[one.best_dice for one in points], mode="lines", name="highest single score",
        line={"color": LUCKY, "shape": "hv", "dash": "dash"},
    )  # fmt: skip
    known = [one for one in points if one.best_estimate is not None]
    figure.add_scatter(
        x=[one.trial for one in known], y=[one.best_estimate for one in known], mode="lines", name="best estimate",
        line={"color": DESIGN, "shape": "hv"},
    )  # fmt: skip
    figure.update_yaxes(range=_range([one.dice for one in points]))
    return figure


def effects_figure(effects: Sequence[Effect]) -> go.Figure:
    """What goes with each choice, with 95 %; filled where it stands after correction for all choices."""
    rows = [(f"{one.question}: {one.choice} ({one.n_designs})", one.difference, one.low, one.high) for one in effects]
    figure = _forest_plot("difference of Dice, with 95 %", rows)
    figure.update_traces(marker_symbol=["circle" if one.p_value < 0.05 else "circle-open" for one in effects])
    return figure


def curves_figure(curves: Mapping[str, Sequence[CurvePoint]]) -> go.Figure:
    """Learning curves of a few designs by their names; all but the last point are scored on a part of the cases."""
    figure = _figure("training step", "Dice")
    others = cycle(LINES)
    for name, points in list(curves.items())[:MOST_CURVES]:
        figure.add_scatter(
            x=[point.step for point in points], y=[point.score for point in points], name=name, mode="lines+markers",
            line={"color": REFERENCE if name == "U-Net" else next(others)},
        )  # fmt: skip
    return figure


def gradients_figure(norms: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """Norms of gradients by design and stage, the stages from the input to the output."""
    figure = _figure("stage", "gradient")
    for name, by_stage in norms.items():
        colour, symbol = (REFERENCE, "star") if name == "U-Net" else (DESIGN, "circle")
        figure.add_scatter(
            x=list(by_stage), y=list(by_stage.values()), mode="lines+markers", name=name,
            line={"color": colour, "width": 1}, marker={"color": colour, "symbol": symbol, "size": 9},
        )  # fmt: skip
    figure.update_yaxes(type="log", exponentformat="power")
    figure.update_xaxes(type="category")
    return figure


def changes_figure(changes: Sequence[Row]) -> go.Figure:
    """Changes of Dice as a forest plot."""
    return _forest_plot("change of Dice, with 95 %", changes)


def skip_map_figure(skips: Mapping[tuple[str, str], Frequency]) -> go.Figure:
    """The share of the best third of the designs that have each (source, node)."""
    figure = _figure("reads", "node")
    sources, nodes = (sorted({pair[side] for pair in skips}, key=_by_level) for side in (0, 1))
    shares = [[skips[s, n].among_best if (s, n) in skips else None for s in sources] for n in nodes]
    figure.add_heatmap(
        x=sources, y=nodes, z=shares, zmin=0, zmax=1, colorscale="Cividis", xgap=2, ygap=2,
        hovertemplate="%{y} reads %{x}: %{z:.0%} of the best third<extra></extra>", texttemplate="%{z:.0%}",
        colorbar={"tickformat": ".0%"},
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category")
    return figure


def _by_level(ref: str) -> tuple[bool, list[int]]:
    """Encoder stages first, from the finest."""
    return ref[0] != "E", [int(part) for part in ref[1:].split(".")]


def verdict_figure(rows: Sequence[Row], margin: float) -> go.Figure:
    """Differences to U-Net on test cases as a forest plot, over the margin within which a difference is none."""
    figure = _forest_plot("difference of Dice, with 95 %", rows)
    figure.add_vrect(x0=-margin, x1=margin, fillcolor=QUIET, opacity=0.2, line_width=0)
    figure.update_layout(height=140 + 30 * len(rows))
    return figure


def _forest_plot(title: str, rows: Sequence[Row]) -> go.Figure:
    """Means with their intervals, one below the other, beside the line of no difference."""
    figure = _figure(title, "")
    figure.add_vline(x=0.0, line={"color": QUIET, "width": 1})
    figure.add_scatter(
        x=[mean for _, mean, _, _ in rows], y=[label for label, *_ in rows], mode="markers",
        error_x={
            "type": "data", "thickness": 1.5,
            "array": [high - mean for _, mean, _, high in rows],
            "arrayminus": [mean - low for _, mean, low, _ in rows],
        },
        marker={"color": DESIGN, "size": 9}, showlegend=False, hovertemplate="%{y}: %{x:+.4f}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(height=120 + 26 * len(rows))
    return figure


def _range(values: Sequence[float]) -> tuple[float, float] | None:
    """The range of an axis: all values but the few far below the others, as of the net without skips; None for none."""
    if not values:
        return None
    low = lowest_shown(values)
    seen = [value for value in values if value >= low]
    reach = 0.08 * max(max(seen) - min(seen), 1e-3)
    return min(seen) - reach, max(seen) + reach


def _figure(x_title: str, y_title: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", template="none",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#566176"},
        margin={"l": 10, "r": 10, "t": 20, "b": 50}, height=380,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"font": {"family": "system-ui, sans-serif"}},
    )  # fmt: skip
    for update, title in ((figure.update_xaxes, x_title), (figure.update_yaxes, y_title)):
        update(title=title, automargin=True, gridcolor="rgba(128,140,160,0.25)", zeroline=False)
    return figure
