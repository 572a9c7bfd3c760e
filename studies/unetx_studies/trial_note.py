"""The result of a trial for the dashboard's note: words in Markdown, and its learning curve as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from unetx_evaluators.metrics import METRICS, class_means

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import CaseScore, CurvePoint
    from unetx_studies.store import TrialRecord

WIDTH, HEIGHT = 420.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 18.0, 30.0, 34.0


def markdown_escaped(text: str) -> str:
    """Markdown that shows a stranger's words as they are, free of marks and HTML, as the dashboard reads both."""
    return "".join(char if char.isalnum() or char == " " else f"&#{ord(char)};" for char in text)


def result_words(trial: TrialRecord, scores: Sequence[CaseScore]) -> str:
    """The result of a trial in Markdown: outcome, costs, and every metric by class."""
    dice = "" if trial.score is None else f", Dice {trial.score:.4f}"
    reason = f": {markdown_escaped(trial.reason)}" if trial.reason else ""
    facts = (
        ("outcome", f"{trial.outcome}{dice}{reason}"),
        ("proposed", markdown_escaped(trial.why)),
        ("parameters", f"{trial.n_parameters:,}"),
        ("multiply-adds", f"{trial.macs:,}"),
        ("seconds", f"{trial.seconds:.0f}"),
        ("steps", str(trial.budget.steps)),
    )
    lines = ["| | |", "|---|---|", *(f"| {what} | {much} |" for what, much in facts)]
    means = {name: class_means(scores, name) for name in METRICS}
    known = {name: by_class for name, by_class in means.items() if by_class}
    if known:
        lines += ["", f"| class | {' | '.join(known)} |", "|---" * (len(known) + 1) + "|"]
        for class_name in dict.fromkeys(score.class_name for score in scores):
            values = (by_class.get(class_name) for by_class in known.values())
            cells = ("" if value is None else f"{value:.4g}" for value in values)
            lines.append(f"| {markdown_escaped(class_name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def curve_svg(points: Sequence[CurvePoint], title: str) -> str | None:
    """The learning curve of a trial, Dice over steps; None where no rung was reached with a score."""
    drawn = [point for point in points if not math.isnan(point.score)]
    if not drawn:
        return None
    low, high = min(point.score for point in drawn), max(point.score for point in drawn)
    low, high = (low, high) if high - low > 1e-3 else (low - 0.01, high + 0.01)
    last = max(point.step for point in drawn)

    def place(point: CurvePoint) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * point.step / last
        return x, TOP + (HEIGHT - TOP - BOTTOM) * (high - point.score) / (high - low)

    dots = [place(point) for point in drawn]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="#0072b2"><title>step {p.step}: {p.score:.4f}</title></circle>'
        f'<text x="{x:.1f}" y="{HEIGHT - 14}" text-anchor="middle">{p.step}</text>'
        for p, (x, y) in zip(drawn, dots, strict=True)
    )
    ends = "".join(
        f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.3f}</text>'
        for value, y in ((high, TOP), (low, HEIGHT - BOTTOM))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" '
        f'width="{WIDTH:.0f}" height="{HEIGHT:.0f}"><title>{escape(title)}</title>'
        "<style>text{font:12px system-ui,sans-serif;fill:#1b2333}</style>"
        f'<rect width="100%" height="100%" fill="#fcfdff"/><text x="10" y="18">Dice over steps; all but the last on a '
        f'part of the cases</text><polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/>'
        f"{marks}{ends}</svg>\n"
    )
