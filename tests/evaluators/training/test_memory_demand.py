"""Memory is asked for before a training is paid for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_task import TINY_BUDGET, tiny_architecture

from unetx_evaluators.device import DeviceProfile, profile
from unetx_evaluators.evaluation import DeviceFailed, EvaluationEnded, NullObserver, Outcome
from unetx_evaluators.host_memory import MIB, available_bytes
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training import dry_run, trainer
from unetx_evaluators.training.iteration import ChosenIteration, Iteration
from unetx_evaluators.training.memory_demand import Demand, check_memory, check_share
from unetx_evaluators.training.step import EagerStep
from unetx_space.training_memory import training_memory


def test_the_demand_is_the_larger_of_plan_and_measurement_for_what_was_tried_and_the_plan_for_the_rest() -> None:
    demand = Demand(batch_size=8, patch_bytes=100, parameter_values=10)
    assert demand.n_bytes() == 8 * 100 + 40
    assert demand.n_bytes(measured=500, measured_batch=2) == 500 + 6 * 100 + 40
    assert demand.n_bytes(measured=50, measured_batch=2) == 8 * 100 + 40
    assert Demand(1, 100, 10).n_bytes(measured=500, measured_batch=2) == 500 + 40


def test_what_fits_passes_and_what_is_unknown_too() -> None:
    check_memory(10, 10, "a device")
    check_memory(10, None, "a device")
    with pytest.raises(EvaluationEnded, match=r"needs about 3 MiB and a device has 2 MiB free; a smaller batch") as end:
        check_memory(3 * MIB, 2 * MIB, "a device")
    assert end.value.outcome is Outcome.OUT_OF_MEMORY


def test_where_workers_divide_a_device_a_design_is_judged_by_their_share_alone() -> None:
    """Of a device with 8 MiB left of which 4 are this worker's, 5 MiB are too much, though they are free."""
    check_memory(4 * MIB, 8 * MIB, "a device", share=4 * MIB)
    with pytest.raises(EvaluationEnded, match="a worker's share of a device has 4 MiB left; a smaller batch") as end:
        check_memory(5 * MIB, 8 * MIB, "a device", share=4 * MIB)
    assert end.value.outcome is Outcome.OUT_OF_MEMORY


def test_what_others_hold_of_a_share_is_not_held_against_the_design() -> None:
    with pytest.raises(DeviceFailed, match="2 MiB to give, of 4 MiB left of this worker's share: other") as failed:
        check_memory(3 * MIB, 2 * MIB, "a device", share=4 * MIB)
    assert not failed.value.may_be_design
    with pytest.raises(EvaluationEnded, match="worker's share"):
        check_memory(5 * MIB, 2 * MIB, "a device", share=4 * MIB)
    with pytest.raises(DeviceFailed, match="other processes"):
        check_share(4 * MIB, 2 * MIB, "a device")
    check_share(4 * MIB, 4 * MIB, "a device")
    check_share(None, 2 * MIB, "a device")


@pytest.mark.parametrize(("free_gib", "is_crowded"), [(99, True), (100, False)])
def test_a_lack_of_memory_in_training_is_the_designs_only_when_its_share_was_there(
    free_gib: int, is_crowded: bool, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")

    monkeypatch.setattr(DeviceProfile, "share_bytes", lambda self: 100 * 1024 * MIB)
    monkeypatch.setattr(DeviceProfile, "free_bytes", lambda self: free_gib * 1024 * MIB)
    monkeypatch.setattr(EagerStep, "__call__", full)
    evaluate = partial(ProxyEvaluator().evaluate, tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    if is_crowded:
        with pytest.raises(DeviceFailed, match="other processes hold the rest"):
            evaluate()
    else:
        assert evaluate().reason == "CUDA out of memory. Tried to allocate 2 GiB"


def test_a_failed_device_ends_no_evaluation_but_flies_out(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(device: torch.device, error: BaseException) -> None:
        raise DeviceFailed(str(error), may_be_design=True) from error

    def asserted(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr("unetx_evaluators.device.check_alive", dead)
    monkeypatch.setattr(EagerStep, "__call__", asserted)
    with pytest.raises(DeviceFailed, match="device-side assert"):
        ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())


def test_an_error_that_a_device_tells_as_late_as_at_the_end_is_no_answer_either(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Giving memory back waits for the device, which tells then what had failed before."""

    def dead(device: torch.device, *_: object) -> None:
        raise DeviceFailed("it died")

    def late(device: torch.device) -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr("unetx_evaluators.device.check_alive", dead)
    monkeypatch.setattr("unetx_evaluators.device.release_memory", late)
    with pytest.raises(DeviceFailed, match="it died"):
        ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())


def test_an_evaluation_tells_how_its_steps_ran_and_that_a_failed_capture_spends_its_process(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(eager: Iteration, step: int) -> ChosenIteration:
        return ChosenIteration(eager, "eager: operation not permitted", needs_new_process=True)

    plain = ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    assert ("steps" in plain.versions, plain.needs_new_process) == (False, False), "a CPU has no choice"
    monkeypatch.setattr(trainer, "capture_if_possible", chosen)
    told = ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    assert (told.versions["steps"], told.needs_new_process) == ("eager: operation not permitted", True)
    assert told.score == plain.score


def test_an_evaluation_that_cannot_fit_by_its_plan_is_not_even_tried(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = tiny_architecture(task)
    trained = replace(architecture, backbone=architecture.backbone.scaled(TINY_BUDGET.width_factor))
    kept = TINY_BUDGET.batch_size * training_memory(trained, task.patch, bytes_per_value=2)
    monkeypatch.setattr(DeviceProfile, "free_bytes", lambda self: kept)  # nothing is left for the gradients
    monkeypatch.setattr(dry_run, "dry_run", lambda *_: pytest.fail("it was tried"))
    result = ProxyEvaluator().evaluate(architecture, task, TINY_BUDGET, 0, NullObserver())
    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert "training needs about" in result.reason
    assert "1 thread" in result.reason
    assert (result.curve, result.score) == ((), None)
    assert result.n_parameters is not None


def test_an_evaluation_whose_tried_step_took_too_much_is_not_trained(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 1000 * MIB
    monkeypatch.setattr(DeviceProfile, "free_bytes", lambda self: free)
    monkeypatch.setattr(dry_run, "dry_run", lambda *_: dry_run.DryRun((), free))
    monkeypatch.setattr(EagerStep, "__call__", lambda *_: pytest.fail("it was trained"))
    result = ProxyEvaluator().evaluate(tiny_architecture(task), task, TINY_BUDGET, 0, NullObserver())
    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert "has 1,000 MiB free" in result.reason


def test_a_batch_far_too_large_is_refused_on_a_real_machine(task: Task) -> None:
    budget = replace(TINY_BUDGET, batch_size=10**9)
    result = ProxyEvaluator().evaluate(tiny_architecture(task), task, budget, 0, NullObserver())
    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert "a smaller batch" in result.reason


def test_free_memory_is_what_the_system_calls_available() -> None:
    free = profile("cpu").free_bytes()
    if free is None:
        pytest.skip("this system does not tell")
    assert 2**20 < free < 2**50


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max\n", 8 * MIB), (f"{6 * MIB}\n", 6 * MIB - 2 * MIB + 1024), (f"{MIB}\n", 0), ("60000000\n", 8 * MIB)],
)
def test_a_containers_limit_counts_where_it_is_less(limit: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       16384 kB\nMemAvailable:    8192 kB\n")
    for name, text in {
        "memory.max": limit,
        "memory.current": f"{2 * MIB}\n",
        "memory.stat": "anon 5\nactive_file 1000\ninactive_file 24\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert available_bytes(tmp_path / "meminfo", tmp_path) == expected
    assert available_bytes(tmp_path / "absent", tmp_path / "absent") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_torch_keeps_of_a_gpu_without_use_is_free() -> None:
    cuda = profile("cuda")
    block = torch.zeros(256, 2**20, device=cuda.device)
    used = cuda.free_bytes()
    del block
    free = cuda.free_bytes()
    assert used is not None
    assert free is not None
    assert free - used >= 256 * 4 * 2**20 - 64 * MIB
