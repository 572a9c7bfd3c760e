"""A study with worker processes, to be run as a process of its own and killed:
FOLDER TRIALS URL [VICTIM@STATEMENT...]; a dash for the URL stands for the file in the folder.

At that statement which reaches the database SIGKILL hits the victim: the ``coordinator``, a ``worker`` or ``both``.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from coordinator_helpers import Bench
from executor_helpers import TASK, cpu_slots
from kill_helpers import DEADLINE_S
from sqlalchemy import Engine, event

from unetx_evaluators.fake import FakeEvaluator
from unetx_search.executors.local import LocalExecutor
from unetx_studies.store import Patience, utc_now


def killing(plan: dict[int, str]) -> Callable[..., None]:
    """What is called before every statement; whom to kill by the number of the statement."""
    n_statements = 0

    def before(*_: Any) -> None:
        nonlocal n_statements
        n_statements += 1
        victim = plan.get(n_statements)
        if victim in ("worker", "both"):
            for worker in multiprocessing.active_children()[:1]:
                os.kill(worker.pid or 0, signal.SIGKILL)
        if victim in ("coordinator", "both"):
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def main(folder: Path, n_trials: int, url: str | None, plan: dict[int, str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    bench = Bench(folder, url)
    bench.patience = Patience(DEADLINE_S)
    bench.clock = utc_now
    evaluator = FakeEvaluator(seconds_per_step=0.005, calls_folder=folder / "calls")
    with LocalExecutor(evaluator, TASK, cpu_slots(2)) as executor:
        bench.executor_of = lambda _: executor
        with bench.open(evaluator, n_trials) as coordinator:
            event.listen(Engine, "before_cursor_execute", killing(plan))
            coordinator.run()


if __name__ == "__main__":
    words = (word.split("@") for word in sys.argv[4:])
    url = None if sys.argv[3] == "-" else sys.argv[3]
    main(Path(sys.argv[1]), int(sys.argv[2]), url, {int(at): victim for victim, at in words})
