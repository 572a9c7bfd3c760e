"""A study with worker processes, to be run as a process of its own and killed: FOLDER TRIALS VICTIM AT.

At the AT-th statement that reaches the database SIGKILL hits the VICTIM: the ``coordinator``, a ``worker`` or ``both``.
With ``nobody`` it runs to its end.
"""

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from coordinator_helpers import Bench
from executor_helpers import TASK, cpu_slots
from sqlalchemy import Engine, event

from unetx_evaluators.fake import FakeEvaluator
from unetx_search.book import utc_now
from unetx_search.executors.local import LocalExecutor


def killing(victim: str, at: int) -> Callable[..., None]:
    """What is called before every statement."""
    n_statements = 0
    rng = random.Random(at)

    def before(*_: Any) -> None:
        nonlocal n_statements
        n_statements += 1
        if n_statements != at:
            return
        workers = sorted(process.pid or 0 for process in multiprocessing.active_children())
        if victim in ("worker", "both") and workers:
            os.kill(rng.choice(workers), signal.SIGKILL)
        if victim in ("coordinator", "both"):
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def main(folder: Path, n_trials: int, victim: str, at: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    bench = Bench(folder)
    bench.clock = utc_now
    evaluator = FakeEvaluator(seconds_per_step=0.005, calls_folder=folder / "calls")
    with LocalExecutor(evaluator, TASK, cpu_slots(2)) as executor:
        bench.executor_of = lambda _: executor
        with bench.open(evaluator, n_trials) as coordinator:
            event.listen(Engine, "before_cursor_execute", killing(victim, at))
            coordinator.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
