"""Whatever a worker meets is a typed outcome, and the study goes on; a full disk stops it with a word instead."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from coordinator_helpers import Bench
from executor_helpers import TASK, Recorder, cpu_slots, job, poll_until
from kill_helpers import check_whole
from sqlalchemy import text

from unetx_evaluators.evaluation import Outcome
from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_search.executors.inline import InlineExecutor
from unetx_search.executors.local import LocalExecutor
from unetx_space.errors import UnetxError
from unetx_studies.store import Stage, StorageFull, open_store

IMPATIENT = 0.05

pytestmark = pytest.mark.timeout(300)


def run_with(bench: Bench, evaluator: FakeEvaluator, n_trials: int, n_workers: int = 1) -> None:
    with LocalExecutor(evaluator, TASK, cpu_slots(n_workers), overtime_s=0.2) as executor:
        bench.executor_of = lambda _: executor
        bench.run(evaluator, n_trials)


def test_every_fault_of_a_worker_is_a_typed_outcome_while_the_study_goes_on(tmp_path: Path) -> None:
    acts = {
        2: InjectedFault.ALLOCATE,
        3: InjectedFault.RAISE_UNPICKLABLE,
        4: InjectedFault.HANG,
        5: InjectedFault.SEGFAULT,
        6: InjectedFault.SEGFAULT,  # the same trial, on its second worker
        7: InjectedFault.RETURN_UNPICKLABLE,
        8: InjectedFault.HANG_IN_C,
        9: InjectedFault.KILL,  # and the trial goes well at its second try
    }
    bench = Bench(tmp_path / "s")
    bench.setup = replace(bench.setup, budget=replace(bench.setup.budget, max_seconds=1.0))
    run_with(bench, FakeEvaluator(acts_by_call=acts, calls_folder=tmp_path / "calls"), 10)
    outcomes = [record.outcome for record in bench.records_now]
    expected = [
        Outcome.OUT_OF_MEMORY,
        Outcome.CRASHED,
        Outcome.TIMED_OUT,
        Outcome.CRASHED,
        Outcome.CRASHED,
        Outcome.TIMED_OUT,
    ]
    assert outcomes[2:8] == expected
    assert {*outcomes[:2], *outcomes[8:]} <= {Outcome.COMPLETE, Outcome.PRUNED}
    reasons = [record.reason for record in bench.records_now[2:8]]
    for reason, words in zip(
        reasons, ("MemoryError", "UnpicklableError", "hung", "SIGSEGV", "cannot be pickled", "hung"), strict=True
    ):
        assert words in reason
    assert [job.n_lost for job in bench.records_now] == [0, 0, 0, 0, 0, 2, 0, 0, 1, 0]


def test_a_device_that_dies_under_a_trial_costs_it_a_try_and_not_the_study(tmp_path: Path) -> None:
    """The context answers every later evaluation of its process with the same error, which ends in milliseconds."""
    acts = {2: InjectedFault.DEVICE_ASSERT, 5: InjectedFault.DEVICE_GONE}
    bench = Bench(tmp_path / "s")
    run_with(bench, FakeEvaluator(acts_by_call=acts, calls_folder=tmp_path / "calls"), 8, 2)
    assert {record.outcome for record in bench.records_now} <= {Outcome.COMPLETE, Outcome.PRUNED}
    assert sum(record.n_lost for record in bench.records_now) == 1, (
        "by the assert; a device that goes is nobody's fault"
    )
    assert sum(record.n_starts for record in bench.records_now) == 8 + 2
    assert len(bench.notes.lost) == 2


def test_a_design_that_kills_its_device_again_and_again_crashes_alone(tmp_path: Path) -> None:
    acts = {2: InjectedFault.DEVICE_ASSERT, 3: InjectedFault.DEVICE_ASSERT}
    bench = Bench(tmp_path / "s")
    run_with(bench, FakeEvaluator(acts_by_call=acts, calls_folder=tmp_path / "calls"), 5)
    failed = [record for record in bench.records_now if record.outcome is Outcome.CRASHED]
    assert [(record.number, record.n_lost) for record in failed] == [(2, 2)]
    assert failed[0].reason.startswith("2 workers died of it; the last: worker 0 on CPU 0 lost its device: CUDA error")


def test_a_study_whose_last_device_has_gone_stops_with_a_word_and_can_go_on(tmp_path: Path) -> None:
    acts = {2: InjectedFault.DEVICE_GONE, 3: InjectedFault.DEVICE_GONE}
    bench = Bench(tmp_path / "s")
    evaluator = FakeEvaluator(acts_by_call=acts, calls_folder=tmp_path / "calls")
    with pytest.raises(UnetxError, match=r"the last of 1 slots is given up.*no CUDA-capable device is detected"):
        run_with(bench, evaluator, 5)
    assert [record.is_finished for record in bench.stored().trials()] == [True, True, False]
    assert [record.n_lost for record in bench.stored().trials()] == [0, 0, 0]
    run_with(bench, evaluator, 5)
    check_whole(tmp_path / "s", 5)


def test_a_worker_that_cannot_write_leaves_its_job_and_stops_the_run_with_a_word(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(acts_by_call={2: InjectedFault.FULL_DISK}, calls_folder=tmp_path / "calls")
    bench = Bench(tmp_path / "s")
    with pytest.raises(StorageFull, match=r"the disk that holds .*trial-2 is full.*run the same command again"):
        run_with(bench, evaluator, 4)
    assert [record.is_finished for record in bench.stored().trials()] == [True, True, False]
    run_with(bench, evaluator, 4)
    check_whole(tmp_path / "s", 4)


@pytest.mark.parametrize("make", ["inline", "local"])
def test_a_full_disk_is_no_failure_of_the_design_in_any_executor(make: str) -> None:
    evaluator = FakeEvaluator(acts_by_seed={0: InjectedFault.FULL_DISK})
    told = Recorder()
    with (
        InlineExecutor(evaluator, TASK) if make == "inline" else LocalExecutor(evaluator, TASK, cpu_slots(1))
    ) as executor:
        executor.submit(job(0))
        with pytest.raises(StorageFull):
            poll_until(executor, told, lambda: False)
        assert (told.finished, told.lost) == ({}, {})
        assert executor.n_free() == 1


def test_a_database_that_cannot_grow_stops_the_run_and_goes_on_after_room_was_made(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def leave_no_room(trial: int, evaluation: object, best: object, is_best: bool) -> None:
        if trial == 3:
            with bench.store.writing() as connection:
                connection.execute(text("pragma max_page_count = 1"))  # as many as there are already

    bench.notes.trial_finished = leave_no_room  # type: ignore[method-assign]
    with pytest.raises(StorageFull, match=r"the disk that holds .*study\.db is full"):
        bench.run(FakeEvaluator(), 60)
    kept = [record for record in bench.stored().trials() if record.is_finished]
    assert len(kept) >= 4
    bench.notes.trial_finished = lambda trial, evaluation, best, is_best: None  # type: ignore[method-assign]
    bench.run(FakeEvaluator(), len(kept) + 3)
    assert [record for record in bench.records_now if record.number in {k.number for k in kept}] == kept
    check_whole(tmp_path, len(kept) + 3)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A filesystem of its own in memory; skips where that is not permitted."""
    folder.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True, text=True
        )
    except OSError as error:
        pytest.skip(f"no way to mount a small disk: {error}")
    if done.returncode != 0:
        pytest.skip(f"mounting a small disk is not permitted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_the_run_with_a_word_and_the_study_goes_on_after_room_was_made(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(os.urandom(1_200_000))
        bench = Bench(disk / "s")
        with pytest.raises(StorageFull, match="is full"):
            bench.run(FakeEvaluator(), 300)
        ballast.unlink()
        kept = [record for record in bench.stored().trials() if record.is_finished]
        assert kept
        bench.run(FakeEvaluator(), len(kept) + 5)
        assert [record for record in bench.records_now if record.number in {k.number for k in kept}] == kept
        check_whole(disk / "s", len(kept) + 5)
        assert {job.stage for job in bench.records_now} == {Stage.FINISHED}
        with open_store(bench.url, create=False, read_only=True) as store, store.reading() as session:
            assert session.scalar(text("pragma integrity_check")) == "ok"
