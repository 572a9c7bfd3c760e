"""Whole searches that train the best designs again: how many, with which seeds, and what is told of them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from coordinator_helpers import SETUP, Bench
from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial
from shuffled_executor import ShuffledExecutor

from unetx_evaluators.evaluation import Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_search.cheapest import cheapest
from unetx_search.proposals import estimates
from unetx_search.reseeding import FIRST_DESIGNS
from unetx_search.run import Summary
from unetx_search.status import read_status, status_json, status_text
from unetx_search.summary import summary_json, summary_text
from unetx_space.design_space import narrowed
from unetx_studies.candidate import OriginKind
from unetx_studies.evidence import evidence
from unetx_studies.ranking import Ranking
from unetx_studies.store import TrialRecord


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "s")


class Strict(BasePruner):
    """Stops whatever it may."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return True


def replicates(bench: Bench) -> list[TrialRecord]:
    return [record for record in bench.records_now if record.origin.kind is OriginKind.REPLICATE]


def facts(bench: Bench) -> list[object]:
    return [(r.number, r.key, r.seed, str(r.origin), r.outcome, r.score, r.why) for r in bench.records_now]


def summary_of(bench: Bench) -> Summary:
    records = tuple(bench.records_now)
    found = cheapest(Ranking(records), SETUP.u_net_key, "macs", 0.005, lambda trial: trial.macs)
    return Summary("s", bench.folder, "study.db", len(records), records, False, False, cheapest=found)


def seeds_by_design(bench: Bench) -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for record in bench.records_now:
        found[record.key].append(record.seed)
    return found


@pytest.mark.parametrize(("total", "n_slots"), [(20, 1), (20, 4), (40, 4)])
def test_the_last_share_of_the_total_trains_the_best_and_u_net_again(bench: Bench, total: int, n_slots: int) -> None:
    bench.executor_of = lambda _: ShuffledExecutor(n_slots, 1)
    bench.run(FakeEvaluator(), total)
    assert [record.number for record in bench.records_now] == list(range(total)), "--trials is exact"
    again = replicates(bench)
    early = [FIRST_DESIGNS] if total == 40 else []  # U-Net's second seed
    n_late = int(0.3 * total) - len(early)
    assert [record.number for record in again] == [*early, *range(total - n_late, total)]
    designs = seeds_by_design(bench)
    assert all(seeds == list(range(len(seeds))) for seeds in designs.values()), "the shared list, from its start"
    assert len(designs[bench.records_now[0].key]) > 1, "U-Net"
    best = Ranking(bench.records_now).best
    assert best is not None
    assert len(best.seeds) > 1
    first = bench.records_now[0]
    of_u_net = next(record for record in again if record.key == first.key)
    assert (of_u_net.params, of_u_net.macs, str(of_u_net.origin)) == (
        first.params, first.macs, "replicate of preset u-net",
    )  # fmt: skip
    other = next(record for record in again if not record.origin.is_given)
    assert str(other.origin) == f"replicate of trial {other.origin.trial}"
    assert bench.records_now[other.origin.trial or 0].key == other.key
    assert other.why.startswith(f"trial {other.origin.trial} again with seed {other.seed}; it saw ")
    assert len(bench.trials) == total, "each is an Optuna trial of its own"


def test_without_re_seeding_every_trial_is_another_design(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 20, reseed=0.0)
    assert len(seeds_by_design(bench)) == 20
    assert {record.seed for record in bench.records_now} == {0}


def test_replicates_are_never_stopped_early(bench: Bench) -> None:
    bench.pruner = Strict
    bench.run(FakeEvaluator(), 20, reseed=0.5)
    again = replicates(bench)
    assert len(again) == 10
    assert {record.outcome for record in again} == {Outcome.COMPLETE}
    assert [r.outcome for r in bench.records_now[:10]] == [Outcome.COMPLETE] * 2 + [Outcome.PRUNED] * 8
    assert len({record.key for record in again}) == 2, "what was stopped early has no score to be chosen for"


@pytest.mark.parametrize("n_slots", [1, 3])
def test_under_a_lag_crashes_and_the_number_of_workers_change_no_replicate(tmp_path: Path, n_slots: int) -> None:
    whole = Bench(tmp_path / "whole")
    whole.run(FakeEvaluator(), 20, lag=3)
    assert len(replicates(whole)) == 6
    bench = Bench(tmp_path / "killed")
    for order, last in enumerate((1, 13, 16, 18)):
        bench.executor_of = lambda _, order=order: ShuffledExecutor(n_slots, order)  # type: ignore[misc]
        with bench.crash_after(last):
            bench.run(FakeEvaluator(), 20, lag=3)
    bench.run(FakeEvaluator(), 20, lag=3)
    assert facts(bench) == facts(whole)


def test_one_worker_killed_and_continued_makes_the_undisturbed_study(tmp_path: Path) -> None:
    whole, parts = Bench(tmp_path / "whole"), Bench(tmp_path / "parts")
    whole.run(FakeEvaluator(), 20, lag=1)
    for last in (5, 15, 17):
        with parts.crash_after(last):
            parts.run(FakeEvaluator(), 20, lag=1)
    parts.run(FakeEvaluator(), 20, lag=1)
    assert facts(parts) == facts(whole)


def test_a_raised_total_has_new_designs_first_and_then_its_own_share(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 10)
    assert [record.number for record in replicates(bench)] == [7, 8, 9]
    bench.run(FakeEvaluator(), 40)
    assert len(bench.records_now) == 40
    assert [record.number for record in replicates(bench)] == [7, 8, 9, *range(31, 40)]
    assert len(seeds_by_design(bench)) == 28


def test_the_sampler_finds_each_design_once_by_its_estimate(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 10)
    ranking = Ranking(bench.records_now)
    with bench.open(FakeEvaluator(), 20) as coordinator:
        coordinator._resume()
        with coordinator._study.seeing(None, estimates(ranking)):
            shown = coordinator._study.study.get_trials()
    assert {t.number: t.value for t in shown if t.value is not None and t.state.name == "COMPLETE"} == {
        one.number: one.estimate for one in ranking.designs
    }
    assert len(shown) == 7


def test_a_space_that_is_exhausted_gives_replicates_to_the_total(bench: Bench) -> None:
    space = narrowed(SETUP.space, sources="same", attention="none", upsampler="linear", fusion="sum", alignment="max")
    bench.setup = replace(SETUP, space=space)
    bench.executor_of = lambda _: ShuffledExecutor(8, 2)
    bench.run(FakeEvaluator(), 40, lag=8)
    assert len(bench.records_now) == 40
    uses = Counter(record.key for record in bench.records_now)
    assert len(uses) < 28, "or the space was too large for this test"
    assert len(replicates(bench)) == 40 - len(uses)
    assert all(seeds == list(range(len(seeds))) for seeds in seeds_by_design(bench).values())


def test_adapted_presets_that_fall_together_are_one_design(bench: Bench) -> None:
    bench.setup = replace(SETUP, space=narrowed(SETUP.space, sources="finer"))
    bench.run(FakeEvaluator(), 10)
    assert bench.setup.n_given == 1
    assert [str(r.origin) for r in bench.records_now[:2]] == ["preset u-net, adapted", "random"]
    assert "replicate of preset u-net, adapted" in {str(r.origin) for r in bench.records_now}


def test_after_20_trials_it_is_said_once_what_was_measured(bench: Bench) -> None:
    """By then U-Net has a second seed; a run that goes on does not say it again."""
    bench.run(FakeEvaluator(), 30)
    [(after, told)] = bench.notes.measured_after.items()
    assert after == 20
    assert told == evidence(bench.records_now[:20])
    assert told.seeds is not None
    assert told.seeds.degrees_of_freedom == 1
    bench.run(FakeEvaluator(), 40)
    assert len(bench.notes.measured_after) == 1


def test_a_study_that_ends_with_20_trials_says_it_in_its_summary_alone(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 20)
    assert not bench.notes.measured_after


def test_summary_status_and_their_json_tell_the_same(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 20)
    summary, status = summary_of(bench), read_status(bench.folder)
    found, best = evidence(bench.records_now), Ranking(bench.records_now).best
    assert best is not None
    assert found.seeds is not None
    for fact in (f"standard deviation {found.seeds.deviation:.4f} between seeds", f"{best.estimate:.4f}"):
        assert fact in summary_text(summary)
        assert fact in status_text(status)
    one, other = json.loads(summary_json(summary)), json.loads(status_json(status))
    for fact in ("evidence", "best_trial", "best_estimate", "best_standard_error", "best_seeds", "best_dice"):
        assert one[fact] == other[fact]
    assert (one["best_estimate"], one["best_seeds"]) == (best.estimate, list(best.seeds))
    assert one["evidence"]["lead"]["dice"] == found.lead.dice if found.lead else None
    assert summary_text(summary).count("  preset u-net") == 1, "each design has one line"
