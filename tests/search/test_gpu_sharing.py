"""--workers-per-gpu auto from request to seats: measured once a kind and a study, within what is of use."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from executor_helpers import BUDGET, TASK, cpu_slots
from rich.console import Console

from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks import DemoSource
from unetx_search import run as whole_run
from unetx_search.config import SearchConfig
from unetx_search.executors.slots import Gpu, Slot, make_slots
from unetx_search.sharing.choice import Measure, Sample
from unetx_search.sharing.seats import seats_that_pay, useful_workers
from unetx_search.status import read_status, status_json, status_text
from unetx_search.study_setup import StudySetup
from unetx_space.design_space import DesignSpace

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


def seats(
    folder: Path, bench: Pretended, *gpus: Gpu, free: Mapping[str, int] = FREE, n_missing: int = 100, **changes: Any
) -> tuple[list[str], str]:
    """The label of every seat, and what was said."""
    said = io.StringIO()
    config = SearchConfig(out=folder, study="s", workers_per_gpu="auto", **changes)
    config.folder.mkdir(exist_ok=True)
    backbone = TASK.backbone()
    found = seats_that_pay(
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
    assert {slot.n_threads for slot in found} == {max(1, 16 // len(found))}
    assert {slot.environment["OMP_NUM_THREADS"] for slot in found} == {str(found[0].n_threads)}
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found], said.getvalue()


def test_a_gpu_gets_as_many_workers_as_it_feeds_and_that_is_said(tmp_path: Path) -> None:
    bench = Pretended({"Big": 3})
    labels, said = seats(tmp_path, bench, BIG)
    assert labels == ["GPU-0"] * 3
    assert "measuring how many workers a Big can feed" in said
    assert (
        "GPU 0: Big: 1 worker 10 steps/s, 2 workers 20, 3 workers 30, 4 workers 30: 3 workers (worker 4 adds 0%" in said
    )
    assert "2.0 GiB each, 98 free" in said


def test_each_kind_is_measured_once_on_its_first_gpu(tmp_path: Path) -> None:
    bench = Pretended({"Big": 3, "Small": 1})
    labels, said = seats(tmp_path, bench, BIG, OTHER, SMALL)
    assert bench.opened == [("GPU 0: Big", 5), ("GPU 2: Small", 5)], "16 cores for 3 GPUs"
    assert labels == ["GPU-0", "GPU-1", "GPU-2", "GPU-0", "GPU-1", "GPU-0", "GPU-1"]
    assert "GPU 0: Big and 1 more of the kind: 1 worker" in said


def test_a_continuation_does_not_measure_again(tmp_path: Path) -> None:
    first = seats(tmp_path, bench := Pretended({"Big": 2}), BIG)
    again = seats(tmp_path, Pretended({"Big": 8}), BIG)
    assert again[0] == first[0] == ["GPU-0"] * 2
    assert "measuring" not in again[1]
    assert bench.n_asked == 3
    third = Pretended({"Big": 2, "Small": 4})
    assert seats(tmp_path, third, BIG, SMALL)[0] == ["GPU-0", "GPU-2", "GPU-0", "GPU-2", "GPU-2", "GPU-2"]
    assert third.opened == [("GPU 2: Small", 8)], "only the kind that is new"


def test_a_continuation_heeds_what_is_free_now(tmp_path: Path) -> None:
    seats(tmp_path, Pretended({"Big": 4}), BIG)
    bench = Pretended({"Big": 4})
    labels, said = seats(tmp_path, bench, BIG, free={"GPU-0": 5000})
    assert labels == ["GPU-0"] * 2
    assert bench.opened == []
    assert "3 workers would need" in said


def test_a_measurement_that_a_limit_cut_short_is_made_anew_without_the_limit(tmp_path: Path) -> None:
    assert seats(tmp_path, Pretended({"Big": 4}), BIG, n_missing=2)[0] == ["GPU-0"] * 2
    bench = Pretended({"Big": 4})
    assert seats(tmp_path, bench, BIG)[0] == ["GPU-0"] * 4
    assert bench.n_asked == 5
    assert seats(tmp_path, bench, BIG, n_missing=1)[0] == ["GPU-0"]
    assert seats(tmp_path, bench, BIG)[0] == ["GPU-0"] * 4
    assert bench.n_asked == 5, "the last trial of a run has not cost what was known"


def test_what_another_torch_did_is_measured_again(tmp_path: Path) -> None:
    seats(tmp_path, Pretended({"Big": 2}), BIG)
    path = tmp_path / "s" / "sharing.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "torch": "0.1"}))
    assert seats(tmp_path, Pretended({"Big": 3}), BIG)[0] == ["GPU-0"] * 3


def test_the_fullest_gpu_of_a_kind_decides_about_memory(tmp_path: Path) -> None:
    labels, _ = seats(tmp_path, Pretended({"Big": 8}), BIG, OTHER, free={"GPU-0": 100_000, "GPU-1": 5000})
    assert labels == ["GPU-0", "GPU-1"] * 2
    other = tmp_path / "other"
    other.mkdir()
    labels, said = seats(other, Pretended({"Big": 8}), BIG, OTHER, free={"GPU-0": 100_000})
    assert labels == ["GPU-0", "GPU-1"]
    assert "how much memory is free is not known" in said


@pytest.mark.parametrize(("window", "n_seats"), [(1, 1), (2, 2), (3, 3), (20, 6)])
def test_a_deterministic_study_has_no_more_workers_than_its_window(tmp_path: Path, window: int, n_seats: int) -> None:
    bench = Pretended({"Big": 3})
    labels, _ = seats(tmp_path, bench, BIG, OTHER, deterministic=window)
    assert len(labels) == n_seats
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
    assert seats_that_pay(config, slots, FakeEvaluator(), TASK, setup, 4, Console(file=said, width=200)) == slots
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

    def seats_with_pretended_memory(*arguments: Any) -> tuple[Slot, ...]:
        return seats_that_pay(*arguments, free_memory=free, n_cores=2)

    monkeypatch.setattr(whole_run, "seats_that_pay", seats_with_pretended_memory)
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
    assert {trial.worker for trial in summary.evaluations} <= set(range(facts["n_workers"]))
