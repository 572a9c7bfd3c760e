"""Two workers against one, on as many cores, with real trainings: how many times the trials per hour?

    python benchmarks/workers.py [--trials 16] [--pairs 3] > benchmarks/results/workers-2cores.txt

Needs a machine with nothing else to do. Whole searches on the demo task with the default budget, through the command
line, with one and with two CPU workers in turns. So that both do the same work, designs are random (each trial's own
seed draws it, whatever has finished) and none is pruned; ``--searching`` takes the defaults instead, TPE and the median
pruner, made the same for both with ``--deterministic 4``. The dataset is prepared beforehand.

Times are those in the study. An hour counts from the first training (starts of workers and imports are told as
``start``) to the last result (``whole``), or to the moment when the last trial began (``busy``), trials under way
counting by their share: at the end of a short study one worker idles while the other finishes, which says nothing about
a long one. The ratio while both are busy is the product of three: how many workers, how much a trial slows down when
another runs beside it (memory bandwidth, clock, the coordinator's share of a core), and how much of the time workers
are at work.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from unetx_evaluators.host_cores import usable_cores

NEEDED = 1.8
SAME_WORK = ("--sampler", "random", "--pruner", "none")
SEARCHING = ("--deterministic", "4")


@dataclass(frozen=True)
class Trial:
    """Times at which a trial began to train and ended, in seconds since 1970."""

    began: float
    ended: float
    score: float | None


@dataclass(frozen=True)
class Run:
    """One search."""

    n_workers: int
    trials: tuple[Trial, ...]
    start: float
    """Seconds from the command to the first training."""

    @property
    def whole(self) -> float:
        """Trials an hour to the last result."""
        return 3600 * len(self.trials) / (max(trial.ended for trial in self.trials) - self._began)

    @property
    def busy(self) -> float:
        """Trials an hour while there was a trial for every worker."""
        done = sum(self._worked(trial) / (trial.ended - trial.began) for trial in self.trials)
        return 3600 * done / (self._over - self._began)

    @property
    def at_work(self) -> float:
        """Share of the time that a worker trained, while there was a trial for every worker."""
        return sum(map(self._worked, self.trials)) / (self._over - self._began) / self.n_workers

    @property
    def seconds(self) -> float:
        """Mean seconds of a trial."""
        return statistics.fmean(trial.ended - trial.began for trial in self.trials)

    def _worked(self, trial: Trial) -> float:
        """Seconds of a trial before the last one began."""
        return max(0.0, min(trial.ended, self._over) - trial.began)

    @property
    def _began(self) -> float:
        return min(trial.began for trial in self.trials)

    @property
    def _over(self) -> float:
        return max(trial.began for trial in self.trials)


def search(folder: Path, cache: Path, n_workers: int, n_trials: int, more: tuple[str, ...]) -> Run:
    """A search in a fresh folder. Raises CalledProcessError when it fails."""
    command = [sys.executable, "-m", "unetx_search.cli", "--trials", str(n_trials), "--gpus", "0"]
    command += ["--cpu-workers", str(n_workers), "--out", str(folder), "--cache", str(cache), "--study", "s", *more]
    asked = time.time()
    subprocess.run(command, check=True, capture_output=True, text=True)
    with sqlite3.connect(folder / "s" / "study.db") as database:
        rows = database.execute(
            "select ended_at, seconds, score from unetx_trials where outcome in ('complete', 'pruned') order by number"
        ).fetchall()
    assert len(rows) == n_trials, f"{len(rows)} of {n_trials} trials came to a score"
    trials = tuple(Trial(_seconds(ended) - seconds, _seconds(ended), score) for ended, seconds, score in rows)
    return Run(n_workers, trials, min(trial.began for trial in trials) - asked)


def _seconds(stored: str) -> float:
    """Seconds since 1970 of an instant in UTC, as the database holds it."""
    return datetime.fromisoformat(f"{stored}+00:00").timestamp()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--searching", action="store_true", help="TPE and the median pruner, with --deterministic 4")
    parser.add_argument("--steps", type=int, help="fewer steps, to try the script")
    arguments = parser.parse_args()
    more = SEARCHING if arguments.searching else SAME_WORK
    more += () if arguments.steps is None else ("--steps", str(arguments.steps))
    n_many, n_trials = arguments.workers, arguments.trials
    print(f"demo task, {n_trials} trials a search, {' '.join(more)}; {platform.machine()}, {usable_cores()} cores")
    print(f"load average while it began: {os.getloadavg()[0]:.1f}")
    print(f"with 1 worker, with {n_many}, and the ratio: trials an hour; seconds of a trial; share at work; start in s")
    print(
        "pair " + "".join(f"{what:>24}" for what in ("whole", "busy", "seconds", "at work")) + f"{'start':>14}",
        flush=True,
    )
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name, "cache")
        search(
            Path(name, "first"), cache, n_many, 2, (*SAME_WORK, "--steps", "1")
        )  # prepares, and warms the page cache
        for pair in range(arguments.pairs):
            counts = (1, n_many) if pair % 2 == 0 else (n_many, 1)
            runs = {n: search(Path(name, f"{pair}-{n}"), cache, n, n_trials, more) for n in counts}
            one, many = runs[1], runs[n_many]
            same = all(a.score == b.score for a, b in zip(one.trials, many.trials, strict=True))
            assert same, "the same trials came to other scores, so the work was not the same"
            ratios.append(many.busy / one.busy)
            columns = [
                _pair(getattr(one, what), getattr(many, what)) for what in ("whole", "busy", "seconds", "at_work")
            ]
            print(f"{pair:>4} " + "".join(columns) + f"{one.start:>8.1f}{many.start:>6.1f}", flush=True)
    median = statistics.median(ratios)
    print(f"median ratio while both are busy {median:.2f}, wanted {NEEDED}")
    return 0 if median >= NEEDED else 1


def _pair(one: float, many: float) -> str:
    return f"{one:>9.2f}{many:>8.2f}{many / one:>7.2f}"


if __name__ == "__main__":
    sys.exit(main())
