"""A crash at any statement, a trial that kills workers, a study that somebody else has touched: each trial once."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from coordinator_helpers import Bench
from executor_helpers import TASK, cpu_slots
from kill_helpers import check_whole, rows
from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial
from sqlalchemy import text
from statements import Crash, at_statements

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Outcome
from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_search.executors.base import Handler
from unetx_search.executors.inline import InlineExecutor
from unetx_search.executors.local import LocalExecutor
from unetx_search.pruners import PRUNERS
from unetx_studies.processes import this_process
from unetx_studies.ranking import Ranked
from unetx_studies.store import LeaseLost, Stage, open_store

N_TRIALS = 8
"""One trial after another: an interrupted study can be compared with one that was not."""


def story(bench: Bench) -> list[object]:
    """Everything about a study that must not depend on crashes."""
    return [
        (record.number, record.key, record.seed, str(record.origin), record.outcome, record.score)
        for record in bench.records_now
    ] + [
        (trial.number, trial.state, trial.value, trial.params, trial.intermediate_values, trial.constraints)
        for trial in bench.trials
    ]


def check_nothing_is_half(bench: Bench) -> None:
    """Whatever trial there is, is there with everything that belongs to it; a result is never there without its
    curve and its cases. Optuna has no trial that we do not have, and none with a part of its genes."""
    asked = [number for (number,) in rows(bench.where, "select number from unetx_trials order by number")]
    assert asked == list(range(len(asked)))
    mirrored = [number for (number,) in rows(bench.where, "select number from trials order by number")]
    assert mirrored == asked[: len(mirrored)]
    genes = {count for (count,) in rows(bench.where, "select count(*) from trial_params group by trial_id")}
    assert genes <= {len(bench.setup.space.genes)}
    of_trial = "where x.study = t.study and x.number = t.number"
    parts = rows(
        bench.where,
        f"select outcome, (select max(step) from unetx_curves x {of_trial}), "
        f"(select count(*) from unetx_scores x {of_trial}), (t.insight is not null) from unetx_trials t",
    )
    for outcome, last_step, n_scores, has_insight in parts:
        assert (n_scores > 0) == (outcome == "complete")
        assert bool(has_insight) == (outcome is not None)
        assert outcome != "complete" or last_step == bench.setup.budget.steps


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    bench = Bench(tmp_path_factory.mktemp("undisturbed"))
    bench.run(FakeEvaluator(), N_TRIALS, lag=1)
    return story(bench)


@pytest.mark.parametrize(
    ("server_url", "seed"),
    [*(("sqlite", seed) for seed in range(8)), *(("postgres", seed) for seed in range(3))],
    indirect=["server_url"],
)
def test_a_study_that_crashed_at_several_statements_tells_the_same_story(
    tmp_path: Path, server_url: str | None, seed: int, undisturbed: list[object]
) -> None:
    rng = random.Random(seed)
    bench = Bench(tmp_path, server_url)
    for _ in range(3):
        with (
            suppress(Crash),
            bench.open(FakeEvaluator(), N_TRIALS, lag=1) as coordinator,
            at_statements({rng.randrange(1, 500)}),
        ):
            coordinator.run()
        check_nothing_is_half(bench)
    bench.run(FakeEvaluator(), N_TRIALS, lag=1)
    assert story(bench) == undisturbed
    assert {record.stage for record in bench.records_now} == {Stage.FINISHED}


def test_a_trial_goes_on_from_its_last_checkpoint_and_its_curve_is_whole(
    tmp_path: Path, server_url: str | None
) -> None:
    bench = Bench(tmp_path, server_url)

    def crash_at_the_second_rung(trial: int, point: CurvePoint) -> bool:
        if (trial, point.step) == (1, 4):
            raise Crash
        return original(trial, point)

    with suppress(Crash), bench.open(FakeEvaluator(), 3) as coordinator:
        original = coordinator.on_rung
        coordinator.on_rung = crash_at_the_second_rung  # type: ignore[method-assign]
        coordinator.run()
    assert (bench.folder / "checkpoints" / "trial-1").exists()
    bench.notes.rungs.clear()
    bench.run(FakeEvaluator(), 3)
    assert [step for trial, step in bench.notes.rungs if trial == 1] == [4], "step 2 is not trained again"
    assert [point.step for point in bench.stored().curve(1)] == [2, 4, 6]
    assert list((bench.folder / "checkpoints").iterdir()) == []
    assert bench.records_now[1].n_starts == 2


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_trial_that_was_told_to_stop_is_told_so_again(tmp_path: Path, pruner: str) -> None:
    """The crash comes between the pruner's word and the result. Halving, asked a second time, would say another."""

    def bench_in(folder: Path) -> Bench:
        bench = Bench(folder)
        bench.pruner = lambda: PRUNERS[pruner](bench.setup.budget)
        return bench

    bench = bench_in(tmp_path / "whole")
    bench.run(FakeEvaluator(), 12)
    pruned = next(record.number for record in bench.records_now if record.outcome is Outcome.PRUNED)
    bench = bench_in(tmp_path / "again")
    with suppress(Crash), bench.open(FakeEvaluator(), 12) as coordinator:
        original = coordinator.on_finished

        def crash_at_the_end(trial: int, worker: int, evaluation: Evaluation) -> None:
            if trial == pruned:
                raise Crash
            original(trial, worker, evaluation)

        coordinator.on_finished = crash_at_the_end  # type: ignore[method-assign]
        coordinator.run()
        raise AssertionError("the trial must end")
    bench.run(FakeEvaluator(), 12)
    assert bench.records_now[pruned].outcome is Outcome.PRUNED
    assert bench.records_now[pruned].pruned_at == max(bench.trials[pruned].intermediate_values)


class Counting(BasePruner):
    """Lets every trial go on, and counts how often it was asked where."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[int, int | None]] = Counter()

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        self.asked[trial.number, trial.last_step] += 1
        return False


def test_a_trial_that_was_told_to_go_on_is_not_asked_about_again(tmp_path: Path) -> None:
    """The crash comes between the pruner's word and the checkpoint."""
    bench, pruner = Bench(tmp_path), Counting()
    bench.pruner = lambda: pruner
    with suppress(Crash), bench.open(FakeEvaluator(), 3) as coordinator:
        original = coordinator.on_rung

        def crash_behind_the_word(trial: int, point: CurvePoint) -> bool:
            original(trial, point)
            raise Crash

        coordinator.on_rung = crash_behind_the_word  # type: ignore[method-assign]
        coordinator.run()
    bench.run(FakeEvaluator(), 3)
    assert pruner.asked == Counter({(trial, step): 1 for trial in range(3) for step in (2, 4)})
    assert bench.notes.rungs.count((0, 2)) == 2, "it came there twice"


@pytest.mark.parametrize("n_deaths", [1, 2])
def test_a_job_that_killed_a_worker_is_tried_once_more_and_then_counts_as_crashed(
    tmp_path: Path, n_deaths: int
) -> None:
    calls = tmp_path / "calls"
    acts = dict.fromkeys(range(2, 2 + n_deaths), InjectedFault.SEGFAULT)
    evaluator = FakeEvaluator(acts_by_call=acts, calls_folder=calls)
    bench = Bench(tmp_path / "s")
    with LocalExecutor(evaluator, TASK, cpu_slots(1)) as executor:
        bench.executor_of = lambda _: executor
        bench.run(evaluator, 4)
    assert bench.notes.lost == [2]
    assert bench.records_now[2].n_lost == n_deaths
    record = bench.records_now[2]
    if n_deaths == 1:
        assert record.outcome is Outcome.COMPLETE
    else:
        assert record.outcome is Outcome.CRASHED
        assert "2 workers died of it; the last: worker 0 on CPU 0 was killed by SIGSEGV" in record.reason
    assert bench.records_now[3].outcome is not None
    assert len(bench.trials) == 4


class Fragile(InlineExecutor):
    """Its node dies under trial 2, three times over: the first time before the trial has begun."""

    n_gone = 0

    def poll(self, handler: Handler, timeout_s: float) -> None:
        job = self._job
        if job is None or job.trial != 2 or self.n_gone == 3:
            super().poll(handler, timeout_s)
            return
        self._job = None
        if self.n_gone > 0:
            handler.on_started(job.trial, 0, "a node", this_process())
        self.n_gone += 1
        handler.on_preempted(job.trial, f"node {self.n_gone} is gone")


def test_a_job_whose_nodes_died_is_not_to_blame_and_runs_elsewhere_under_its_number(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "s")
    bench.executor_of = lambda evaluator: Fragile(evaluator, TASK)
    bench.run(FakeEvaluator(), 4)
    assert bench.notes.lost == [2, 2, 2]
    assert (bench.records_now[2].n_lost, bench.records_now[2].n_starts) == (0, 3)
    assert bench.records_now[2].outcome is Outcome.COMPLETE
    check_whole(bench.folder, 4)


def test_a_job_that_killed_a_worker_before_a_crash_of_the_coordinator_has_one_more_try_not_two(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(
        acts_by_call={2: InjectedFault.EXIT, 3: InjectedFault.EXIT}, calls_folder=tmp_path / "calls"
    )
    bench = Bench(tmp_path / "s")
    with LocalExecutor(evaluator, TASK, cpu_slots(1)) as executor:
        bench.executor_of = lambda _: executor
        with suppress(Crash), bench.open(evaluator, 4) as coordinator:
            bench.notes.trial_lost = _crash  # type: ignore[method-assign]
            coordinator.run()
    bench.notes.trial_lost = lambda trial, reason: None  # type: ignore[method-assign]
    with LocalExecutor(evaluator, TASK, cpu_slots(1)) as executor:
        bench.executor_of = lambda _: executor
        bench.run(evaluator, 4)
    assert bench.records_now[2].outcome is Outcome.CRASHED
    assert bench.records_now[2].n_starts == 2


def _crash(trial: int, reason: str) -> None:
    raise Crash


def test_a_run_that_lost_its_lease_writes_nothing_more(tmp_path: Path, server_url: str | None) -> None:
    bench = Bench(tmp_path, server_url)
    finish = bench.notes.trial_finished

    def lose_the_lease(trial: int, evaluation: Evaluation, best: Ranked | None, is_best: bool) -> None:
        finish(trial, evaluation, best, is_best)
        if trial == 2:
            with open_store(bench.url, create=False) as store, store.writing() as session:
                other = "insert into unetx_runs select 'other', study, process, n_trials, started_at, seen_at, null, ''"
                session.execute(text(other + " from unetx_runs"))
                session.execute(text("update unetx_studies set holder = 'other'"))
            bench.lease.renewed_at = bench.lease.renewed_at.replace(year=2000)  # silent for long

    bench.notes.trial_finished = lose_the_lease  # type: ignore[method-assign]
    with pytest.raises(LeaseLost, match="taken the study 's' over"):
        bench.run(FakeEvaluator(), 6)
    assert [record.number for record in bench.stored().trials()] == [0, 1, 2]
