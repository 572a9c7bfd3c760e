"""The display of a full training: a bar for each fold on a terminal, and a line for each validation."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.evaluation import CurvePoint


class TrainingBars:
    """Shows the bars of several trainings, below each other."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        )
        shown = console.is_terminal
        self._bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not shown)
        self._console = console

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, what: str, n_steps: int, on_point: Callable[[CurvePoint], None]) -> TrainingBar:
        """Add the bar of a training; ``on_point`` is called with every validation."""
        return TrainingBar(what, n_steps, self._console, self._bars, self._bars.add_task(what, total=n_steps), on_point)


class TrainingBar:
    """Shows the progress of one training."""

    def __init__(
        self,
        what: str,
        n_steps: int,
        console: Console,
        bars: Progress,
        task: TaskID,
        on_point: Callable[[CurvePoint], None],
    ) -> None:
        self._what = what
        self._n_steps = n_steps
        self._console = console
        self._bars = bars
        self._task = task
        self._on_point = on_point

    def on_step(self, step: int) -> None:
        self._bars.update(self._task, completed=step)

    def on_point(self, point: CurvePoint) -> None:
        """Print a line about a validation."""
        self._on_point(point)
        left = point.seconds / point.step * (self._n_steps - point.step)
        rest = f", about {_clock(left)} left" if point.step < self._n_steps else ""
        said = f"loss {point.loss:.4f}  validation Dice {point.score:.4f}  {_clock(point.seconds)}{rest}"
        line = f"{self._what}: step {point.step:>{len(str(self._n_steps))}} of {self._n_steps}  {said}"
        self._console.print(line, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    """Put seconds into words, such as ``45 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
