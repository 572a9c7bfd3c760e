"""A pilot's trainings as one drawing: Dice at every rung over the steps.

Colours and dashes come from the sheet's style, so that lines are told apart in light, in dark and in black on paper;
every line ends in the number of its row in the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unetx_studies.sheet.facts import PilotFacts, PilotTraining

WIDTH, HEIGHT = 720.0, 320.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 34.0, 26.0, 40.0
"""Size of the drawing, and of the margins around its axes, in CSS pixels."""
APART = 13.0
"""Fewest pixels from one line's number to the next."""
MOST_TICKS = 6
N_LOOKS = 4
"""How many kinds of lines there are, by colour and dash."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis from ``low`` to ``high``, drawn between two pixels, with round numbers as ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def curves_svg(pilot: PilotFacts) -> str:
    """The learning curves of a pilot as SVG; empty where no training reached a rung."""
    drawn = [(number, one) for number, one in enumerate(pilot.trainings, start=1) if _points(one)]
    if not drawn:
        return ""
    points = [point for _, one in drawn for point in _points(one)]
    x = _axis([0, *(step for step, _ in points)], LEFT, WIDTH - RIGHT)
    y = _axis([score for _, score in points], HEIGHT - BOTTOM, TOP)
    ends = [(number, x.place(_points(one)[-1][0]), y.place(_points(one)[-1][1])) for number, one in drawn]
    parts = (*_frame(x, y), *(_line(pilot, one, x, y) for _, one in drawn), *_numbers(ends))
    return (
        f'<svg class="curves" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" width="{WIDTH:.0f}" height="{HEIGHT:.0f}" '
        f'role="img" aria-label="Dice over steps of {len(drawn)} trainings, as in the table">{"".join(parts)}</svg>'
    )


def curve_class(pilot: PilotFacts, training: PilotTraining) -> int:
    """The number of the look of a training's line, which trainings of one recipe share."""
    recipes = dict.fromkeys((one.learning_rate, one.background_weight) for one in pilot.trainings)
    return list(recipes).index((training.learning_rate, training.background_weight)) % N_LOOKS


def sample_svg(look: int) -> str:
    """A piece of a line of that look as SVG, for a table."""
    return (
        f'<svg class="sample" width="30" height="4" aria-hidden="true"><path class="curve c{look}" d="M0 2H30"/></svg>'
    )


def _points(training: PilotTraining) -> tuple[tuple[int, float], ...]:
    return tuple((step, score) for step, score in training.curve if math.isfinite(score))


def _axis(values: Sequence[float], start: float, end: float) -> _Axis:
    """Ticks at multiples of 1, 2 or 5 times a power of ten, the outermost beyond all values."""
    low, high = min(values), max(values)
    rough = (high - low or abs(high) or 1.0) / (MOST_TICKS - 2)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(step * n for n in range(first, max(last, first + 1) + 1))
    return _Axis(ticks[0], ticks[-1], start, end, ticks)


def _frame(x: _Axis, y: _Axis) -> Iterator[str]:
    for tick in y.ticks:
        at = y.place(tick)
        yield f'<path class="grid" d="M{x.start:.1f} {at:.1f}H{x.end:.1f}"/>{_text(x.start - 8, at + 4, tick, "end")}'
    for tick in x.ticks:
        at = x.place(tick)
        yield f'<path class="grid" d="M{at:.1f} {y.start:.1f}v5"/>{_text(at, y.start + 18, tick, "middle")}'
    yield f'<text x="{x.start - 8:.1f}" y="{TOP - 12:.1f}" text-anchor="end">Dice</text>'
    yield f'<text x="{(x.start + x.end) / 2:.1f}" y="{HEIGHT - 5:.1f}" text-anchor="middle">steps</text>'


def _text(x: float, y: float, number: float, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{number:.6g}</text>'


def _line(pilot: PilotFacts, training: PilotTraining, x: _Axis, y: _Axis) -> str:
    look = curve_class(pilot, training)
    places = [(x.place(step), y.place(score)) for step, score in _points(training)]
    path = "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places)
    dots = "".join(
        f'<circle class="point p{look}" cx="{across:.1f}" cy="{down:.1f}" r="3"/>' for across, down in places
    )
    return f'<path class="curve c{look}" d="{path}"/>{dots}'


def _numbers(ends: Sequence[tuple[int, float, float]]) -> Iterator[str]:
    """The numbers right of the lines' ends; of ends that lie close together one below the other, none off the axes."""
    groups: list[list[tuple[int, float, float]]] = []
    for end in sorted(ends, key=lambda end: end[1]):
        if groups and end[1] - groups[-1][0][1] < APART:
            groups[-1].append(end)
        else:
            groups.append([end])
    for group in groups:
        group.sort(key=lambda end: end[2])
        for (number, across, _), down in zip(group, _spread([end[2] for end in group]), strict=True):
            yield f'<text class="number" x="{across + 8:.1f}" y="{down + 4:.1f}">{number}</text>'


def _spread(heights: Sequence[float]) -> list[float]:
    """Ascending heights with ``APART`` between neighbours, moved down, and up again where the axis ends."""
    spread = list(heights)
    for i in range(1, len(spread)):
        spread[i] = max(spread[i], spread[i - 1] + APART)
    limit = HEIGHT - BOTTOM
    for i in reversed(range(len(spread))):
        spread[i] = min(spread[i], limit)
        limit = spread[i] - APART
    return spread
