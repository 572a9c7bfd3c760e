"""U-Net on a second seed: when, with which seed, and that it confuses nothing; what the search says it measured."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from coordinator_helpers import SETUP, Bench
from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial
from shuffled_executor import ShuffledExecutor

from unetx_evaluators.evaluation import Evaluation, Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_search.run import Summary
from unetx_search.status import read_status, status_json, status_text
from unetx_search.summary import summary_json, summary_text
from unetx_space.architecture import Architecture
from unetx_space.design_space import narrowed
from unetx_studies.evidence import evidence
from unetx_studies.ranking import ranking

REPLICATE = "replicate of preset u-net"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "s")


class Strict(BasePruner):
    """Stops whatever it may."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return True


def summary_of(bench: Bench) -> Summary:
    records = tuple(bench.records_now)
    return Summary("s", bench.folder, "study.db", len(records), records, was_complete=False, was_stopped=False)


def test_u_net_comes_a_second_time_right_after_the_presets_with_the_next_seed_and_is_never_pruned(bench: Bench) -> None:
    bench.pruner = Strict
    bench.run(FakeEvaluator(), 10)
    assert [str(r.origin) for r in bench.records_now[:3]] == ["preset u-net", "preset no-skip", REPLICATE]
    first, _, second = bench.records_now[:3]
    assert second.key == first.key
    assert (first.seed, second.seed) == (0, 1)
    assert second.score != first.score
    assert [r.outcome for r in bench.records_now] == [Outcome.COMPLETE] * 3 + [Outcome.PRUNED] * 7
    assert len(bench.trials) == 10, "it counts towards the total"
    assert bench.records_now[2].why == f"{REPLICATE}: given, not proposed"


def test_a_small_study_does_without_and_has_it_once_it_grows(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 9)
    assert REPLICATE not in {str(r.origin) for r in bench.records_now}
    for total in (10, 10, 12):
        bench.run(FakeEvaluator(), total)
        assert [r.number for r in bench.records_now if str(r.origin) == REPLICATE] == [9]
        assert [trial.number for trial in bench.trials] == list(range(total))


def test_adapted_presets_that_fall_together_are_repeated_once(bench: Bench) -> None:
    bench.setup = replace(SETUP, space=narrowed(SETUP.space, sources="finer"))
    bench.run(FakeEvaluator(), 10)
    origins = [str(r.origin) for r in bench.records_now[:3]]
    assert origins == ["preset u-net, adapted", f"{REPLICATE}, adapted", "random"]


def test_a_study_has_one_second_seed_whenever_it_was_interrupted(tmp_path: Path) -> None:
    whole = Bench(tmp_path / "whole")
    whole.run(FakeEvaluator(), 10)
    for stop_at in (1, 2):
        bench = Bench(tmp_path / str(stop_at))

        def stop(trial: int, evaluation: Evaluation, is_best: bool, last: int = stop_at) -> None:
            if trial == last:
                raise KeyboardInterrupt

        bench.notes.trial_finished = stop  # type: ignore[method-assign]
        with suppress(KeyboardInterrupt):
            bench.run(FakeEvaluator(), 10)
        bench.notes.trial_finished = lambda trial, evaluation, is_best: None  # type: ignore[method-assign]
        bench.run(FakeEvaluator(), 10)
        assert [(r.key, r.seed, str(r.origin), r.score) for r in bench.records_now] == [
            (r.key, r.seed, str(r.origin), r.score) for r in whole.records_now
        ]


class Lucky(FakeEvaluator):
    """Whatever is evaluated under seed 1 comes out best."""

    def final_score(self, architecture: Architecture, seed: int) -> float:
        return 0.99 if seed == 1 else super().final_score(architecture, seed)


def test_a_second_seed_that_shines_makes_u_net_no_better(bench: Bench) -> None:
    bench.run(Lucky(), 10)
    assert bench.records_now[2].score == pytest.approx(0.99)
    summary = summary_of(bench)
    unet = summary.preset("u-net")
    assert unet is not None
    assert unet.number == 0
    assert unet in summary.ranking
    assert bench.records_now[2] not in summary.ranking
    assert len(summary.ranking) == len({r.key for r in summary.ranking})
    assert summary.best is not None
    assert summary.best.number == bench.notes.bests[-1] != 2
    assert read_status(bench.folder).best == summary.best == next(iter(ranking(bench.stored().trials())))
    assert summary_text(summary).count("preset u-net") == 1


def test_a_second_seed_that_is_the_first_to_end_hands_its_place_to_the_first(bench: Bench) -> None:
    bench.executor_of = lambda _: ShuffledExecutor(3, 0, Lucky())
    bench.run(Lucky(), 10)
    assert bench.notes.finished.index(2) < bench.notes.finished.index(0)
    assert 2 in bench.notes.bests
    best = next(iter(ranking(bench.stored().trials())))
    assert best is not None
    assert best.number == bench.notes.bests[-1] != 2


def test_after_twenty_finished_trials_it_is_said_once_what_was_measured(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 19)
    assert bench.notes.measured_after == {}
    for total in (23, 25):
        bench.run(FakeEvaluator(), total)
    [(after, told)] = bench.notes.measured_after.items()
    assert after == 20
    assert told == evidence(bench.records_now[:20])
    assert told.seeds is not None
    assert told.seeds.degrees_of_freedom >= 1


def test_summary_status_and_their_json_tell_the_same(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 10)
    summary, status = summary_of(bench), read_status(bench.folder)
    found = evidence(bench.records_now)
    assert found.seeds is not None
    deviation = f"standard deviation {found.seeds.deviation:.4f} between seeds"
    assert deviation in summary_text(summary)
    assert deviation in status_text(status)
    facts = json.loads(summary_json(summary))["evidence"]
    assert facts == json.loads(status_json(status))["evidence"]
    assert facts["lead_of_best"] == found.lead_of_best
    assert facts["seeds"]["deviation"] == found.seeds.deviation
