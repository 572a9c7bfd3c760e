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

import psutil
import pytest
from coordinator_helpers import Bench
from executor_helpers import LONG, TASK, Recorder, is_running, job, poll_until, run_all, wait_until
from kill_helpers import check_whole
from ray_helpers import SMALL, actors, cluster, kill_node

from unetx_evaluators.evaluation import CurvePoint, Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_search.executors import supervisor
from unetx_search.executors.slots import Slot
from unetx_space.errors import UnetxError
from unetx_studies.store import utc_now

pytest.importorskip("ray", reason='needs Ray: pip install "unetx-search[ray]"')

from unetx_search.executors.ray.cluster import cluster_slots, connected
from unetx_search.executors.ray.executor import RayExecutor
from unetx_search.executors.shared_files_check import SharedFilesCheck

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

NODE = {"num_cpus": 2, "num_gpus": 2}


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    """Four CPUs and four pretended GPUs on two nodes, beside a head without any; this process is connected."""
    with cluster({"num_cpus": 0}, NODE, NODE) as made, connected(made.address):
        yield made


def cpu_workers(n_workers: int) -> tuple[Slot, ...]:
    import ray

    with connected(None) as nodes:
        assert ray.is_initialized()
        return cluster_slots(nodes, 0, cpu_workers=n_workers)


def gpu_workers(workers_per_gpu: int = 1) -> tuple[Slot, ...]:
    with connected(None) as nodes:
        return cluster_slots(nodes, "all", workers_per_gpu=workers_per_gpu)


def test_each_of_four_workers_on_two_nodes_has_a_gpu_of_its_own(two_nodes: Any) -> None:
    shown = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS")
    with RayExecutor(FakeEvaluator(shown_variables=shown, seconds_per_step=0.05), TASK, gpu_workers()) as executor:
        assert executor.n_free() == executor.n_slots == 4
        told = run_all(executor, [job(trial) for trial in range(4)])
    seen = [told.finished[trial].versions for trial in range(4)]
    assert Counter(facts["CUDA_VISIBLE_DEVICES"] for facts in seen) == {"0": 2, "1": 2}, "each node counts from 0"
    assert {(facts["CUDA_DEVICE_ORDER"], facts["OMP_NUM_THREADS"]) for facts in seen} == {("PCI_BUS_ID", "1")}
    assert {facts["torch"] for facts in seen} == {"absent"}
    assert len({facts["pid"] for facts in seen}) == 4
    assert sorted(told.workers.values()) == [0, 1, 2, 3]
    assert all(label.startswith("GPU ") and " on " in label for _, label in told.started.values())


def test_workers_share_a_gpu_in_fractions(two_nodes: Any) -> None:
    evaluator = FakeEvaluator(shown_variables=("CUDA_VISIBLE_DEVICES",), seconds_per_step=0.05)
    slots = gpu_workers(workers_per_gpu=3)[:6]
    with RayExecutor(evaluator, TASK, slots, workers_per_gpu=3) as executor:
        told = run_all(executor, [job(trial) for trial in range(6)])
    assert sorted(told.workers.values()) == [0, 1, 2, 3, 4, 5]
    assert {told.finished[trial].versions["CUDA_VISIBLE_DEVICES"] for trial in range(6)} <= {"0", "1"}


def test_an_actor_that_dies_on_a_node_that_lives_preempts_its_job_and_its_worker_ends_with_it(two_nodes: Any) -> None:
    told = Recorder()
    evaluator = FakeEvaluator(seconds_per_step=0.01)
    with RayExecutor(evaluator, TASK, cpu_workers(1)) as executor:
        executor.submit(job(0, budget=LONG))
        poll_until(executor, told, lambda: 0 in told.steps)
        [actor] = actors()
        os.kill(actor, signal.SIGKILL)
        poll_until(executor, told, lambda: told.n_ended == 1)
        wait_until(lambda: not is_running(told.processes[0]))
        run_all(executor, [job(1)], told)
    assert "was lost (The actor is dead because its worker process has died" in told.preempted[0]
    assert "Some common causes" not in told.preempted[0]
    assert (told.lost, told.n_ended, told.finished[1].outcome) == ({}, 2, Outcome.COMPLETE)


def test_a_worker_that_sees_other_arrays_is_refused_before_any_job(
    two_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator claims an array that is not there, as if it lay on a disk of its own."""
    claimed = replace(SharedFilesCheck.of(TASK, tmp_path / "checkpoints"), sizes={"images/a.npy": 7}, arrays=tmp_path)
    monkeypatch.setattr(SharedFilesCheck, "of", classmethod(lambda cls, task, checkpoints: claimed))
    with pytest.raises(UnetxError, match=r"reads the prepared task in .*images/a\.npy is not to be had.*--cache"):
        RayExecutor(FakeEvaluator(), TASK, cpu_workers(1))
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_node_that_joins_without_the_files_is_left_out_while_the_others_work(
    two_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its disk is mounted late: the word of the run is not there when its worker looks, and then it is."""
    monkeypatch.setattr(supervisor, "UNFIT_S", 0.5)
    told = Recorder()
    evaluator = FakeEvaluator(seconds_per_step=0.01)
    with RayExecutor(evaluator, TASK, cpu_workers(2), checkpoints=tmp_path) as executor:
        executor.submit(job(0, budget=LONG))
        poll_until(executor, told, lambda: 0 in told.steps)
        [question] = tmp_path.glob("*.asked")
        question.rename(tmp_path / "aside")
        idle = next(pid for pid in actors() if pid != psutil.Process(told.processes[0]).ppid())
        os.kill(idle, signal.SIGKILL)
        poll_until(executor, told, lambda: "is tried again" in caplog.text)
        (tmp_path / "aside").rename(question)
        poll_until(executor, told, lambda: executor.n_free() == 1)
        run_all(executor, [job(1)], told)
    assert "that folder is not the coordinator's" in caplog.text
    assert (sorted(told.finished), told.n_ended) == ([1], 1)


def test_slots_without_room_do_not_block_the_others_and_nobody_waits_for_ever(
    two_nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    slots = cpu_workers(4)
    with (
        RayExecutor(FakeEvaluator(seconds_per_step=0.01), TASK, slots[:3]),
        RayExecutor(FakeEvaluator(), TASK, slots[:2], start_timeout_s=5.0) as second,
    ):
        assert second.n_free() == 1
        assert "1 of 2 workers are up; the others join as soon as Ray finds room for them" in caplog.text
        assert sorted(run_all(second, [job(trial) for trial in range(3)]).finished) == [0, 1, 2]
        with pytest.raises(UnetxError, match=r"in 1 s it found none for any of 1.*0 are free|in 1 s it found none"):
            RayExecutor(FakeEvaluator(), TASK, slots[:1], start_timeout_s=1.0)


def test_a_node_that_dies_takes_no_job_with_it_and_its_slots_come_back_with_a_new_one(
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
    with RayExecutor(evaluator, TASK, cpu_workers(4)) as executor:
        bench.executor_of = lambda _: executor
        bench.run(evaluator, 24)
        told = Recorder()
        poll_until(executor, told, lambda: executor.n_free() == 4)
    check_whole(tmp_path / "s", 24)
    assert bench.notes.lost, "some trial was under way on the node"
    assert {job.n_lost for job in bench.records_now} == {0}, "no trial is to blame"
    assert max(job.n_starts for job in bench.records_now) <= 2
    assert {record.outcome for record in bench.records_now} <= {Outcome.COMPLETE, Outcome.PRUNED}


def test_when_the_last_node_is_gone_the_run_waits_and_then_ends_with_a_word(
    two_nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told = Recorder()
    evaluator = FakeEvaluator(seconds_per_step=0.01)
    node = two_nodes.add_node(num_cpus=1, resources={"alone": 1}, **SMALL)
    with RayExecutor(evaluator, TASK, cpu_workers(5), no_worker_timeout_s=1.0) as executor:
        for trial in range(5):
            executor.submit(job(trial, budget=LONG))
        poll_until(executor, told, lambda: len(told.steps) == 5)
        for gone in (node, *two_nodes.worker_nodes.copy()):
            if gone in two_nodes.worker_nodes:
                kill_node(two_nodes, gone)
        with caplog.at_level(logging.WARNING), pytest.raises(UnetxError, match="all 5 were lost and for 1 s"):
            poll_until(executor, told, lambda: False)
        assert sorted(told.preempted) == [0, 1, 2, 3, 4]
        assert "no worker is left" in caplog.text
    for _ in range(2):
        two_nodes.add_node(**{**SMALL, **NODE})
