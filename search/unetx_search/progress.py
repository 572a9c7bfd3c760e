"""A search as a person sees it while it runs: a live panel on a terminal, one line per trial elsewhere."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Outcome
from unetx_search.evidence_text import measured_lines
from unetx_space.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unetx_studies.evidence import Evidence
    from unetx_studies.ranking import Ranked

WORKERS = "workers.json"
"""Name of the file in a study's folder that says what the workers of the run in progress are doing."""


@dataclass(slots=True)
class WorkerState:
    """What a worker is doing."""

    device: str
    trial: int
    origin: str
    step: int = 0
    score: float | None = None


@dataclass(slots=True)
class SearchProgress:
    """The state of a search, as its display shows it."""

    study: str
    n_trials: int
    n_steps: int
    n_slots: int
    n_done: int = 0
    best: float | None = None
    """The shrunken estimate of the best design's Dice."""
    best_trial: int | None = None
    workers: dict[int, WorkerState] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    """The duration of each evaluation of this run."""

    def eta_s(self) -> float | None:
        """Estimate the seconds to the end, at the pace so far; None before the first result of this run."""
        if not self.seconds:
            return None
        pace = sum(self.seconds) / len(self.seconds)
        under_way = sum(worker.step / self.n_steps for worker in self.workers.values())
        return max(0.0, self.n_trials - self.n_done - under_way) * pace / max(1, self.n_slots)


class WorkersFile:
    """What the workers are doing, as JSON for ``unetx-search status``; written anew at most once a second.

    Steps come too often for the database, and are worth nothing once the run has ended.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._next_s = clock()

    def write(self, workers: Mapping[int, WorkerState]) -> None:
        """Write the state of the workers, unless it was written less than a second ago."""
        if self._clock() < self._next_s:
            return
        self._next_s = self._clock() + 1.0
        write_whole(self._path, json.dumps({worker: asdict(state) for worker, state in workers.items()}), durable=False)

    @staticmethod
    def read(path: Path) -> dict[int, WorkerState]:
        """Read what was written last; empty where there is no file, or it is damaged."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {int(worker): WorkerState(**state) for worker, state in found.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}


class LineReporter:
    """Shows a search as one line per finished trial, for logs, pipes and batch systems."""

    def __init__(self, progress: SearchProgress, console: Console, workers_file: WorkersFile | None = None) -> None:
        self.progress = progress
        self._console = console
        self._workers_file = workers_file
        self._worker_of: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def trial_started(self, trial: int, worker: int, device: str, origin: str) -> None:
        self._worker_of[trial] = worker
        self.progress.workers[worker] = WorkerState(device, trial, origin)

    def trial_step(self, trial: int, step: int) -> None:
        if (state := self._state(trial)) is not None:
            state.step = step
        if self._workers_file is not None:
            self._workers_file.write(self.progress.workers)

    def trial_rung(self, trial: int, point: CurvePoint) -> None:
        if (state := self._state(trial)) is not None:
            state.step, state.score = point.step, point.score

    def trial_finished(self, trial: int, evaluation: Evaluation, best: Ranked | None, is_best: bool) -> None:
        state = self._leave(trial)
        progress = self.progress
        progress.n_done += 1
        progress.seconds.append(evaluation.seconds)
        if best is not None:
            progress.best, progress.best_trial = best.estimate, best.number
        line = trial_line(trial, state.origin if state else "", evaluation, is_best, progress)
        self._console.print(line, soft_wrap=True)

    def trial_lost(self, trial: int, reason: str) -> None:
        self._leave(trial)
        self._console.print(f"trial {trial:>4}  {reason}; another worker will have it", soft_wrap=True)

    def trial_interrupted(self, trial: int) -> None:
        self._leave(trial)
        self._console.print(f"trial {trial:>4}  interrupted; it will be run again under the same number")

    def measured(self, evidence: Evidence) -> None:
        self._console.print("\n".join(measured_lines(evidence)), soft_wrap=True, markup=False, highlight=False)

    def _state(self, trial: int) -> WorkerState | None:
        return self.progress.workers.get(self._worker_of.get(trial, -1))

    def _leave(self, trial: int) -> WorkerState | None:
        return self.progress.workers.pop(self._worker_of.pop(trial, -1), None)


class LiveReporter(LineReporter):
    """Shows a search on a terminal: the lines of finished trials above a panel with progress and workers."""

    def __init__(
        self,
        progress: SearchProgress,
        console: Console,
        workers_file: WorkersFile | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(progress, console, workers_file)
        self._clock = clock
        self._begin = clock()
        self._live = Live(get_renderable=self._panel, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        self._begin = self._clock()
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _panel(self) -> RenderableType:
        return panel(self.progress, self._clock() - self._begin)


class StageDisplay:
    """Shows the few long steps of some work: a clock on a terminal, elsewhere lines for each step."""

    def __init__(self, console: Console, *, every_s: float = 15.0) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._clock = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._console = console
        self._every_s = every_s
        self._step = ""
        self._began = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show_life, name="steps", daemon=True)

    def __enter__(self) -> Self:
        self._clock.start()
        if not self._console.is_terminal:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._clock.stop()
        self._over.set()

    def begin(self, step: str) -> None:
        """Begin the next step, such as "tracing the network"."""
        self._step, self._began = step, time.monotonic()
        for task in self._clock.task_ids:
            self._clock.remove_task(task)
        self._clock.add_task(step)
        if not self._console.is_terminal:
            say(self._console, step)

    def _show_life(self) -> None:
        while not self._over.wait(self._every_s):
            say(self._console, f"{self._step}: {duration(time.monotonic() - self._began)} so far")


def stderr_console(*, quiet: bool = False) -> Console:
    """Return the console on which commands and the Python interface show logs and progress."""
    return Console(stderr=True, highlight=False, quiet=quiet)


def say(console: Console, words: str) -> None:
    """Print a line as it is, without wrapping it, as it may be copied."""
    console.print(words, markup=False, soft_wrap=True)


def trial_line(trial: int, origin: str, evaluation: Evaluation, is_best: bool, progress: SearchProgress) -> Text:
    """Return ``[8/20] trial 7 complete Dice 0.8120 31 s random``, and the reason below where there is one.

    A pruned trial has its last step in place of Dice, which is of a few cases only and would look like a score.
    """
    done = f"[{progress.n_done}/{progress.n_trials}]"
    width = 2 * len(str(progress.n_trials)) + 3
    score = "" if evaluation.score is None else f"Dice {evaluation.score:.4f}"
    if evaluation.outcome is Outcome.PRUNED and evaluation.curve:
        score = f"step {evaluation.curve[-1].step}"
    line = Text(
        f"{done:>{width}} trial {trial:>3}  {evaluation.outcome:<13} {score:<11} {evaluation.seconds:>5.0f} s  {origin}"
    )
    if is_best:
        line.append("  best so far", style="bold green")
    if evaluation.reason and evaluation.outcome is not Outcome.PRUNED:
        line.append(f"\n{'':>{width}} {evaluation.reason}", style="red")
    return line


def panel(progress: SearchProgress, elapsed_s: float) -> RenderableType:
    """Draw the live panel of a search after ``elapsed_s`` seconds."""
    head = Table.grid(padding=(0, 2), expand=False)
    best = (
        f"best Dice {progress.best:.4f} (trial {progress.best_trial})" if progress.best is not None else "no best yet"
    )
    eta = progress.eta_s()
    left = f"about {duration(eta)} left" if eta is not None else "time left not known yet"
    bar = ProgressBar(total=progress.n_trials, completed=progress.n_done, width=24)
    head.add_row(
        Text(progress.study, style="bold"), bar, f"{progress.n_done}/{progress.n_trials} trials", best,
        f"{duration(elapsed_s)} so far", left,
    )  # fmt: skip
    workers = Table.grid(padding=(0, 2))
    for _, state in sorted(progress.workers.items()):
        score = f"Dice {state.score:.4f}" if state.score is not None else ""
        bar = ProgressBar(total=progress.n_steps, completed=state.step, width=16)
        workers.add_row(
            f"  {state.device}", f"trial {state.trial}", bar, f"{state.step}/{progress.n_steps}", score, state.origin
        )
    return Group(head, workers)


def duration(seconds: float) -> str:
    """Put seconds into words, such as ``42 s``, ``3 min 5 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def display(progress: SearchProgress, console: Console, workers_file: WorkersFile | None = None) -> LineReporter:
    """Return the display of a search: a live panel on a terminal, plain lines elsewhere."""
    reporter = LiveReporter if console.is_terminal else LineReporter
    return reporter(progress, console, workers_file)
