"""What a coordinator costs between a result and the next job, on a growing study, with 64 simulated slots.

python benchmarks/coordinator.py [--trials 10000] [--samplers random,tpe] \\
    > benchmarks/results/coordinator-64slots-2cores.txt
python benchmarks/coordinator.py --trials 1000 --server > benchmarks/results/coordinator-postgres-64slots-2cores.txt

With --server the study is in a PostgreSQL database, of a server that the wheel pgserver starts on this machine; with
--storage URL it is in an empty one of your own.

No training: a slot answers at once with the fake evaluator's curve and 48 case scores. Meanwhile another process reads
the study every few seconds through Optuna, as optuna-dashboard does. Times are split by what is on the stack: Optuna's
storage (its tables), the sampler, the commit of the transaction they share with ours, and our own part (coordinator,
guard, ledger, records), which is the rest. The parts are CPU time, for on a machine with other work the time on the
wall says more about that work; on a quiet one both are the same. Each sampler proposes for 40 trials before each mark
and a random one between them, because 10,000 proposals of TPE take half an hour.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import text
from sqlalchemy.engine.default import DefaultDialect

from unetx_evaluators.evaluation import Budget, CaseScore, CurvePoint, Evaluation, Outcome
from unetx_evaluators.fake import FakeEvaluator, learning_curve
from unetx_evaluators.tasks.task import Splits, Task
from unetx_search.book import lease, new_run, open_book
from unetx_search.coordinator import Coordinator, Terms
from unetx_search.executors.base import Executor, Handler, Job
from unetx_search.ground import Ground
from unetx_search.pruners import PRUNERS
from unetx_search.run import SAMPLERS
from unetx_search.samplers.guard import Guard
from unetx_space.design_space import DesignSpace
from unetx_studies.processes import this_process
from unetx_studies.store import OneWriterStorage, open_store, study_url
from unetx_studies.store.server import parse_url, without_secrets

N_SLOTS = 64
MARKS = (110, 1000, 3000, 10_000)
WINDOW = 40
"""Results before each mark whose times are told."""
ALLOWED_MS = 30.0
ALLOWED_GROWTH = 2.0
BUDGET = Budget(steps=200, batch_size=8, width_factor=0.25, rungs=(67, 133, 200), selection_cases=24)
TASK = Task(
    folder=Path("nowhere"),
    name="simulated",
    source="made up",
    dims=2,
    channels=("mri",),
    classes=("background", "organ", "tumour"),
    spacing=(1.0, 1.0),
    patch=(128, 128),
    strides=((1, 1), *[(2, 2)] * 4),
    widths=(32, 64, 128, 256, 512),
    splits=Splits(train=("a",), selection=tuple(f"case {n}" for n in range(24)), held_out=("b",)),
    digest="0",
)

READER = """
import optuna, sys, time
from unetx_studies.store import optuna_storage
optuna.logging.set_verbosity(optuna.logging.WARNING)
n_reads = 0
study = None
while True:
    try:
        study = study or optuna.load_study(study_name="s", storage=optuna_storage(sys.argv[1], read_only=True))
        n = len(study.get_trials(deepcopy=False))
        n_reads += 1
        print(n_reads, n, flush=True)
    except Exception as error:
        if study is not None:
            print("ERROR", error, flush=True)
    time.sleep(5)
"""


class Clock:
    """CPU seconds by what was on top of the stack, and seconds on the wall."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._stack = ["ours"]
        self._since = time.thread_time()
        self._began = time.perf_counter()

    @contextmanager
    def inside(self, part: str) -> Iterator[None]:
        self._turn()
        self._stack.append(part)
        try:
            yield
        finally:
            self._turn()
            self._stack.pop()

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.inside(part):
                return call(*args, **kwargs)

        return wrapped

    def restart(self) -> None:
        self._turn()
        self.spent.clear()
        self._began = time.perf_counter()

    def read(self) -> dict[str, float]:
        self._turn()
        return {**self.spent, WALL: time.perf_counter() - self._began}

    def _turn(self) -> None:
        now = time.thread_time()
        self.spent[self._stack[-1]] += now - self._since
        self._since = now


WALL = "wall"
CLOCK = Clock()


class Simulated(Executor):
    """Slots that answer at once, one result at each poll, in random order."""

    def __init__(self) -> None:
        self.n_slots = N_SLOTS
        self.jobs: list[Job] = []
        self.gaps: list[dict[str, float]] = []
        """From each result to the next job, seconds by part."""
        self.events: list[float] = []
        """Start and two rungs of a job."""
        self._rng = random.Random(0)
        self._evaluator = FakeEvaluator()
        self._is_open = False

    def n_free(self) -> int:
        return self.n_slots - len(self.jobs)

    def submit(self, job: Job) -> None:
        if self._is_open:
            self.gaps.append(CLOCK.read())
            self._is_open = False
        self.jobs.append(job)

    def poll(self, handler: Handler, timeout_s: float) -> None:
        job = self.jobs.pop(self._rng.randrange(len(self.jobs)))
        began = time.thread_time()
        handler.on_started(job.trial, job.trial % N_SLOTS, "simulated", this_process())
        final = self._evaluator.final_score(job.architecture, job.seed)
        curve: list[CurvePoint] = []
        outcome = Outcome.COMPLETE
        for step in BUDGET.rungs:
            curve.append(CurvePoint(step, final * learning_curve(step / BUDGET.steps), 0.5, step / 10))
            if step < BUDGET.steps and handler.on_rung(job.trial, curve[-1]):
                outcome = Outcome.PRUNED
                break
        self.events.append(time.thread_time() - began)
        scores = tuple(CaseScore(case, name, final) for case in TASK.splits.selection for name in TASK.classes[1:])
        evaluation = Evaluation(
            outcome,
            score=curve[-1].score,
            case_scores=scores if outcome is Outcome.COMPLETE else (),
            curve=tuple(curve),
            n_parameters=1_000_000,
            seconds=20.0,
            device="simulated",
            versions={"torch": "0"},
        )
        self._is_open = True
        CLOCK.restart()
        handler.on_finished(job.trial, 0, evaluation)

    def interrupt(self) -> None: ...
    def close(self, timeout_s: float = 10.0) -> None: ...


class Silent:
    """Shows nothing."""

    def trial_started(self, trial: int, worker: int, device: str, origin: str) -> None: ...
    def trial_step(self, trial: int, step: int) -> None: ...
    def trial_rung(self, trial: int, point: CurvePoint) -> None: ...
    def trial_finished(self, trial: int, evaluation: Evaluation, is_best: bool) -> None: ...
    def trial_lost(self, trial: int, reason: str) -> None: ...
    def trial_interrupted(self, trial: int) -> None: ...


def instrument() -> None:
    """Every call of Optuna's storage and every commit is timed from now on."""
    for name in dir(OneWriterStorage):
        if name.startswith(("get_", "set_", "create_", "delete_")) or name == "_write_kept":
            setattr(OneWriterStorage, name, CLOCK.timed("Optuna's storage", getattr(OneWriterStorage, name)))

    DefaultDialect.do_commit = CLOCK.timed("commit", DefaultDialect.do_commit)  # type: ignore[method-assign]


def is_measured(n_results: int) -> bool:
    """One of the results before a mark; the first jobs, one to each slot, followed none."""
    return any(mark - WINDOW <= n_results + N_SLOTS < mark for mark in MARKS)


def sampler_of(name: str, executor: Simulated) -> Callable[[int], optuna.samplers.BaseSampler]:
    """The product's own sampler, timed; where it is not measured a random one stands in."""

    def make(seed: int) -> optuna.samplers.BaseSampler:
        with CLOCK.inside("sampler"):
            sampler = SAMPLERS[name if is_measured(len(executor.gaps)) else "random"](seed)
        sampler.sample_relative = CLOCK.timed("sampler", sampler.sample_relative)  # type: ignore[method-assign]
        return sampler

    return make


def run(url: str, sampler: str, n_trials: int) -> Simulated:
    """A whole study; its executor holds the times."""
    backbone = TASK.backbone()
    ground = Ground(backbone, TASK.patch, DesignSpace(backbone.n_levels), BUDGET, seed=0, max_cost=4.0)
    executor = Simulated()
    record = new_run("s", n_trials=n_trials, n_slots=N_SLOTS)
    with (
        open_store(url, create=True) as store,
        lease(store, record),
        open_book(store, record, pruner=PRUNERS["median"](BUDGET)) as book,
    ):
        coordinator = Coordinator(
            book=book,
            executor=executor,
            ground=ground,
            reporter=Silent(),
            terms=Terms(n_trials),
            on_best=lambda trial: None,
        )
        book.study.sampler = Guard(
            sampler_of(sampler, executor),
            ground.space,
            is_admissible=ground.admission(),
            is_new=coordinator.is_new,
            seed=0,
        )
        coordinator.run()
    return executor


def size_of(url: str) -> int:
    """Bytes of the database."""
    with open_store(url, create=False, read_only=True) as store, store.reading() as session:
        if store.is_on_server:
            return int(session.scalar(text("select pg_database_size(current_database())")) or 0)
    return sum(file.stat().st_size for file in Path(store.engine.url.database or "").parent.iterdir())


def show(sampler: str, executor: Simulated, url: str, seconds: float, reads: list[str]) -> bool:
    """Print the table of one study; whether our own part keeps its promise."""
    parts = ("Optuna's storage", "sampler", "commit", "ours")
    n = len(executor.gaps)
    marks = [mark for mark in MARKS if mark - N_SLOTS <= n]
    print(f"{sampler}: {n + N_SLOTS} trials, {len(TASK.splits.selection)} cases each, in {seconds:.0f} s")
    print(
        f"{'at trial':>9} {'wall':>8} {'CPU':>8} "
        + " ".join(f"{part:>17}" for part in parts)
        + f" {'start, rungs':>13}"
    )
    own = {}
    for mark in marks:
        window = slice(mark - N_SLOTS - WINDOW, mark - N_SLOTS)
        gaps = executor.gaps[window]
        medians = {part: 1e3 * statistics.median(gap.get(part, 0.0) for gap in gaps) for part in parts}
        own[mark] = medians["ours"] + medians["commit"]
        wall = 1e3 * statistics.median(gap[WALL] for gap in gaps)
        total = 1e3 * statistics.median(sum(gap.values()) - gap[WALL] for gap in gaps)
        events = 1e3 * statistics.median(executor.events[window])
        print(
            f"{mark:>9} {wall:>8.1f} {total:>8.1f} "
            + " ".join(f"{medians[p]:>17.1f}" for p in parts)
            + f" {events:>13.1f}"
        )
    size = size_of(url)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    errors = [line for line in reads if "ERROR" in line]
    print(f"database {size / 2**20:.0f} MiB, peak memory of the process so far {peak:.0f} MiB")
    print(f"reader: {len(reads) - len(errors)} reads, {len(errors)} errors; the writer met no lock error")
    first, last = own[marks[0]], own[marks[-1]]
    print(
        f"our own part with commits: {first:.1f} ms at trial {marks[0]} (allowed {ALLOWED_MS:g}), {last:.1f} ms at "
        f"trial {marks[-1]}, ratio {last / first:.2f} (allowed {ALLOWED_GROWTH:g})"
    )
    return first <= ALLOWED_MS and last <= ALLOWED_GROWTH * first


@contextmanager
def study_place(storage: str | None, *, is_on_server: bool) -> Iterator[str]:
    """The URL of an empty database."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if storage is not None:
            yield storage
        elif is_on_server:
            import pgserver

            folder.chmod(0o755)
            with pgserver.get_server(folder / "server", cleanup_mode="stop") as server:
                yield server.get_uri()
        else:
            yield study_url(folder)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--samplers", default="random,tpe")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--server", action="store_true")
    place.add_argument("--storage")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    instrument()
    genes = len(DesignSpace(TASK.backbone().n_levels).genes)
    print(f"{N_SLOTS} simulated slots, {genes} genes; {platform.machine()}, {os.cpu_count()} cores")
    print(f"load average while it began: {os.getloadavg()[0]:.1f}")
    print("medians in ms from a result to the next job; drawings are made after the job is handed out")
    fine = True
    for sampler in arguments.samplers.split(","):
        with study_place(arguments.storage, is_on_server=arguments.server) as url:
            print(f"\n{without_secrets(parse_url(url)).partition(':')[0]}, ", end="")
            command = [sys.executable, "-c", READER, url]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
                began = time.perf_counter()
                executor = run(url, sampler, arguments.trials)
                seconds = time.perf_counter() - began
                reader.terminate()
                reads = (reader.stdout.read() if reader.stdout else "").splitlines()
            fine &= show(sampler, executor, url, seconds, reads)
            sys.stdout.flush()
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
