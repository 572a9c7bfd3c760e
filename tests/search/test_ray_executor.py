"""What workers on a Ray cluster see, survive and leave behind. The contract of all executors: test_executors.py."""

from __future__ import annotations

import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coordinator_helpers import Bench
from executor_helpers import LONG, TASK, Recorder, job, poll_until, run_all
from kill_helpers import check_whole
from ray_helpers import SMALL, cluster, is_running, keepers, kill_node, parent, wait_until

from unetx_evaluators.evaluation import Budget, CurvePoint, Outcome
from unetx_evaluators.fake import FakeEvaluator, Misdeed
from unetx_search.book import utc_now
from unetx_search.executors.ray.reach import Reach
from unetx_search.executors.slots import Slot
from unetx_space.errors import UnetxError
from unetx_studies.disk_full import StorageFull

pytest.importorskip("ray", reason='needs Ray: pip install "unetx-search[ray]"')

from unetx_search.executors.ray import far_seat
from unetx_search.executors.ray.cluster import cluster_slots, connected
from unetx_search.executors.ray.executor import Patience, RayExecutor

pytestmark = pytest.mark.timeout(300)

NODE = {"num_cpus": 2, "num_gpus": 2}
QUICK = Patience(start_s=60.0, verdict_s=0.2)


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    """Four CPUs and four pretended GPUs on two nodes, beside a head without any; this process is connected."""
    with cluster({"num_cpus": 0}, NODE, NODE) as made, connected(made.address):
        yield made


def cpu_seats(n_workers: int) -> tuple[Slot, ...]:
    import ray

    with connected(None) as nodes:
        assert ray.is_initialized()
        return cluster_slots(nodes, 0, cpu_workers=n_workers)


def gpu_seats(workers_per_gpu: int = 1) -> tuple[Slot, ...]:
    with connected(None) as nodes:
        return cluster_slots(nodes, "all", workers_per_gpu=workers_per_gpu)


def test_each_of_four_workers_on_two_nodes_has_a_gpu_of_its_own(two_nodes: Any) -> None:
    shown = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS")
    with RayExecutor(FakeEvaluator(shown_variables=shown, seconds_per_step=0.05), TASK, gpu_seats()) as executor:
        assert executor.n_free() == executor.n_slots == 4
        told = run_all(executor, [job(trial) for trial in range(4)])
    seen = [told.finished[trial].versions for trial in range(4)]
    assert Counter(facts["CUDA_VISIBLE_DEVICES"] for facts in seen) == {"0": 2, "1": 2}, "each node counts from 0"
    assert {(facts["CUDA_DEVICE_ORDER"], facts["OMP_NUM_THREADS"]) for facts in seen} == {("PCI_BUS_ID", "1")}
    assert {facts["torch"] for facts in seen} == {"absent"}
    assert len({facts["pid"] for facts in seen}) == 4
    assert sorted(told.workers.values()) == [0, 1, 2, 3]
    assert all(label.startswith("GPU ") and " on " in label for _, label in told.started.values())


@pytest.mark.slow
def test_workers_share_a_gpu_in_fractions(two_nodes: Any) -> None:
    evaluator = FakeEvaluator(shown_variables=("CUDA_VISIBLE_DEVICES",), seconds_per_step=0.05)
    seats = gpu_seats(workers_per_gpu=3)[:6]
    with RayExecutor(evaluator, TASK, seats, workers_per_gpu=3) as executor:
        told = run_all(executor, [job(trial) for trial in range(6)])
    assert sorted(told.workers.values()) == [0, 1, 2, 3, 4, 5]
    assert {told.finished[trial].versions["CUDA_VISIBLE_DEVICES"] for trial in range(6)} <= {"0", "1"}


@pytest.mark.parametrize(
    ("misdeed", "words"),
    [
        (Misdeed.SEGFAULT, "was killed by SIGSEGV"),
        pytest.param(Misdeed.EXIT, "exited with code 3", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_dies_under_a_job_loses_it_with_the_same_words_as_on_one_machine(
    two_nodes: Any, tmp_path: Path, misdeed: Misdeed, words: str
) -> None:
    evaluator = FakeEvaluator(acts_by_seed={1: misdeed}, act_after_step=3)
    with RayExecutor(evaluator, TASK, cpu_seats(1), log_folder=tmp_path / "logs") as executor:
        told = run_all(executor, [job(0), job(1, seed=1), job(2)])
    crash = told.lost[1]
    assert (crash.outcome, sorted(told.finished)) == (Outcome.CRASHED, [0, 2])
    assert words in crash.reason
    assert "worker 0 on CPU on" in crash.reason
    assert str(tmp_path / "logs" / "worker-0.log") in crash.reason
    assert ([point.step for point in crash.curve], crash.score) == ([2], crash.curve[0].score)
    if misdeed is Misdeed.SEGFAULT:
        assert "Segmentation fault" in (tmp_path / "logs" / "worker-0.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("misdeed", [Misdeed.HANG_IN_C, pytest.param(Misdeed.HANG, marks=pytest.mark.slow)])
def test_a_worker_that_hangs_past_its_limit_is_timed_out_and_replaced(two_nodes: Any, misdeed: Misdeed) -> None:
    impatient = Budget(steps=1, batch_size=1, width_factor=1.0, rungs=(1,), validation_cases=1, max_seconds=0.05)
    evaluator = FakeEvaluator(acts_by_seed={1: misdeed})
    with RayExecutor(evaluator, TASK, cpu_seats(1), overtime_s=0.1) as executor:
        told = run_all(executor, [job(0, budget=impatient, seed=1), job(1)])
    assert told.finished[0].outcome is Outcome.TIMED_OUT
    assert "hung: still running after its 0.05 s and 0.1 s more" in told.finished[0].reason
    assert told.finished[1].outcome is Outcome.COMPLETE


def test_a_full_disk_is_no_failure_of_the_design(two_nodes: Any) -> None:
    told = Recorder()
    with RayExecutor(FakeEvaluator(acts_by_seed={0: Misdeed.FULL_DISK}), TASK, cpu_seats(1)) as executor:
        executor.submit(job(0))
        with pytest.raises(StorageFull):
            poll_until(executor, told, lambda: False)
        assert (told.interrupted, told.finished, executor.n_free()) == ([0], {}, 1)


def test_close_leaves_no_process_even_of_workers_that_cannot_hear(two_nodes: Any) -> None:
    told = Recorder()
    with RayExecutor(FakeEvaluator(acts_by_seed={0: Misdeed.HANG_IN_C}), TASK, cpu_seats(2)) as executor:
        for trial in range(2):
            executor.submit(job(trial, budget=LONG))
        poll_until(executor, told, lambda: len(told.started) == 2)
        at_work = keepers()
        executor.close(timeout_s=0.1)
        executor.close()
    assert len(at_work) == 2
    wait_until(lambda: not any(map(is_running, [*told.processes.values(), *at_work])))
    assert told.n_ended == 0


def test_an_actor_that_dies_on_a_node_that_lives_loses_its_job_and_its_worker_ends_with_it(two_nodes: Any) -> None:
    told = Recorder()
    evaluator = FakeEvaluator(seconds_per_step=0.01)
    with RayExecutor(evaluator, TASK, cpu_seats(1), patience=QUICK) as executor:
        executor.submit(job(0, budget=LONG))
        poll_until(executor, told, lambda: 0 in told.steps)
        [keeper] = keepers()
        os.kill(keeper, signal.SIGKILL)
        poll_until(executor, told, lambda: told.n_ended == 1)
        wait_until(lambda: not is_running(told.processes[0]))
        run_all(executor, [job(1)], told)
    assert told.lost[0].outcome is Outcome.CRASHED
    assert "its Ray actor died: The actor is dead because its worker process has died" in told.lost[0].reason
    assert "Some common causes" not in told.lost[0].reason
    assert told.finished[1].outcome is Outcome.COMPLETE


def test_an_actor_that_dies_after_an_interrupt_leaves_its_job_to_be_run_again(two_nodes: Any) -> None:
    told = Recorder()
    with RayExecutor(FakeEvaluator(acts_by_seed={0: Misdeed.HANG}), TASK, cpu_seats(1), patience=QUICK) as executor:
        executor.submit(job(0))
        poll_until(executor, told, lambda: 0 in told.started)
        executor.interrupt()
        os.kill(keepers()[0], signal.SIGKILL)
        poll_until(executor, told, lambda: told.n_ended == 1)
    assert (told.interrupted, told.lost, told.displaced) == ([0], {}, {})


def test_a_worker_that_sees_other_arrays_is_refused_before_any_job(
    two_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator claims an array that is not there, as if it lay on a disk of its own."""
    claimed = replace(Reach.of(TASK, tmp_path / "checkpoints"), sizes={"images/a.npy": 7}, arrays=tmp_path)
    monkeypatch.setattr(Reach, "of", classmethod(lambda cls, task, checkpoints: claimed))
    with pytest.raises(UnetxError, match=r"reads the prepared task in .*images/a\.npy is not to be had.*--cache"):
        RayExecutor(FakeEvaluator(), TASK, cpu_seats(1))
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_a_node_that_joins_without_the_files_is_left_out_while_the_others_work(
    two_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its disk is mounted late: the word of the run is not there when its worker looks, and then it is."""
    monkeypatch.setattr(far_seat, "LEFT_OUT_S", 0.5)
    told = Recorder()
    evaluator = FakeEvaluator(seconds_per_step=0.01)
    with RayExecutor(evaluator, TASK, cpu_seats(2), checkpoints=tmp_path, patience=QUICK) as executor:
        executor.submit(job(0, budget=LONG))
        poll_until(executor, told, lambda: 0 in told.steps)
        [question] = tmp_path.glob("*.asked")
        question.rename(tmp_path / "aside")
        idle = next(pid for pid in keepers() if pid != parent(told.processes[0]))
        os.kill(idle, signal.SIGKILL)
        poll_until(executor, told, lambda: "is tried again" in caplog.text)
        (tmp_path / "aside").rename(question)
        poll_until(executor, told, lambda: executor.n_free() == 1)
        run_all(executor, [job(1)], told)
    assert "that folder is not the coordinator's" in caplog.text
    assert (sorted(told.finished), told.n_ended) == ([1], 1)


@pytest.mark.slow
def test_workers_that_cannot_load_the_evaluator_are_a_clear_error_and_no_loop(two_nodes: Any) -> None:
    from test_executor_processes import FailsWhenUnpickled

    told = Recorder()
    with RayExecutor(FailsWhenUnpickled(), TASK, cpu_seats(1)) as executor:
        executor.submit(job(0))
        with pytest.raises(UnetxError, match="3 times in a row") as caught:
            poll_until(executor, told, lambda: told.n_ended > 0)
    assert "No module named 'no_such_module_anywhere'" in str(caught.value)


@pytest.mark.slow
def test_seats_without_room_do_not_block_the_others_and_nobody_waits_for_ever(
    two_nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seats = cpu_seats(4)
    with (
        RayExecutor(FakeEvaluator(seconds_per_step=0.01), TASK, seats[:3]),
        RayExecutor(FakeEvaluator(), TASK, seats[:2], patience=Patience(start_s=5.0)) as second,
    ):
        assert second.n_free() == 1
        assert "1 of 2 workers are up; the others join as soon as Ray finds room for them" in caplog.text
        assert sorted(run_all(second, [job(trial) for trial in range(3)]).finished) == [0, 1, 2]
        with pytest.raises(UnetxError, match=r"in 1 s it found none for any of 1.*0 are free|in 1 s it found none"):
            RayExecutor(FakeEvaluator(), TASK, seats[:1], patience=Patience(start_s=1.0))


def test_a_node_that_dies_takes_no_job_with_it_and_its_seats_come_back_with_a_new_one(
    two_nodes: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole cycle on one study: four workers, a node dies under two of them, another joins."""
    bench = Bench(tmp_path / "s")
    bench.clock = utc_now
    evaluator = FakeEvaluator(seconds_per_step=0.02, calls_folder=tmp_path / "calls")
    rungs = 0

    def kill_a_node_at_the_tenth_rung(trial: int, point: CurvePoint) -> None:
        nonlocal rungs
        rungs += 1
        if rungs == 10:
            kill_node(two_nodes, next(iter(two_nodes.worker_nodes)))

    def let_another_join(trial: int, reason: str) -> None:
        bench.notes.lost.append(trial)
        if len(bench.notes.lost) == 1:
            two_nodes.add_node(**{**SMALL, **NODE})

    bench.notes.trial_rung = kill_a_node_at_the_tenth_rung  # type: ignore[method-assign]
    bench.notes.trial_lost = let_another_join  # type: ignore[method-assign]
    with RayExecutor(evaluator, TASK, cpu_seats(4)) as executor:
        bench.executor_of = lambda _: executor
        bench.run(evaluator, 24)
        told = Recorder()
        poll_until(executor, told, lambda: executor.n_free() == 4)
    check_whole(tmp_path / "s", 24)
    assert bench.notes.lost, "some trial was under way on the node"
    assert {job.n_lost for job in bench.records_now} == {0}, "no trial is to blame"
    assert max(job.n_starts for job in bench.records_now) <= 2
    assert {record.outcome for record in bench.records_now} <= {Outcome.COMPLETE, Outcome.PRUNED}


@pytest.mark.slow
def test_when_the_last_node_is_gone_the_run_waits_and_then_ends_with_a_word(
    two_nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told = Recorder()
    patience = Patience(lonely_s=1.0)
    evaluator = FakeEvaluator(seconds_per_step=0.01)
    node = two_nodes.add_node(num_cpus=1, resources={"alone": 1}, **SMALL)
    with RayExecutor(evaluator, TASK, cpu_seats(5), patience=patience) as executor:
        for trial in range(5):
            executor.submit(job(trial, budget=LONG))
        poll_until(executor, told, lambda: len(told.steps) == 5)
        for gone in (node, *two_nodes.worker_nodes.copy()):
            if gone in two_nodes.worker_nodes:
                kill_node(two_nodes, gone)
        with caplog.at_level(logging.WARNING), pytest.raises(UnetxError, match="all 5 were lost and for 1 s"):
            poll_until(executor, told, lambda: False)
        assert sorted(told.displaced) == [0, 1, 2, 3, 4]
        assert "no worker is left" in caplog.text
    for _ in range(2):
        two_nodes.add_node(**{**SMALL, **NODE})
