"""One seed, one study: whatever the number of workers, the order of their results, and the crashes in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from coordinator_helpers import Bench
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from shuffled_executor import ShuffledExecutor

from unetx_evaluators.evaluation import Budget
from unetx_evaluators.fake import FakeEvaluator
from unetx_search.pruners import PRUNERS, with_rungs_for

N_TRIALS = 18
LAG = 4


def run(folder: Path, n_slots: int, order: int, lag: int | None = LAG, pruner: str = "median") -> tuple[Bench, int]:
    """A study; the most jobs that were under way at once."""
    bench = Bench(folder)
    budget = with_rungs_for(pruner, Budget(18, 1, 0.25, (6, 12, 18), validation_cases=3))
    bench.setup = replace(bench.setup, budget=budget)
    bench.pruner = lambda: PRUNERS[pruner](budget)
    executor = ShuffledExecutor(n_slots, order)
    bench.executor_of = lambda _: executor
    bench.run(FakeEvaluator(), N_TRIALS, lag=lag)
    return bench, executor.most_at_once


def facts(bench: Bench) -> Sequence[object]:
    return [(r.number, r.key, r.seed, str(r.origin), r.outcome, r.score) for r in bench.records_now]


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_any_number_of_workers_up_to_the_lag_gives_the_same_study(tmp_path: Path, pruner: str) -> None:
    expected, _ = run(tmp_path / "alone", 1, 0, pruner=pruner)
    assert {"pruned", "complete"} <= {record.outcome for record in expected.records_now}
    assert "sampler" in {str(record.origin) for record in expected.records_now}
    for n_slots, order in ((2, 1), (3, 2), (LAG, 3), (LAG, 4), (LAG + 3, 5)):
        found, most_at_once = run(tmp_path / f"{n_slots}-{order}", n_slots, order, pruner=pruner)
        assert facts(found) == facts(expected)
        assert [d.why for d in found.records_now] == [d.why for d in expected.records_now]
        assert most_at_once == min(n_slots, LAG)


def test_without_a_lag_the_order_of_results_shows(tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    stories = [facts(run(tmp_path / str(order), LAG, order, lag=None)[0]) for order in range(3)]
    assert any(story != stories[0] for story in stories)


def test_a_crash_in_between_changes_nothing(tmp_path: Path) -> None:
    expected, _ = run(tmp_path / "whole", 1, 0)
    bench = Bench(tmp_path / "crashed")
    bench.setup, bench.pruner = expected.setup, expected.pruner
    for order, last in ((1, 5), (2, 9)):
        bench.executor_of = lambda _, order=order: ShuffledExecutor(3, order)  # type: ignore[misc]
        with bench.crash_after(last):
            bench.run(FakeEvaluator(), N_TRIALS, lag=LAG)
    bench.executor_of = lambda _: ShuffledExecutor(LAG, 3)
    bench.run(FakeEvaluator(), N_TRIALS, lag=LAG)
    assert facts(bench) == facts(expected)


class Watching(BaseSampler):
    """A sampler that writes down which trials it is shown, and in what state."""

    def __init__(self, seen: dict[int, list[tuple[int, str]]]) -> None:
        self.seen = seen

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.seen[trial.number] = [(t.number, t.state.name) for t in study.get_trials(deepcopy=False)]
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, *args: Any) -> Any:
        raise AssertionError("not needed")


class WatchingPruner(BasePruner):
    """The same for pruning."""

    def __init__(self) -> None:
        self.seen: dict[int, list[int]] = {}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        assert all(t.state.is_finished() for t in study.get_trials(deepcopy=False))
        self.seen[trial.number] = [t.number for t in study.get_trials(deepcopy=False)]
        return False


def test_proposal_and_pruning_of_trial_n_see_exactly_the_trials_up_to_n_minus_lag(tmp_path: Path) -> None:
    proposals: dict[int, list[tuple[int, str]]] = {}
    pruner = WatchingPruner()
    bench = Bench(tmp_path)
    bench.sampler_of = lambda seed: Watching(proposals)
    bench.pruner = lambda: pruner
    bench.executor_of = lambda _: ShuffledExecutor(LAG, 0)
    bench.run(FakeEvaluator(), N_TRIALS, lag=LAG, reseed=0.0)
    for number in range(2, N_TRIALS):  # the first two are presets
        assert proposals[number] == [(n, "COMPLETE") for n in range(number - LAG + 1)]
        assert pruner.seen[number] == list(range(number - LAG + 1))
        seen = f"exactly trials 0..{number - LAG}" if number >= LAG else "no trial"
        assert bench.records_now[number].why.endswith(f"it saw {seen}")


def test_every_trial_has_a_reason_and_a_sampler_of_its_own_seed(tmp_path: Path) -> None:
    seeds: list[int] = []

    def sampler_of(seed: int) -> BaseSampler:
        seeds.append(seed)
        return Watching({})

    def play(folder: Path, totals: Sequence[int]) -> list[str]:
        bench = Bench(folder)
        bench.sampler_of = sampler_of
        for total in totals:
            bench.run(FakeEvaluator(), total, reseed=0.0)
        return [record.why for record in bench.records_now]

    whole = play(tmp_path / "whole", [8])
    in_parts = play(tmp_path / "parts", [3, 5, 8])
    assert len(whole) == 8
    assert whole == in_parts
    assert seeds[:6] == seeds[6:], "continuing gives the seeds that one run gives"
    assert len(set(seeds)) == 6
