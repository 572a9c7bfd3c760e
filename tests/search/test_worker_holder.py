"""What holds a worker on a node of a cluster; no cluster is needed."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from types import ModuleType

import pytest
from executor_helpers import LONG, TASK, is_running, job

from unetx_evaluators.evaluation import MEMORY_FRACTION, Outcome
from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_search.executors.gpus import Gpu
from unetx_search.executors.messages import (
    Answer,
    Begin,
    Exited,
    Finished,
    Hello,
    Interrupt,
    Interrupted,
    ReachedRung,
    Report,
    Setup,
    Started,
    Unfit,
)
from unetx_search.executors.shared_files_check import SharedFilesCheck
from unetx_search.executors.slots import Slot
from unetx_search.executors.worker_holder import WorkerHolder, WorkerSpec, slot_on_node

pytestmark = pytest.mark.timeout(120)

CPU = Slot(3, "cpu", "worker 3", {}, 1)
START = WorkerSpec(CPU, None, 1, SharedFilesCheck.of(TASK, None), version("unetx-search"))


@pytest.fixture(autouse=True)
def _main_module_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder replaces its process's main module, which here is pytest's."""
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))


def setup(evaluator: FakeEvaluator) -> Setup:
    return Setup(pickle.dumps((evaluator, TASK)))


def until(reports: Iterator[Report], kind: type[Report]) -> Report:
    """The next report of this kind."""
    return next(report for report in reports if isinstance(report, kind))


def test_a_holder_reports_what_its_worker_does_and_how_it_ended() -> None:
    holder = WorkerHolder(START)
    reports = holder.reports()
    hello = next(reports)
    assert isinstance(hello, Hello)
    assert hello.label.startswith("CPU on ")
    holder.request("send", setup(FakeEvaluator()))
    holder.request("send", Begin(1, job(7)))
    started = next(reports)
    assert isinstance(started, Started)
    for prune in (False, True):
        until(reports, ReachedRung)
        holder.request("send", Answer(1, prune))
    finished = until(reports, Finished)
    assert isinstance(finished, Finished)
    assert finished.evaluation.outcome is Outcome.PRUNED
    holder.request("hang_up")
    assert list(reports) == [Exited("exited with code 0")]
    assert not is_running(started.process.pid)


def test_orders_may_overtake_each_other() -> None:
    """Ray promises no order: an interrupt before its job, an answer and an interrupt after theirs."""
    holder = WorkerHolder(START)
    reports = holder.reports()
    holder.request("send", setup(FakeEvaluator()))
    holder.request("send", Interrupt(1))
    holder.request("send", Begin(1, job(0)))
    assert until(reports, Interrupted) == Interrupted(1)
    for late in (Interrupt(1), Answer(1, prune=True), Begin(2, job(0))):
        holder.request("send", late)
    for _ in range(2):
        until(reports, ReachedRung)
        holder.request("send", Answer(2, prune=False))
    finished = until(reports, Finished)
    assert isinstance(finished, Finished)
    assert finished.evaluation.outcome is Outcome.COMPLETE
    holder.request("hang_up")
    assert list(reports) == [Exited("exited with code 0")]


def test_a_worker_that_cannot_hear_is_killed_on_request() -> None:
    holder = WorkerHolder(START)
    reports = holder.reports()
    holder.request("send", setup(FakeEvaluator(acts_by_seed={0: InjectedFault.HANG_IN_C})))
    holder.request("send", Begin(1, job(0, budget=LONG)))
    until(reports, Started)
    holder.request("kill")
    assert list(reports) == [Exited("was killed by SIGKILL (by hand, or by the kernel when memory ran out)")]


def test_another_version_is_told_and_not_tried() -> None:
    [unfit] = WorkerHolder(replace(START, version="0.0.1")).reports()
    assert isinstance(unfit, Unfit)
    assert "the coordinator has 0.0.1" in unfit.problem
    assert "install one version on all nodes" in unfit.problem


def test_a_gpu_slot_is_on_the_device_that_the_cluster_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    slot = replace(CPU, device="cuda", n_threads=4)
    unknown = slot_on_node(slot, "node7", probe=tuple)
    assert (unknown.index, unknown.label, unknown.n_threads) == (3, "GPU 1 on node7", 4)
    assert unknown.environment["CUDA_VISIBLE_DEVICES"] == "1"
    known = slot_on_node(slot, "node7", 2, probe=lambda: (Gpu(1, "GPU-abc", "NVIDIA H200"),))
    assert known.label == "GPU 1: NVIDIA H200 on node7"
    assert known.environment == {
        "CUDA_VISIBLE_DEVICES": "GPU-abc",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        MEMORY_FRACTION: "0.4500",
        "OMP_NUM_THREADS": "4",
        "MKL_NUM_THREADS": "4",
        "OPENBLAS_NUM_THREADS": "4",
    }


def test_a_cpu_slot_hides_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    slot = slot_on_node(CPU, "node7", probe=lambda: (Gpu(0, "GPU-abc", "NVIDIA H200"),))
    assert (slot.device, slot.label, slot.environment["CUDA_VISIBLE_DEVICES"]) == ("cpu", "CPU on node7", "")
