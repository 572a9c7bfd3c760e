"""Trials that are asked before a slot is free for them: each once, and where results are awaited the same study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coordinator_helpers import Bench

from unetx_evaluators.evaluation import Evaluation
from unetx_evaluators.fake import FakeEvaluator
from unetx_search.coordinator import Coordinator


class Looking:
    """Notes how many trials are recorded while it evaluates."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.seen = bench, list[int]()

    def evaluate(self, *args: Any, **kwargs: Any) -> Evaluation:
        self.seen.append(len(self.bench.records.trials()))
        return FakeEvaluator().evaluate(*args, **kwargs)


def test_each_slot_has_its_next_trial_ready_and_every_trial_runs_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    looking = Looking(bench)
    bench.run(looking, 6, ahead=2)
    assert looking.seen == [3, 4, 5, 6, 6, 6], "its own, two ahead, and those before"
    assert sorted(bench.notes.finished) == list(range(6))
    assert [trial.n_starts for trial in bench.records_now] == [1] * 6


@pytest.mark.parametrize("ahead", [1, 4])
def test_a_study_that_awaits_results_is_the_same_with_trials_asked_ahead(tmp_path: Path, ahead: int) -> None:
    asked = []
    for name, options in (("plain", {}), ("ahead", {"ahead": ahead})):
        bench = Bench(tmp_path / name)
        bench.folder.mkdir()
        bench.run(FakeEvaluator(), 14, lag=3, **options)
        asked.append([(trial.key, trial.score, trial.outcome, trial.why) for trial in bench.records_now])
    assert asked[0] == asked[1]


def test_what_was_asked_ahead_of_a_stop_runs_in_the_next_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open(FakeEvaluator(), 8, ahead=3) as coordinator:
        stop_after_two(bench, coordinator)
        coordinator.run()
    bench.look()
    before = [trial.key for trial in bench.records_now]
    assert len(before) == 5
    assert sorted(bench.notes.finished) == [0, 1]
    bench.run(FakeEvaluator(), 8)
    assert [trial.key for trial in bench.records_now][:5] == before
    assert sorted(bench.notes.finished) == list(range(8))


def stop_after_two(bench: Bench, coordinator: Coordinator) -> None:
    note = bench.notes.trial_finished

    def noting(*args: object) -> None:
        note(*args)  # type: ignore[arg-type]
        if len(bench.notes.finished) == 2:
            coordinator.stop()

    bench.notes.trial_finished = noting  # type: ignore[method-assign, assignment]
