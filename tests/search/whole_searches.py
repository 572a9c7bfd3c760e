"""Whole searches with a fake evaluator: in this process, or in one of its own to be signalled and killed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kill_helpers import DEADLINE_S
from rich.console import Console

from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks import DemoSource, Source
from unetx_search.config import SearchConfig
from unetx_search.run import Summary, search

SCRIPT = Path(__file__).with_name("fake_search.py")
SOURCE = DemoSource(n_cases=6)


def run(
    out: Path,
    source: Source | None = SOURCE,
    *,
    evaluator: FakeEvaluator | None = None,
    console: Console | None = None,
    **changes: Any,
) -> Summary:
    """A search of four trials called ``s``, unless told otherwise."""
    settings = {"trials": 4, "gpus": 0, "cpu_workers": 2, "steps": 12, "pilot": False, "study": "s", **changes}
    return search(
        SearchConfig(out=out, **settings),
        console=console or Console(file=io.StringIO()),
        evaluator=evaluator or FakeEvaluator(),
        source=source,
    )


def start(out: Path, trials: int, seconds_per_step: float, *more: str) -> subprocess.Popen[str]:
    """The same as a process; ``more`` is what ``fake_search.py`` can be told."""
    words = [sys.executable, str(SCRIPT), str(out), str(trials), str(seconds_per_step), *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for what the process does; fails at the deadline and at its end."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "what the test waits for did not come"
        time.sleep(0.05)


def end(process: subprocess.Popen[str]) -> None:
    """Kill it with its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
