"""``status --watch``: a running study as a live screen on a terminal, as lines elsewhere.

It reads the database every two seconds, read-only, and holds nothing open in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from unetx_search.architectures import architecture_text
from unetx_search.evidence_text import evidence_lines
from unetx_search.progress import SearchProgress, panel
from unetx_search.status import Status, read_status, status_line
from unetx_space.documents import load
from unetx_space.errors import RequestError
from unetx_studies.evidence import evidence
from unetx_studies.ranking import complete
from unetx_studies.report.numbers import lowest_shown
from unetx_studies.study_folders import BEST

EVERY_S = 2.0
BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "_.:-=+*#"
MAX_BARS = 60


def watch(folder: Path, console: Console, *, sleep: Callable[[float], None] = time.sleep) -> Status:
    """Show a study until its run ends or Ctrl-C, and return its last state. Raises RequestError where there is none.

    On a terminal the screen is drawn anew; elsewhere a line is printed whenever a trial has ended.
    """
    status = read_status(folder)
    with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
        n_told = -1
        try:
            while status.is_running:
                if console.is_terminal:
                    live.update(screen(status, ascii=console.options.ascii_only), refresh=True)
                elif len(status.evaluations) != n_told:
                    n_told = len(status.evaluations)
                    console.print(status_line(status), markup=False, soft_wrap=True)
                sleep(EVERY_S)
                status = read_status(folder)
        except KeyboardInterrupt:
            pass  # who looks on goes; the study does not
    return status


def screen(status: Status, *, ascii: bool = False) -> RenderableType:
    """Draw progress and workers, the scores so far, what they can tell apart, and the best design."""
    parts: list[RenderableType] = [panel(_progress(status), (status.now - status.run.started_at).total_seconds())]
    if scores := [trial.score or 0.0 for trial in complete(status.compared)]:
        bars = spark_line(scores, ASCII_BARS if ascii else BARS)
        parts.append(Text(f"\nDice of complete trials  {bars}  {min(scores):.4f} to {max(scores):.4f}", no_wrap=True))
    parts += [Text(line) for line in evidence_lines(evidence(status.compared))]
    if (drawing := _best_drawing(status.folder, ascii)) is not None:
        parts += [Text(""), Text(drawing, no_wrap=True, overflow="crop")]
    return Group(*parts)


def _progress(status: Status) -> SearchProgress:
    """The study's progress as its own terminal has it, by the trials that ended in this run."""
    began, best, workers = status.run.started_at, status.best, dict(status.workers)
    return SearchProgress(
        status.study,
        status.n_trials,
        max((trial.budget.steps for trial in status.trials), default=1),
        n_slots=len(workers),
        n_done=len(status.evaluations),
        best=None if best is None else best.estimate,
        best_trial=None if best is None else best.number,
        workers=workers,
        seconds=[trial.seconds for trial in status.evaluations if trial.ended_at and trial.ended_at > began],
    )


def spark_line(values: Sequence[float], bars: str = BARS) -> str:
    """Draw the last values as bars in one line.

    A value far below the others, as that of the net without skips, has the lowest bar, as its distance would flatten
    all other bars.
    """
    shown = values[-MAX_BARS:]
    floor = lowest_shown(shown)
    low, high = min(value for value in shown if value >= floor), max(shown)
    if high == low:
        return bars[-1] * len(shown)
    heights = (max(0.0, value - low) / (high - low) for value in shown)
    return "".join(bars[round(height * (len(bars) - 1))] for height in heights)


def _best_drawing(folder: Path, ascii: bool) -> str | None:
    """Draw the best design in the study's folder; None before there is one, or where its file is damaged."""
    try:
        return architecture_text(load(folder / BEST), ascii=ascii)
    except (RequestError, OSError):
        return None
