"""--workers-per-gpu auto from request to slots, and the measurement itself, with real worker processes."""

from __future__ import annotations

import io
import json
import multiprocessing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from executor_helpers import BUDGET, TASK, cpu_slots, u_net
from rich.console import Console

from unetx_evaluators.evaluation import Budget, Evaluator, Outcome
from unetx_evaluators.fake import FakeEvaluator, Misdeed
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import DemoSource, TaskOptions, prepare
from unetx_evaluators.tasks.task import Task
from unetx_search import run as whole_run
from unetx_search.config import SearchConfig
from unetx_search.executors.gpus import Gpu, free_memory_mib, usable_gpus
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.slots import Slot, make_slots
from unetx_search.sharing.choice import Limits, Sample, decide
from unetx_search.sharing.measurement import Measure, Workbench, is_window, pace, slots_that_pay, useful_workers
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
    """A bench whose devices feed a number of workers by their kind; notes which were opened and what was asked."""

    feeds: Mapping[str, int]
    opened: list[tuple[str, int]] = field(default_factory=list)
    n_asked: int = 0

    @contextmanager
    def __call__(self, slot: Slot, at_most: int) -> Iterator[Measure]:
        self.opened.append((slot.label, at_most))

        def measure(n_workers: int) -> Sample:
            self.n_asked += 1
            return Sample(n_workers, 10.0 * min(n_workers, self.feeds[slot.kind]), 2000.0)

        yield measure


def placed(
    folder: Path, bench: Pretended, *gpus: Gpu, free: Mapping[str, int] = FREE, n_missing: int = 100, **changes: Any
) -> tuple[list[str], str]:
    """The GPU of every slot, and what was said."""
    said = io.StringIO()
    config = SearchConfig(out=folder, study="s", workers_per_gpu="auto", **changes)
    config.folder.mkdir(exist_ok=True)
    backbone = TASK.backbone()
    found = slots_that_pay(
        config,
        make_slots("all", probe=lambda: gpus, n_cores=16),
        FakeEvaluator(),
        TASK,
        StudySetup(backbone, TASK.patch, DesignSpace(backbone.n_levels), BUDGET, seed=0, max_cost=4.0),
        n_missing,
        Console(file=said, width=200, highlight=False),
        bench=bench,
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
        "GPU 0: Big: 1 worker 10 steps/s, 2 workers 20, 3 workers 30, 4 workers 30: 3 workers (worker 4 adds 0%" in said
    )
    assert "2.0 GiB each, 98 free" in said


def test_each_kind_is_measured_once_on_its_first_gpu(tmp_path: Path) -> None:
    bench = Pretended({"Big": 3, "Small": 1})
    labels, said = placed(tmp_path, bench, BIG, OTHER, SMALL)
    assert bench.opened == [("GPU 0: Big", 5), ("GPU 2: Small", 5)], "16 cores for 3 GPUs"
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
    assert third.opened == [("GPU 2: Small", 8)], "only the kind that is new"


def test_a_continuation_heeds_what_is_free_now(tmp_path: Path) -> None:
    placed(tmp_path, Pretended({"Big": 4}), BIG)
    bench = Pretended({"Big": 4})
    labels, said = placed(tmp_path, bench, BIG, free={"GPU-0": 5000})
    assert labels == ["GPU-0"] * 2
    assert bench.opened == []
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


def test_cpu_workers_stay_as_they_are_and_that_is_said(tmp_path: Path) -> None:
    said = io.StringIO()
    config = SearchConfig(out=tmp_path, workers_per_gpu="auto", gpus=0)
    backbone = TASK.backbone()
    setup = StudySetup(backbone, TASK.patch, DesignSpace(backbone.n_levels), BUDGET, seed=0, max_cost=4.0)
    slots = cpu_slots(2)
    assert slots_that_pay(config, slots, FakeEvaluator(), TASK, setup, 4, Console(file=said, width=200)) == slots
    assert "--workers-per-gpu auto is about GPUs, and none is used" in said.getvalue()
    assert not (config.folder / "sharing.json").exists()


def test_a_whole_search_measures_with_its_own_workers_and_tells_in_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a pretended GPU, whose workers are real processes of the fake evaluator."""
    answers = iter([{"GPU-0": 100_000}, {"GPU-0": 100_000}, {"GPU-0": 98_000}, {"GPU-0": 96_000}])
    last: dict[str, int] = {}

    def free() -> Mapping[str, int]:
        last.update(next(answers, {}))
        return last

    def slots_with_pretended_memory(*arguments: Any) -> tuple[Slot, ...]:
        return slots_that_pay(*arguments, free_memory=free, n_cores=2)

    monkeypatch.setattr(whole_run, "slots_that_pay", slots_with_pretended_memory)
    said = io.StringIO()
    summary = whole_run.search(
        SearchConfig(out=tmp_path, study="s", trials=3, steps=6, workers_per_gpu="auto"),
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
    assert [sample["worker_mib"] for sample in facts["samples"]] == [2000, 2000]
    assert f": {facts['n_workers']} worker" in status_text(status)


@contextmanager
def workbench(evaluator: Evaluator, n_slots: int = 2, **changes: Any) -> Iterator[Workbench]:
    """Real workers on CPUs, of a device that has 100 MiB less at every look."""
    free_mib = iter(range(10_000, 0, -100))
    with LocalExecutor(evaluator, TASK, cpu_slots(n_slots)) as executor:
        yield Workbench(executor, u_net(), BUDGET, lambda: next(free_mib), **changes)


def test_workers_join_one_by_one_and_no_process_stays() -> None:
    with workbench(FakeEvaluator(seconds_per_step=0.01)) as measure:
        first, second = measure(1), measure(2)
    for n_workers, sample in ((1, first), (2, second)):
        assert (sample.n_workers, sample.worker_mib, sample.trouble) == (n_workers, 100.0, "")
        assert 0 < sample.steps_per_s <= 100 * n_workers * 1.05, "a step sleeps for 10 ms"
    assert multiprocessing.active_children() == []


def test_an_evaluation_that_ends_badly_is_the_reason_why_it_cannot_be_measured() -> None:
    with workbench(FakeEvaluator(acts_by_seed={0: Outcome.OUT_OF_MEMORY})) as measure:
        sample = measure(1)
    assert sample.trouble.startswith("a training ended as out-of-memory")
    assert decide("x", [sample], Limits(1000, 8)).n_workers == 1


def test_a_worker_that_dies_is_the_reason_too(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(seconds_per_step=0.01, acts_by_call={2: Misdeed.EXIT}, calls_folder=tmp_path / "calls")
    with workbench(evaluator) as measure:
        assert measure(1).trouble == ""  # a short evaluation and a training: calls 0 and 1
        assert "exited with code 3" in measure(2).trouble
    assert multiprocessing.active_children() == []


def test_a_measurement_that_takes_too_long_is_given_up() -> None:
    times = iter([0.0] + [1e6] * 1000)
    evaluator = FakeEvaluator(acts_by_seed={0: Misdeed.HANG})
    with workbench(evaluator, 1, clock=lambda: next(times)) as measure:
        assert measure(1).trouble == "the short evaluation of a new worker took longer than 120 s"


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([], False),
        ([(10.0, 100)], False),  # once is not twice
        ([(10.0, 100), (12.5, 159)], False),  # 59 steps
        ([(10.0, 100), (12.5, 160)], True),
        ([(10.0, 100), (10.001, 900)], False),  # read late and together
        ([(10.0, 100), (15.9, 103)], False),
        ([(10.0, 100), (16.0, 101)], True),  # a slow training needs one step only
    ],
)
def test_a_training_is_watched_long_enough_at_enough_steps(seen: list[tuple[float, int]], expected: bool) -> None:
    assert is_window(seen) is expected


def test_the_pace_is_that_from_the_first_report_to_the_last() -> None:
    assert pace([(10.0, 100), (11.0, 190), (12.5, 200)]) == 100 / 2.5


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ((1000, 700), 300.0),
        ((1000, 1200), None),  # somebody else gave memory back: nothing is known
        ((1000, None), None),  # the driver did not answer
        ((None, 700), None),
    ],
)
def test_memory_held_on_a_gpu_is_what_is_free_less_than_at_first(
    looks: tuple[int | None, ...], expected: float | None
) -> None:
    answers = iter(looks)
    with LocalExecutor(FakeEvaluator(seconds_per_step=0.01), TASK, cpu_slots(1)) as executor:
        assert Workbench(executor, u_net(), BUDGET, lambda: next(answers))(1).worker_mib == expected


def real_training(cache: Path, n_cases: int, widths: tuple[int, ...] | None = None) -> tuple[Task, Architecture]:
    """The demo task, and a U-Net for it."""
    task = prepare(DemoSource(n_cases=n_cases), cache, TaskOptions())
    backbone = task.backbone() if widths is None else replace(task.backbone(), widths=widths)
    return task, Architecture(backbone, PRESETS["u-net"].genome(backbone.n_levels))


@pytest.mark.slow
def test_real_trainings_on_cpu_workers_are_measured(tmp_path: Path) -> None:
    task, design = real_training(tmp_path / "cache", 6, (8, 16, 32, 64, 128))
    budget = Budget(steps=200, batch_size=1, width_factor=0.5, rungs=(200,), validation_cases=2)
    with LocalExecutor(ProxyEvaluator(), task, cpu_slots(2)) as executor:
        measure = Workbench(executor, design, budget, lambda: None)
        seen = [measure(1), measure(2)]
    assert [(sample.n_workers, sample.trouble) for sample in seen] == [(1, ""), (2, "")]
    assert all(sample.steps_per_s > 0 for sample in seen)


@pytest.mark.gpu
def test_real_trainings_that_share_a_gpu_are_measured(tmp_path: Path) -> None:
    if not usable_gpus():
        pytest.skip("needs a GPU that the driver's library sees")
    from unetx_evaluators.budgets import default_budget

    task, design = real_training(tmp_path / "cache", 20)
    slots = make_slots(1, workers_per_gpu=3)
    evaluator = ProxyEvaluator(device="cuda", n_threads=slots[0].n_threads)
    with LocalExecutor(evaluator, task, slots) as executor:
        measure = Workbench(executor, design, default_budget(task), lambda: free_memory_mib().get(slots[0].gpu))
        seen = [measure(1), measure(2), measure(3)]
    assert [sample.trouble for sample in seen] == [""] * 3
    for sample in seen:
        assert sample.steps_per_s > 0
        assert sample.worker_mib is not None
        assert 200 < sample.worker_mib < 40_000, "a context takes some hundred MiB, this training a few more"
