"""A full training as a person sees it: a bar on a terminal, a line for each validation elsewhere and there."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import CurvePoint


class TrainingBar:
    """Watches one training of ``n_steps``; an evaluator's Observer. ``on_point`` hears of every validation."""

    def __init__(self, what: str, n_steps: int, console: Console, on_point: Callable[[CurvePoint], None]) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        )
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._bar.add_task(what, total=n_steps)
        self._what = what
        self._n_steps = n_steps
        self._console = console
        self._on_point = on_point

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_step(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def on_rung(self, point: CurvePoint) -> bool:
        self.tell(point)
        return False

    def tell(self, point: CurvePoint) -> None:
        """A line about a validation."""
        self._on_point(point)
        left = point.seconds / point.step * (self._n_steps - point.step)
        rest = f", about {_clock(left)} left" if point.step < self._n_steps else ""
        said = f"loss {point.loss:.4f}  validation Dice {point.score:.4f}  {_clock(point.seconds)}{rest}"
        line = f"{self._what}: step {point.step:>{len(str(self._n_steps))}} of {self._n_steps}  {said}"
        self._console.print(line, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
