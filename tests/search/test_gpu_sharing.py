"""--workers-per-gpu auto from request to slots, and the measurement itself, with real worker processes."""

from __future__ import annotations

import io
import json
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from executor_helpers import BUDGET, TASK, cpu_slots, u_net
from rich.console import Console

from unetx_evaluators.evaluation import MEMORY_FRACTION, Budget, Evaluator, Outcome
from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import DemoSource, TaskOptions, prepare
from unetx_evaluators.tasks.task import Task
from unetx_search import run as whole_run
from unetx_search.config import SearchConfig
from unetx_search.executors.gpus import Gpu, free_memory_mib, usable_gpus
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.slots import Slot, gpu_worker_threads, make_slots
from unetx_search.sharing import measurement, mps
from unetx_search.sharing.choice import Sample, SharingLimits, decide
from unetx_search.sharing.measurement import ThroughputBenchmark, slots_that_pay, useful_workers
from unetx_search.status import read_status, status_json, status_text
from unetx_search.study_setup import StudySetup
from unetx_space.architecture import Architecture
from unetx_space.design_space import DesignSpace
from unetx_space.presets import PRESETS

pytestmark = pytest.mark.timeout(300)

BIG, OTHER = Gpu(0, "GPU-0", "Big"), Gpu(1, "GPU-1", "Big")
SMALL = Gpu(2, "GPU-2", "Small")
FREE = {"GPU-0": 100_000, "GPU-1": 90_000, "GPU-2": 100_000}


@dataclass
class Pretended:
    """Devices that feed a number of workers by their kind; notes what was asked."""

    feeds: Mapping[str, int]
    asked: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, slot: Slot, n_workers: int) -> Sample:
        self.asked.append((slot.label, n_workers))
        return Sample(n_workers, 10.0 * min(n_workers, self.feeds[slot.kind]), 2000.0)

    @property
    def n_asked(self) -> int:
        return len(self.asked)


def placed(
    folder: Path,
    bench: Pretended | None,
    *gpus: Gpu,
    free: Mapping[str, int] = FREE,
    n_missing: int = 100,
    **changes: Any,
) -> tuple[list[str], str]:
    """The GPU of every slot, and what was said."""
    said = io.StringIO()
    config = SearchConfig(out=folder, study="s", **changes)
    config.folder.mkdir(exist_ok=True)
    backbone = TASK.backbone()
    found = slots_that_pay(
        config,
        make_slots("all", probe=lambda: gpus, n_cores=16),
        lambda slots: FakeEvaluator(),
        TASK,
        StudySetup(backbone, TASK.patch, DesignSpace(backbone.n_levels), BUDGET, seed=0, max_cost=4.0),
        n_missing,
        Console(file=said, width=200, highlight=False),
        measure=bench,
        free_memory=lambda: free,
        n_cores=16,
    )
    assert [slot.index for slot in found] == list(range(len(found)))
    assert {slot.n_threads for slot in found} == {min(4, max(1, 16 // len(found)))}
    assert {slot.environment["OMP_NUM_THREADS"] for slot in found} == {str(found[0].n_threads)}
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found], said.getvalue()


def test_a_gpu_gets_as_many_workers_as_it_feeds_and_that_is_said(tmp_path: Path) -> None:
    bench = Pretended({"Big": 3})
    labels, said = placed(tmp_path, bench, BIG)
    assert labels == ["GPU-0"] * 3
    assert "measuring how many workers a Big can feed" in said
    assert (
        "GPU 0: Big: 1 worker 10.0 evaluations/min, 2 workers 20.0, 3 workers 30.0, 4 workers 30.0: 3 workers (worker 4"
        in said
    )
    assert "2.0 GiB each, 98 free" in said


def test_on_a_cluster_nothing_is_measured(tmp_path: Path) -> None:
    bench = Pretended({"Big": 3})
    assert placed(tmp_path, bench, BIG, OTHER, engine="ray") == (["GPU-0", "GPU-1"], "")
    assert bench.n_asked == 0


def test_without_a_multi_process_service_a_gpu_has_one_worker_and_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mps, "CONTROL", "no-such-program")
    monkeypatch.setattr(
        measurement, "ThroughputBenchmark", lambda *_: SimpleNamespace(sample=lambda: Sample(1, 10.0, 2000.0))
    )
    labels, said = placed(tmp_path, None, BIG)
    assert labels == ["GPU-0"]
    assert "(with 2 workers it went wrong: NVIDIA's multi-process service (MPS) is not to be had: no-such" in said


def test_each_kind_is_measured_once_on_its_first_gpu(tmp_path: Path) -> None:
    bench = Pretended({"Big": 3, "Small": 1})
    labels, said = placed(tmp_path, bench, BIG, OTHER, SMALL)
    assert bench.asked == [(BIG.label, n) for n in (1, 2, 3, 4)] + [(SMALL.label, n) for n in (1, 2)]
    assert labels == ["GPU-0", "GPU-1", "GPU-2", "GPU-0", "GPU-1", "GPU-0", "GPU-1"]
    assert "GPU 0: Big and 1 more of the kind: 1 worker" in said


def test_a_continuation_does_not_measure_again(tmp_path: Path) -> None:
    first = placed(tmp_path, bench := Pretended({"Big": 2}), BIG)
    again = placed(tmp_path, Pretended({"Big": 8}), BIG)
    assert again[0] == first[0] == ["GPU-0"] * 2
    assert "measuring" not in again[1]
    assert bench.n_asked == 3
    third = Pretended({"Big": 2, "Small": 4})
    assert placed(tmp_path, third, BIG, SMALL)[0] == ["GPU-0", "GPU-2", "GPU-0", "GPU-2", "GPU-2", "GPU-2"]
    assert {label for label, _ in third.asked} == {SMALL.label}, "only the kind that is new"


def test_a_continuation_heeds_what_is_free_now(tmp_path: Path) -> None:
    placed(tmp_path, Pretended({"Big": 4}), BIG)
    bench = Pretended({"Big": 4})
    labels, said = placed(tmp_path, bench, BIG, free={"GPU-0": 5000})
    assert labels == ["GPU-0"] * 2
    assert bench.asked == []
    assert "3 workers would need" in said


def test_a_measurement_that_a_limit_cut_short_is_made_anew_without_the_limit(tmp_path: Path) -> None:
    assert placed(tmp_path, Pretended({"Big": 4}), BIG, n_missing=2)[0] == ["GPU-0"] * 2
    bench = Pretended({"Big": 4})
    assert placed(tmp_path, bench, BIG)[0] == ["GPU-0"] * 4
    assert bench.n_asked == 5
    assert placed(tmp_path, bench, BIG, n_missing=1)[0] == ["GPU-0"]
    assert placed(tmp_path, bench, BIG)[0] == ["GPU-0"] * 4
    assert bench.n_asked == 5, "the last trial of a run has not cost what was known"


def test_what_another_torch_did_is_measured_again(tmp_path: Path) -> None:
    placed(tmp_path, Pretended({"Big": 2}), BIG)
    path = tmp_path / "s" / "sharing.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "torch": "0.1"}))
    assert placed(tmp_path, Pretended({"Big": 3}), BIG)[0] == ["GPU-0"] * 3


def test_the_fullest_gpu_of_a_kind_decides_about_memory(tmp_path: Path) -> None:
    labels, _ = placed(tmp_path, Pretended({"Big": 8}), BIG, OTHER, free={"GPU-0": 100_000, "GPU-1": 5000})
    assert labels == ["GPU-0", "GPU-1"] * 2
    other = tmp_path / "other"
    other.mkdir()
    labels, said = placed(other, Pretended({"Big": 8}), BIG, OTHER, free={"GPU-0": 100_000})
    assert labels == ["GPU-0", "GPU-1"]
    assert "how much memory is free is not known" in said


@pytest.mark.parametrize(("window", "n_slots"), [(1, 1), (2, 2), (3, 3), (20, 6)])
def test_a_deterministic_study_has_no_more_workers_than_its_window(tmp_path: Path, window: int, n_slots: int) -> None:
    bench = Pretended({"Big": 3})
    labels, _ = placed(tmp_path, bench, BIG, OTHER, deterministic=window)
    assert len(labels) == n_slots
    assert bench.n_asked == {1: 0, 2: 0, 3: 2, 20: 4}[window]


@pytest.mark.parametrize(
    ("n_gpus", "cores", "n_missing", "window", "expected"),
    [
        (1, 64, 1000, None, 8),
        (4, 16, 1000, None, 4),
        (4, 2, 1000, None, 1),
        (4, 64, 6, None, 2),
        (1, 64, 1000, 3, 3),
        (2, 64, 1000, 3, 2),
    ],
)
def test_more_workers_than_cores_trials_or_the_window_allow_are_of_no_use(
    n_gpus: int, cores: int, n_missing: int, window: int | None, expected: int
) -> None:
    assert useful_workers(n_gpus, cores=cores, n_missing=n_missing, window=window) == expected


@pytest.mark.parametrize("asked", ["auto", None])
def test_cpu_workers_stay_as_they_are_and_that_is_said_to_whom_asked(
    asked: Literal["auto"] | None, tmp_path: Path
) -> None:
    said = io.StringIO()
    config = SearchConfig(out=tmp_path, workers_per_gpu=asked, gpus=0)
    backbone = TASK.backbone()
    setup = StudySetup(backbone, TASK.patch, DesignSpace(backbone.n_levels), BUDGET, seed=0, max_cost=4.0)
    slots = cpu_slots(2)

    def never(slots: Sequence[Slot]) -> Evaluator:
        raise AssertionError("nothing is measured")

    assert slots_that_pay(config, slots, never, TASK, setup, 4, Console(file=said, width=200)) == slots
    assert ("--workers-per-gpu auto is about GPUs, and none is used" in said.getvalue()) is (asked == "auto")
    assert not (config.folder / "sharing.json").exists()


@pytest.mark.slow
def test_a_whole_search_measures_with_its_own_workers_and_tells_in_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a pretended GPU, whose workers are real processes of the fake evaluator."""

    def free() -> Mapping[str, int]:
        return {"GPU-0": 100_000 - 2000 * len(multiprocessing.active_children())}

    def slots_with_pretended_memory(*arguments: Any) -> tuple[Slot, ...]:
        return slots_that_pay(*arguments, free_memory=free, n_cores=2)

    monkeypatch.setattr(whole_run, "slots_that_pay", slots_with_pretended_memory)
    said = io.StringIO()
    summary = whole_run.search(
        SearchConfig(out=tmp_path, study="s", trials=3, steps=6, workers_per_gpu="auto", pilot=False),
        console=Console(file=said, width=200),
        probe=lambda: (BIG,),
        evaluator=FakeEvaluator(seconds_per_step=0.01),
        source=DemoSource(n_cases=6),
    )
    assert len(summary.evaluations) == 3
    assert "GPU 0: Big: 1 worker" in said.getvalue()
    status = read_status(tmp_path / "s")
    assert "  Big: 1 worker" in status_text(status)
    facts = json.loads(status_json(status))["workers_per_gpu"]["Big"]
    assert [sample["n_workers"] for sample in facts["samples"]] == [1, 2]
    assert [sample["worker_mib"] for sample in facts["samples"]] == [2000, None]
    assert "multi-process service (MPS) is not to be had" in facts["samples"][1]["trouble"]
    assert f": {facts['n_workers']} worker" in status_text(status)


def sampled(evaluator: Evaluator, n_workers: int = 1, *looks: float | None, **changes: Any) -> Sample:
    """What real workers on CPUs do, of a device that has 1000 MiB free at first and then these, the last for ever."""
    free_mib = chain(looks, repeat(looks[-1] if looks else None))
    with LocalExecutor(evaluator, TASK, cpu_slots(n_workers)) as executor:
        sample = ThroughputBenchmark(executor, u_net(), BUDGET, 1000.0, lambda: next(free_mib), **changes).sample()
    assert multiprocessing.active_children() == []
    return sample


@pytest.mark.parametrize("n_workers", [1, 2])
def test_workers_evaluate_at_once_after_a_short_evaluation_each(tmp_path: Path, n_workers: int) -> None:
    """Six steps of 50 ms each: at most 200 evaluations a minute in each worker."""
    evaluator = FakeEvaluator(seconds_per_step=0.05, calls_folder=tmp_path / "calls")
    sample = sampled(evaluator, n_workers, 900.0)
    assert (sample.n_workers, sample.worker_mib, sample.trouble) == (n_workers, 100.0 / n_workers, "")
    assert 0 < sample.evaluations_per_min <= 200 * n_workers
    assert len(list((tmp_path / "calls").iterdir())) == 2 * n_workers


def test_an_evaluation_that_ends_badly_is_the_reason_why_it_cannot_be_measured() -> None:
    sample = sampled(FakeEvaluator(acts_by_seed={0: Outcome.OUT_OF_MEMORY}))
    assert sample.trouble.startswith("a training ended as out-of-memory")
    assert decide("x", [sample], SharingLimits(1000, 8)).n_workers == 1


def test_a_worker_that_dies_is_the_reason_too(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(acts_by_call={1: InjectedFault.EXIT}, calls_folder=tmp_path / "calls")
    assert "exited with code 3" in sampled(evaluator).trouble


def test_a_measurement_that_takes_too_long_is_given_up() -> None:
    times = chain([0.0] * 2, repeat(1e6))
    sample = sampled(FakeEvaluator(acts_by_seed={0: InjectedFault.HANG}), clock=lambda: next(times))
    assert sample.trouble == "the first steps of 1 worker(s) took longer than 120 s"


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ((700.0, 800.0), 300.0),  # the least counts: torch gives memory back between evaluations
        ((1200.0,), None),  # somebody else gave memory back: nothing is known
        ((None,), None),  # the driver did not answer
    ],
)
def test_memory_held_on_a_gpu_is_what_is_free_less_than_at_first(
    looks: tuple[float | None, ...], expected: float | None
) -> None:
    assert sampled(FakeEvaluator(seconds_per_step=0.02), 1, *looks).worker_mib == expected


def test_workers_are_measured_with_the_threads_and_the_memory_of_the_search(tmp_path: Path) -> None:
    """Two GPUs and 8 cores: one worker on each has 4 threads, two have 2 each."""
    seen: list[tuple[int, str]] = []

    def evaluator_of(slots: Sequence[Slot]) -> Evaluator:
        seen.append((slots[0].n_threads, slots[0].environment[MEMORY_FRACTION]))
        return FakeEvaluator()

    config = SearchConfig(out=tmp_path, study="s", workers_per_gpu="auto")
    config.folder.mkdir(exist_ok=True)
    backbone = TASK.backbone()
    found = slots_that_pay(
        config,
        make_slots("all", probe=lambda: (BIG, OTHER), n_cores=8),
        evaluator_of,
        TASK,
        StudySetup(backbone, TASK.patch, DesignSpace(backbone.n_levels), BUDGET, seed=0, max_cost=4.0),
        4,
        Console(file=io.StringIO()),
        free_memory=lambda: {gpu: 100_000 - 2000 * len(multiprocessing.active_children()) for gpu in FREE},
        n_cores=8,
    )
    assert seen == [(4, "0.9000"), (2, "0.4500")]
    assert found[0].n_threads == gpu_worker_threads(8, len(found))


def real_training(cache: Path, n_cases: int, widths: tuple[int, ...] | None = None) -> tuple[Task, Architecture]:
    """The demo task, and a U-Net for it."""
    task = prepare(DemoSource(n_cases=n_cases), cache, TaskOptions())
    backbone = task.backbone() if widths is None else replace(task.backbone(), widths=widths)
    return task, Architecture(backbone, PRESETS["u-net"].genome(backbone.n_levels))


@pytest.mark.slow
def test_real_trainings_on_cpu_workers_are_measured(tmp_path: Path) -> None:
    task, design = real_training(tmp_path / "cache", 6, (8, 16, 32, 64, 128))
    budget = Budget(steps=40, batch_size=1, width_factor=0.5, rungs=(40,), validation_cases=2)
    with LocalExecutor(ProxyEvaluator(), task, cpu_slots(2)) as executor:
        sample = ThroughputBenchmark(executor, design, budget, None, lambda: None).sample()
    assert (sample.n_workers, sample.trouble) == (2, "")
    assert sample.evaluations_per_min > 0


@pytest.mark.gpu
def test_real_trainings_that_share_a_gpu_are_measured(tmp_path: Path) -> None:
    if not usable_gpus():
        pytest.skip("needs a GPU that the driver's library sees")
    from unetx_evaluators.budgets import default_budget

    task, design = real_training(tmp_path / "cache", 20)
    free = free_memory_mib()
    for n_workers in (1, 2, 3):
        slots = make_slots(1, workers_per_gpu=n_workers)
        evaluator = ProxyEvaluator(device="cuda", n_threads=slots[0].n_threads)
        gpu = slots[0].gpu
        with LocalExecutor(evaluator, task, slots) as executor:
            free_now = partial(lambda gpu: free_memory_mib()[gpu], gpu)
            sample = ThroughputBenchmark(executor, design, default_budget(task), free[gpu], free_now).sample()
        assert sample.trouble == ""
        assert sample.evaluations_per_min > 0
        assert sample.worker_mib is not None
        assert 200 < sample.worker_mib < 40_000, "a context takes some hundred MiB, this training a few more"
