"""How a study stands, as another process sees it: before, while and after it runs, and when its run has died."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from coordinator_helpers import Bench
from executor_helpers import TASK, cpu_slots
from sqlalchemy import text

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Outcome
from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_search.executors.local import LocalExecutor
from unetx_search.progress import WORKERS, WorkersFile, WorkerState
from unetx_search.status import decisions_text, read_status, status_json, status_text
from unetx_space.errors import RequestError
from unetx_studies.ranking import Ranked
from unetx_studies.store import open_store, study_url

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)


def now() -> datetime:
    return NOW


class Stop(BaseException):
    """Leaves a run in its middle."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "s")


def test_a_study_that_runs_is_told_with_its_workers_steps_and_scores(bench: Bench) -> None:
    found = []

    def look(trial: int, point: CurvePoint) -> None:
        if (trial, point.step) == (2, 4):
            WorkersFile(bench.folder / WORKERS).write({0: WorkerState("CPU 0", 2, "random", step=4, score=point.score)})
            found.append(read_status(bench.folder, clock=now))
            raise Stop

    bench.notes.trial_rung = look  # type: ignore[method-assign]
    with suppress(Stop):
        bench.run(FakeEvaluator(), 6)
    [status] = found
    assert status.is_running
    told = status_text(status)
    assert told.startswith("s: running for ")
    assert f"as {bench.lease.run.process} (run {bench.lease.run.id[:8]})" in told
    assert "trials     2 of 6 (2 complete)" in told
    assert "worker 0   this process: trial 2, step 4, Dice" in told
    assert "best       trial 0: Dice estimated at 0." in told
    assert "; measured 0.8" in told
    assert "worker-N.log" in told
    facts = json.loads(status_json(status))
    assert (facts["n_finished"], facts["n_trials"], facts["best_trial"], facts["is_running"]) == (2, 6, 0, True)
    [job] = facts["jobs"]
    assert (job["trial"], job["state"], job["step"], job["starts"]) == (2, "running", 4, 1)
    assert [decision["trial"] for decision in facts["decisions"]] == [0, 1, 2]


def test_a_run_that_died_is_told_as_such_and_its_trials_wait(bench: Bench) -> None:
    bench.notes.trial_rung = _stop  # type: ignore[method-assign]
    with suppress(Stop):
        bench.run(FakeEvaluator(), 3)
    with open_store(bench.url, create=False) as store, store.writing() as session:  # as after a SIGKILL
        session.execute(text("update unetx_runs set process = json_set(process, '$.began', 1), ended_at = null"))
        session.execute(text("update unetx_studies set holder = (select id from unetx_runs)"))
    status = read_status(bench.folder, clock=now)
    assert not status.is_running
    assert "died; run the same command to continue" in status_text(status)
    assert "waiting    trial 0, to be run again under its number" in status_text(status)


def _stop(trial: int, point: CurvePoint) -> None:
    raise Stop


def test_a_run_on_another_machine_runs_as_long_as_its_heart_beats(bench: Bench) -> None:
    bench.notes.trial_rung = _stop  # type: ignore[method-assign]
    with suppress(Stop):
        bench.run(FakeEvaluator(), 3)
    with open_store(bench.url, create=False) as store, store.writing() as session:
        session.execute(text("update unetx_runs set process = json_set(process, '$.host', 'x'), ended_at = null"))
    seen_at = read_status(bench.folder).run.seen_at
    for seconds, is_running in ((100, True), (121, False)):
        later = seen_at + timedelta(seconds=seconds)
        assert read_status(bench.folder, clock=lambda later=later: later).is_running is is_running  # type: ignore[misc]


def test_a_complete_study_an_ended_one_and_a_failed_one_are_told_apart(bench: Bench, tmp_path: Path) -> None:
    bench.run(FakeEvaluator(), 3)
    assert status_text(read_status(bench.folder)).startswith("s: complete\n")
    stopped = Bench(tmp_path / "stopped")
    with stopped.open(FakeEvaluator(), 5) as coordinator:
        finish = stopped.notes.trial_finished

        def stop(trial: int, evaluation: Evaluation, best: Ranked | None, is_best: bool) -> None:
            finish(trial, evaluation, best, is_best)
            coordinator.stop()

        stopped.notes.trial_finished = stop  # type: ignore[method-assign]
        coordinator.run()
    assert "stopped in order; run the same command" in status_text(read_status(stopped.folder))
    failed = Bench(tmp_path / "failed")
    broken = FakeEvaluator(acts_by_call=dict.fromkeys(range(9), Outcome.DATA_ERROR), calls_folder=tmp_path / "calls")
    with suppress(Exception):
        failed.run(broken, 9)
    told = status_text(read_status(failed.folder))
    assert "stopped: SearchFailed: the first 5 evaluations" in told
    assert "ended as data-error: data-error on request" in told


def test_workers_that_died_are_told_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    evaluator = FakeEvaluator(acts_by_call={2: InjectedFault.SEGFAULT}, calls_folder=tmp_path / "calls")
    seen: list[str] = []
    bench.notes.trial_lost = lambda trial, reason: seen.append(status_text(read_status(bench.folder, clock=now)))  # type: ignore[method-assign]
    with LocalExecutor(evaluator, TASK, cpu_slots(1)) as executor:
        bench.executor_of = lambda _: executor
        bench.run(evaluator, 4)
    [told] = seen
    assert "waiting    trial 2, to be run again under its number; worker 0 on CPU 0 was killed by SIGSEGV" in told


def test_decisions_are_one_line_a_trial(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 8, reseed=0.0)
    lines = decisions_text(read_status(bench.folder)).splitlines()
    assert len(lines) == 8
    assert lines[0].endswith("preset u-net: given, not proposed")
    assert lines[2].endswith("drawn at random; it saw 2 finished trials")
    assert "proposed by the sampler" in lines[6]


def test_reading_writes_nothing(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 3)
    before = {path: path.read_bytes() for path in bench.folder.rglob("*") if path.is_file()}
    status_json(read_status(bench.folder))
    assert {path: path.read_bytes() for path in bench.folder.rglob("*") if path.is_file()} == before


def test_a_folder_without_a_study_is_refused_and_one_without_trials_too(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no study"):
        read_status(tmp_path)
    with open_store(study_url(tmp_path), create=True):
        pass
    with pytest.raises(RequestError, match="none that has begun a trial"):
        read_status(tmp_path)


def test_what_workers_do_is_written_once_a_second_and_comes_back(tmp_path: Path) -> None:
    now_s = [0.0]
    file = WorkersFile(tmp_path / WORKERS, clock=lambda: now_s[0])
    state = WorkerState("GPU 0: x", 3, "random", step=7, score=0.5)
    assert WorkersFile.read(tmp_path / WORKERS) == {}
    file.write({1: state})
    file.write({1: replace(state, step=8)})
    assert WorkersFile.read(tmp_path / WORKERS) == {1: state}
    now_s[0] = 1.0
    file.write({1: replace(state, step=9)})
    assert WorkersFile.read(tmp_path / WORKERS)[1].step == 9


def test_trainings_that_ran_without_a_graph_are_counted_with_the_reason_of_most(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(FakeEvaluator(), 1)
    assert "no graph" not in status_text(read_status(bench.folder)), "a CPU has no choice"
    for n_trials, steps in ((2, "graph"), (3, "eager: too little memory"), (5, "eager: it waits")):
        monkeypatch.setenv("steps", steps)
        bench.run(FakeEvaluator(shown_variables=("steps",)), n_trials)
    status = read_status(bench.folder)
    assert "  no graph   in 3 of 4 trainings on GPUs, which were slower: it waits" in status_text(status)
    counts = {"graph": 1, "eager: too little memory": 1, "eager: it waits": 2}
    assert json.loads(status_json(status))["steps_run_as"] == counts
