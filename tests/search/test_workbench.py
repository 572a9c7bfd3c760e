"""Measuring workers that share a device: with real worker processes, on CPUs also with real trainings."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from executor_helpers import BUDGET, TASK, cpu_slots, u_net

from unetx_evaluators.evaluation import Budget, Outcome
from unetx_evaluators.fake import FakeEvaluator, Misdeed
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import DemoSource, TaskOptions, prepare
from unetx_search.executors.slots import Gpu, make_slots, nvidia_smi_probe
from unetx_search.sharing.choice import Room, measured, workers_that_pay
from unetx_search.sharing.workbench import Window, Workbench, less_than_at_first, resident
from unetx_space.architecture import Architecture
from unetx_space.presets import PRESETS

pytestmark = pytest.mark.timeout(300)

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident sets are read from /proc")


def bench(evaluator: FakeEvaluator, n_slots: int = 2) -> Workbench:
    return Workbench(evaluator, TASK, cpu_slots(n_slots), u_net(), BUDGET, lambda processes: 100.0 * len(processes))


def test_workers_join_one_by_one_and_no_process_stays() -> None:
    with bench(FakeEvaluator(seconds_per_step=0.01)) as measure:
        first, second = measure(1), measure(2)
    for n_workers, sample in ((1, first), (2, second)):
        assert (sample.n_workers, sample.worker_mib, sample.trouble) == (n_workers, 100.0, "")
        assert 0 < sample.steps_per_s <= 100 * n_workers * 1.05, "a step sleeps for 10 ms"
    assert multiprocessing.active_children() == []


def test_an_evaluation_that_ends_badly_is_the_reason_why_it_cannot_be_measured() -> None:
    with bench(FakeEvaluator(acts_by_seed={0: Outcome.OUT_OF_MEMORY})) as measure:
        sample = measure(1)
    assert sample.trouble.startswith("a training ended as out-of-memory")
    assert workers_that_pay([sample], Room(1000, 8)).n_workers == 1


def test_a_worker_that_dies_is_the_reason_too(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(seconds_per_step=0.01, acts_by_call={2: Misdeed.EXIT}, calls_folder=tmp_path / "calls")
    with bench(evaluator) as measure:
        assert measure(1).trouble == ""  # a short evaluation and a training: calls 0 and 1
        assert "exited with code 3" in measure(2).trouble
    assert multiprocessing.active_children() == []


def test_a_measurement_that_takes_too_long_is_given_up() -> None:
    times = iter([0.0] + [1e6] * 1000)
    evaluator = FakeEvaluator(acts_by_seed={0: Misdeed.HANG})
    with Workbench(
        evaluator, TASK, cpu_slots(1), u_net(), BUDGET, lambda processes: None, clock=lambda: next(times)
    ) as measure:
        assert measure(1).trouble == "the short evaluation of a new worker took longer than 120 s"


def test_a_window_ends_when_every_worker_was_seen_long_enough_at_enough_steps() -> None:
    window = Window(2)
    window.note(7, 10.0, 100)
    window.note(7, 12.5, 200)
    assert not window.is_over(), "the other was not seen"
    window.note(8, 10.0, 100)
    assert not window.is_over(), "once is not twice"
    window.note(8, 12.0, 159)
    assert not window.is_over(), "59 steps"
    window.note(8, 12.5, 160)
    assert window.is_over()
    assert window.steps_per_s() == pytest.approx(100 / 2.5 + 60 / 2.5)


def test_reports_that_were_read_late_and_together_are_no_window() -> None:
    window = Window(1, {0: [(10.0, 100), (10.001, 900)]})
    assert not window.is_over()


def test_a_slow_training_needs_one_step_only() -> None:
    assert not Window(1, {0: [(10.0, 100), (15.9, 103)]}).is_over()
    assert Window(1, {0: [(10.0, 100), (16.0, 101)]}).is_over()


@needs_proc
def test_resident_memory_is_that_of_all_processes_and_unknown_when_one_has_gone() -> None:
    own = resident([os.getpid()])
    assert own is not None
    assert 10 < own < 100_000
    both = resident([os.getpid(), os.getppid()])
    assert both is not None
    assert both > own
    assert resident([os.getpid(), 2**22 + 1]) is None  # beyond Linux's largest process id
    assert resident([]) is None


def test_memory_held_on_a_gpu_is_what_is_free_less_than_at_first() -> None:
    [slot] = make_slots(1, probe=lambda: (Gpu(0, "GPU-0", "Pretended"),), n_cores=1)
    answers = iter([{"GPU-0": 1000}, {"GPU-0": 700}, {"GPU-0": 1200}, {}])

    def probe() -> Mapping[str, int]:
        return next(answers)

    held = less_than_at_first(slot, probe)
    assert held([1]) == 300
    assert held([1]) is None, "somebody else gave memory back: nothing is known"
    assert held([1]) is None, "the driver did not answer"


@pytest.mark.slow
@needs_proc
def test_real_trainings_on_cpu_workers_are_measured_with_their_memory(tmp_path: Path) -> None:
    task = prepare(DemoSource(n_cases=6), tmp_path / "cache", TaskOptions())
    backbone = replace(task.backbone(), widths=(8, 16, 32, 64, 128))
    design = Architecture(backbone, PRESETS["u-net"].genome(backbone.n_levels))
    budget = Budget(steps=200, batch_size=1, width_factor=0.5, rungs=(200,), validation_cases=2)
    with Workbench(ProxyEvaluator(), task, cpu_slots(2), design, budget, resident) as measure:
        seen = measured(measure, Room(free_mib=10**9, at_most=2))
    assert [sample.trouble for sample in seen] == [""] * len(seen)
    assert [sample.n_workers for sample in seen] == [1, 2]
    for sample in seen:
        assert sample.steps_per_s > 0
        assert sample.worker_mib is not None
        assert 100 < sample.worker_mib < 10_000, "an interpreter with torch, and a small training"


@pytest.mark.gpu
@pytest.mark.skipif(sys.platform == "win32", reason="nvidia-smi is asked as on Linux")
def test_real_trainings_that_share_a_gpu_are_measured(tmp_path: Path) -> None:
    gpus = nvidia_smi_probe()
    if not gpus:
        pytest.skip("needs a GPU that nvidia-smi sees")
    from unetx_evaluators.budgets import default_budget

    task = prepare(DemoSource(n_cases=20), tmp_path / "cache", TaskOptions())
    backbone = task.backbone()
    design = Architecture(backbone, PRESETS["u-net"].genome(backbone.n_levels))
    slots = make_slots(1, workers_per_gpu=3)
    held_memory = less_than_at_first(slots[0])
    evaluator = ProxyEvaluator(device="cuda", n_threads=slots[0].n_threads)
    with Workbench(evaluator, task, slots, design, default_budget(task), held_memory) as measure:
        seen = [measure(1), measure(2), measure(3)]
    assert [sample.trouble for sample in seen] == [""] * 3
    for sample in seen:
        assert sample.steps_per_s > 0
        assert sample.worker_mib is not None
        assert 200 < sample.worker_mib < 40_000, "a context takes some hundred MiB, this training a few more"
