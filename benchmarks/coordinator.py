"""What a coordinator costs between a result and the next job, on a growing study, with 64 simulated slots.

python benchmarks/coordinator.py [--trials 10000] [--samplers random,tpe] [--throughout] [--page optuna-dashboard] \\
    > benchmarks/results/coordinator-64slots-2cores.txt
python benchmarks/coordinator.py --trials 1000 --server > benchmarks/results/coordinator-postgres-64slots-2cores.txt

With --server the study is in a PostgreSQL database, of a server that the wheel pgserver starts on this machine; with
--storage URL it is in an empty one of your own.

No training: a slot answers at once with the fake evaluator's curve and 48 case scores. Meanwhile optuna-dashboard (or
with ``--page ours`` our own server) is open on the study, and asks as its page does: every five seconds for the trials
from the first unfinished one on. Times are split by what is on the stack: the mirror in Optuna's tables, the sampler,
the commits of our own transactions, and our own part (coordinator, constrained sampler, records), which is the rest. A
gap reaches from a result to the moment at which the next trial is handed out and shown in Optuna's tables; the promise
is about all of it but the sampler. The parts are CPU time, for on a machine with other work the time on the wall says
more about that work; on a quiet one both are the same. Each sampler proposes for 40 trials before each mark and a
random one between them; with ``--throughout`` it proposes every trial, which takes TPE about half an hour for 10,000. A
row is printed as soon as its mark is reached, and stderr tells how far it is.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from open_page import PAGES, watched
from sqlalchemy import text
from sqlalchemy.engine.default import DefaultDialect

from unetx_evaluators.evaluation import Budget, CaseScore, CurvePoint, Evaluation, Outcome
from unetx_evaluators.fake import FakeEvaluator, learning_curve
from unetx_evaluators.host_cores import usable_cores
from unetx_evaluators.tasks.task import Splits, Task
from unetx_search.coordinator import Coordinator, RunOptions
from unetx_search.executors.base import Executor, Handler, Job
from unetx_search.proposals import Reseeding, SearchProposals
from unetx_search.pruners import PRUNERS
from unetx_search.sampler_study import SamplerStudy
from unetx_search.samplers.constrained_sampler import ConstrainedSampler
from unetx_search.samplers.registry import SAMPLERS
from unetx_search.study_setup import StudySetup
from unetx_space.design_space import DesignSpace
from unetx_studies.evidence import Evidence
from unetx_studies.processes import this_process
from unetx_studies.ranking import Ranked
from unetx_studies.store import OptunaMirror, Records, held_lease, new_run, open_store, study_url
from unetx_studies.store.server import parse_url, without_secrets

N_SLOTS = 64
MARKS = (110, 1000, 3000, 10_000)
WINDOW = 40
"""Results before each mark whose times are told."""
ALLOWED_MS = 30.0
ALLOWED_GROWTH = 2.0
BUDGET = Budget(steps=200, batch_size=8, width_factor=0.25, rungs=(67, 133, 200), validation_cases=24)
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
    splits=Splits(train=("a",), validation=tuple(f"case {n}" for n in range(24)), test=("b",)),
    digest="0",
)


class Clock:
    """CPU seconds of each part, by the part on top of the stack, and seconds of wall time."""

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
    """An executor whose slots finish at once, with one result at each poll, in random order."""

    def __init__(self, on_gap: Callable[[Simulated], None]) -> None:
        self._on_gap = on_gap
        self.n_slots = N_SLOTS
        self.jobs: list[Job] = []
        self.gaps: list[dict[str, float]] = []
        """Seconds from each result to the next job, by part."""
        self.events: list[float] = []
        """Report the start and two rungs of a job."""
        self._rng = random.Random(0)
        self._evaluator = FakeEvaluator()
        self._is_open = False

    def n_free(self) -> int:
        return self.n_slots - len(self.jobs)

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def poll(self, handler: Handler, timeout_s: float) -> None:
        if self._is_open:  # the trial that followed the last result was handed out and shown
            self.gaps.append(CLOCK.read())
            self._is_open = False
            self._on_gap(self)
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
        scores = tuple(
            CaseScore(case, name, {"dice": final}) for case in TASK.splits.validation for name in TASK.classes[1:]
        )
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
    """A reporter that shows nothing."""

    def trial_started(self, trial: int, worker: int, device: str, origin: str) -> None: ...
    def trial_step(self, trial: int, step: int) -> None: ...
    def trial_rung(self, trial: int, point: CurvePoint) -> None: ...
    def trial_finished(self, trial: int, evaluation: Evaluation, best: Ranked | None, is_best: bool) -> None: ...
    def trial_lost(self, trial: int, reason: str) -> None: ...
    def trial_interrupted(self, trial: int) -> None: ...
    def measured(self, evidence: Evidence) -> None: ...


def instrument() -> None:
    """Time the mirror in Optuna's tables and every other commit from now on."""
    OptunaMirror.follow = CLOCK.timed("mirror", OptunaMirror.follow)  # type: ignore[method-assign]
    DefaultDialect.do_commit = CLOCK.timed("commit", DefaultDialect.do_commit)  # type: ignore[method-assign]


def is_measured(n_results: int) -> bool:
    """Whether a result is one of those before a mark; the first jobs, one for each slot, follow no result."""
    return any(mark - WINDOW <= n_results + N_SLOTS < mark for mark in MARKS)


def sampler_of(name: str, executor: Simulated, throughout: bool) -> Callable[[int], optuna.samplers.BaseSampler]:
    """The product's own sampler, timed; where it is not measured a random one replaces it, unless ``throughout``."""

    def make(seed: int) -> optuna.samplers.BaseSampler:
        with CLOCK.inside("sampler"):
            sampler = SAMPLERS[name if throughout or is_measured(len(executor.gaps)) else "random"](seed)
        sampler.sample_relative = CLOCK.timed("sampler", sampler.sample_relative)  # type: ignore[method-assign]
        return sampler

    return make


def run(url: str, sampler: str, n_trials: int, throughout: bool, on_gap: Callable[[Simulated], None]) -> Simulated:
    """Run a whole study, and return its executor, which holds the times."""
    backbone = TASK.backbone()
    setup = StudySetup(backbone, TASK.patch, DesignSpace(backbone.n_levels), BUDGET, seed=0, max_cost=4.0)
    executor = Simulated(on_gap)
    this_run = new_run("s", n_trials=n_trials)
    with open_store(url, create=True) as store, held_lease(store, this_run) as lease:
        records = Records(store, "s", lease)
        with OptunaMirror(store, "s", records, setup.genes) as mirror:
            study = SamplerStudy("s", setup.genes, PRUNERS["median"](BUDGET))
            make = sampler_of(sampler, executor, throughout)
            proposer = ConstrainedSampler(make, setup.genes, setup.admitted, seed=0)
            # The sampler and the tables, not the ranking, are measured: no replicates.
            proposals = SearchProposals(setup, records, study, proposer, n_trials, Reseeding(share=0.0))
            coordinator = Coordinator(
                records=records,
                study=study,
                proposals=proposals,
                mirror=mirror,
                executor=executor,
                reporter=Silent(),
                options=RunOptions(),
                on_ranked=lambda ranking: None,
            )
            coordinator.run()
    return executor


PARTS = ("mirror", "sampler", "commit", "ours")


def size_of(url: str) -> int:
    """The size of the database in bytes."""
    with open_store(url, create=False, read_only=True) as store, store.reading() as session:
        if store.is_on_server:
            return int(session.scalar(text("select pg_database_size(current_database())")) or 0)
    return sum(file.stat().st_size for file in Path(store.engine.url.database or "").parent.iterdir())


class Table:
    """A table that prints each row once the results before its mark are there, and keeps our own part at each mark."""

    def __init__(self) -> None:
        self.own: dict[int, float] = {}
        self._began = time.perf_counter()
        print(
            f"{'at trial':>9} {'wall':>8} {'CPU':>8} "
            + " ".join(f"{part:>17}" for part in PARTS)
            + f" {'start, rungs':>13}",
            flush=True,
        )

    def __call__(self, executor: Simulated) -> None:
        n_trials = len(executor.gaps) + N_SLOTS
        if n_trials in MARKS:
            self._row(n_trials, executor)
        if n_trials % 500 == 0:
            print(f"{n_trials} trials, {time.perf_counter() - self._began:.0f} s", file=sys.stderr)

    def _row(self, mark: int, executor: Simulated) -> None:
        gaps = executor.gaps[-WINDOW:]
        medians = {part: 1e3 * statistics.median(gap.get(part, 0.0) for gap in gaps) for part in PARTS}
        self.own[mark] = medians["ours"] + medians["commit"] + medians["mirror"]
        wall = 1e3 * statistics.median(gap[WALL] for gap in gaps)
        total = 1e3 * statistics.median(sum(gap.values()) - gap[WALL] for gap in gaps)
        events = 1e3 * statistics.median(executor.events[-WINDOW:])
        print(
            f"{mark:>9} {wall:>8.1f} {total:>8.1f} "
            + " ".join(f"{medians[part]:>17.1f}" for part in PARTS)
            + f" {events:>13.1f}",
            flush=True,
        )


def show(table: Table, url: str, seconds: float, page: str, answers: list[str]) -> bool:
    """Print the summary of one study; return whether our own part keeps its promise and the page met no error."""
    size = size_of(url)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{seconds:.0f} s, database {size / 2**20:.0f} MiB, peak memory of the process so far {peak:.0f} MiB")
    errors = [line for line in answers if line.startswith("ERROR")]
    times = [float(line.split()[1]) for line in answers if line not in errors]
    waits = f", median {statistics.median(times):.2f} s, longest {max(times):.2f} s" if times else ""
    print(f"{page}: {len(times)} answers, {len(errors)} errors{waits}; the writer met no lock error")
    for error in sorted(set(errors)):
        print(f"  {error}")
    marks = sorted(table.own)
    if not marks:
        return not errors
    first, last = table.own[marks[0]], table.own[marks[-1]]
    print(
        f"our own part with commits and mirror: {first:.1f} ms at trial {marks[0]} (allowed {ALLOWED_MS:g}), "
        f"{last:.1f} ms at trial {marks[-1]}, ratio {last / first:.2f} (allowed {ALLOWED_GROWTH:g})"
    )
    return first <= ALLOWED_MS and last <= ALLOWED_GROWTH * first and not errors


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
    parser.add_argument("--throughout", action="store_true", help="each sampler proposes every trial")
    parser.add_argument("--page", choices=PAGES, default="optuna-dashboard", help="what is open on the study meanwhile")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--server", action="store_true", help="in a PostgreSQL server that is started for it")
    place.add_argument("--storage", metavar="URL", help="in an empty PostgreSQL database of yours")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    instrument()
    genes = len(DesignSpace(TASK.backbone().n_levels).genes)
    print(f"{N_SLOTS} simulated slots, {genes} genes; {platform.machine()}, {usable_cores()} cores")
    print(f"load average while it began: {os.getloadavg()[0]:.1f}")
    print("medians in ms from a result to the next job; drawings are made after the job is handed out")
    fine = True
    for sampler in arguments.samplers.split(","):
        when = "every trial" if arguments.throughout else f"for {WINDOW} trials before each mark"
        with study_place(arguments.storage, is_on_server=arguments.server) as url:
            backend = without_secrets(parse_url(url)).partition(":")[0]
            print(f"\n{backend}, {sampler}, proposing {when}: {arguments.trials} trials, ", end="")
            print(f"{len(TASK.splits.validation)} cases each")
            table, began = Table(), time.perf_counter()
            with watched(url, arguments.page) as answers:
                run(url, sampler, arguments.trials, arguments.throughout, table)
                seconds = time.perf_counter() - began
            fine &= show(table, url, seconds, arguments.page, answers)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
