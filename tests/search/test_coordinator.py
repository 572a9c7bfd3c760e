"""The coordinator with a fake evaluator in this process and a real database: exact totals, what reaches Optuna."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from coordinator_helpers import BACKBONE, SETUP, Bench
from executor_helpers import TASK
from optuna.trial import TrialState

from unetx_evaluators.evaluation import CurvePoint, Evaluator, Outcome
from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_search.config import Diagnosis
from unetx_search.coordinator import SearchFailed
from unetx_search.executors.base import Handler, Job
from unetx_search.executors.inline import InlineExecutor
from unetx_space.canonical import canonical, key
from unetx_space.cost import cost
from unetx_space.design_space import design_space, narrowed
from unetx_space.presets import PRESETS
from unetx_studies.candidate import OriginKind
from unetx_studies.processes import this_process
from unetx_studies.ranking import Ranking
from unetx_studies.store import Records, open_store


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "s")


def test_a_study_reaches_its_total_with_one_record_for_every_trial(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 12)
    assert [record.number for record in bench.records_now] == list(range(12))
    assert [trial.number for trial in bench.trials] == list(range(12))
    for record, trial in zip(bench.records_now, bench.trials, strict=True):
        assert record.outcome is not None
        expected = TrialState.COMPLETE if record.outcome is Outcome.COMPLETE else TrialState.PRUNED
        assert trial.state is expected
        assert trial.value == pytest.approx(record.score)
        assert trial.user_attrs["origin"] == str(record.origin)


def test_the_presets_come_first_and_are_never_pruned(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 12)
    assert [str(record.origin) for record in bench.records_now[:2]] == ["preset u-net", "preset no-skip"]
    assert [record.outcome for record in bench.records_now[:2]] == [Outcome.COMPLETE] * 2
    unet = SETUP.architecture(PRESETS["u-net"].genome(BACKBONE.n_levels))
    assert bench.records_now[0].key == key(unet)
    assert Outcome.PRUNED in {record.outcome for record in bench.records_now}, "the pruner had its say elsewhere"


@pytest.mark.parametrize("name", ["default", "full-scale", "nested"])
def test_presets_are_exact_in_every_whole_space(bench: Bench, name: str) -> None:
    bench.setup = replace(SETUP, space=design_space(name, BACKBONE.n_levels))
    bench.run(FakeEvaluator(), 3)
    assert [str(record.origin) for record in bench.records_now[:2]] == ["preset u-net", "preset no-skip"]
    for record, preset in zip(bench.records_now, ("u-net", "no-skip"), strict=False):
        assert record.key == key(SETUP.architecture(PRESETS[preset].genome(BACKBONE.n_levels)))


def test_in_a_narrowed_space_presets_are_adapted_and_say_so(bench: Bench) -> None:
    bench.setup = replace(SETUP, space=narrowed(SETUP.space, upsampler="linear", attention="se@block"))
    bench.run(FakeEvaluator(), 3)
    assert [str(r.origin) for r in bench.records_now[:2]] == ["preset u-net, adapted", "preset no-skip, adapted"]
    with open_store(bench.url, create=False) as store:
        unet = Records(store, "s").architecture(bench.records_now[0].key)
    for node in unet.genome.nodes:
        assert [str(source) for source in node.sources] == [f"E{node.ref.level}"]
        assert (node.upsampler, str(node.attention)) == ("linear", "se@block")


def test_presets_that_fall_together_are_tried_once(bench: Bench) -> None:
    bench.setup = replace(SETUP, space=narrowed(SETUP.space, sources="finer"))
    bench.run(FakeEvaluator(), 3)
    assert [str(r.origin) for r in bench.records_now] == ["preset u-net, adapted", "random", "random"]


def test_every_design_is_new_valid_and_inside_the_cost_limit(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 12)
    proposed = [record for record in bench.records_now if record.origin.kind is not OriginKind.REPLICATE]
    assert len({record.key for record in proposed}) == len(proposed) == 9
    with open_store(bench.url, create=False) as store:
        records = Records(store, "s")
        designs = [records.architecture(record.key) for record in bench.records_now]
    assert all(cost(design, TASK.patch).macs <= 4 * cost(SETUP.u_net, TASK.patch).macs for design in designs)
    assert all(canonical(design.genome) == design.genome for design in designs)


def test_the_best_is_announced_each_time_it_changes(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 10)
    announced: list[int] = []
    for n in range(1, 11):  # results come in the order of their trials here
        best = Ranking(bench.records_now[:n]).best
        assert best is not None
        if [best.number] != announced[-1:]:
            announced.append(best.number)
    assert bench.notes.bests == announced


class NotingExecutor(InlineExecutor):
    """Keeps the jobs that it was given."""

    def __init__(self, evaluator: Evaluator) -> None:
        super().__init__(evaluator, TASK)
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        super().submit(job)


@pytest.mark.parametrize("lag", [None, 4])
def test_presets_are_diagnosed_and_others_when_they_beat_what_was_seen(bench: Bench, lag: int | None) -> None:
    executor = NotingExecutor(FakeEvaluator())
    bench.executor_of = lambda _: executor
    bench.run(FakeEvaluator(), 9, lag=lag)
    bench.run(FakeEvaluator(), 12, lag=lag)  # the second run knows the scores of the first
    for job in executor.jobs:
        best = Ranking(bench.records_now[: max(0, job.trial + 1 - (lag or 1))]).best
        is_given = bench.records_now[job.trial].origin.kind is OriginKind.PRESET
        assert job.diagnosed_above == (-math.inf if best is None or is_given else best.dice)
    assert len(executor.jobs) == 12


@pytest.mark.parametrize(("diagnosis", "above"), [("all", -math.inf), ("none", math.inf)])
def test_all_trials_can_be_diagnosed_and_none(bench: Bench, diagnosis: Diagnosis, above: float) -> None:
    executor = NotingExecutor(FakeEvaluator())
    bench.executor_of = lambda _: executor
    bench.run(FakeEvaluator(), 4, diagnosis=diagnosis)
    assert {job.diagnosed_above for job in executor.jobs} == {above}


def test_a_study_is_continued_to_a_higher_total_and_not_beyond(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 5)
    bench.run(FakeEvaluator(), 8)
    assert [trial.number for trial in bench.trials] == list(range(8))
    before = bench.records_now
    bench.run(FakeEvaluator(), 8)
    assert bench.records_now == before


def test_a_total_of_one_is_the_u_net_alone_and_the_next_is_the_no_skip_net(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 1)
    assert [str(record.origin) for record in bench.records_now] == ["preset u-net"]
    assert len(bench.trials) == 1
    bench.run(FakeEvaluator(), 3)
    assert [str(record.origin) for record in bench.records_now] == ["preset u-net", "preset no-skip", "random"]


@pytest.mark.parametrize(
    ("act", "outcome", "state", "violation"),
    [
        (Outcome.INFEASIBLE, Outcome.INFEASIBLE, TrialState.PRUNED, 1.0),
        (Outcome.OUT_OF_MEMORY, Outcome.OUT_OF_MEMORY, TrialState.PRUNED, 1.0),
        (Outcome.DIVERGED, Outcome.DIVERGED, TrialState.PRUNED, 1.0),
        (Outcome.TIMED_OUT, Outcome.TIMED_OUT, TrialState.FAIL, None),
        (Outcome.DATA_ERROR, Outcome.DATA_ERROR, TrialState.FAIL, None),
        (InjectedFault.RAISE, Outcome.CRASHED, TrialState.FAIL, None),
    ],
)
def test_every_ending_counts_and_reaches_optuna_as_designed(
    bench: Bench,
    tmp_path: Path,
    act: Outcome | InjectedFault,
    outcome: Outcome,
    state: TrialState,
    violation: float | None,
) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    bench.run(FakeEvaluator(acts_by_call={2: act}, calls_folder=calls), 4)
    assert bench.records_now[2].outcome is outcome
    assert bench.trials[2].state is state
    assert bench.trials[2].constraints.get("trainable") == violation
    assert len(bench.trials) == 4


def test_a_search_whose_first_five_evaluations_all_fail_stops_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    broken = FakeEvaluator(acts_by_call=dict.fromkeys(range(100), Outcome.DATA_ERROR), calls_folder=calls)
    with pytest.raises(SearchFailed, match=r"first 5 evaluations.*data-error"):
        bench.run(broken, 50)
    assert len(bench.notes.finished) == 5


def test_an_interrupted_trial_is_run_again_under_the_same_number_and_design(bench: Bench) -> None:
    with bench.open(FakeEvaluator(), 5) as coordinator:
        rungs = itertools.count()
        original = coordinator.on_rung

        def stop_in_the_third_trial(trial: int, point: CurvePoint) -> bool:
            answer = original(trial, point)
            if next(rungs) == 4:
                coordinator.stop()
                bench.executor.interrupt()
            return answer

        coordinator.on_rung = stop_in_the_third_trial  # type: ignore[method-assign]
        coordinator.run()
        left = bench.records.trial(2)
    assert coordinator.was_stopped
    assert bench.notes.interrupted == [2]
    assert left is not None
    assert left.outcome is None
    bench.run(FakeEvaluator(), 5)
    assert [trial.number for trial in bench.trials] == list(range(5))
    assert bench.records_now[2].key == left.key
    assert bench.records_now[2].seed == left.seed
    assert bench.records_now[2].outcome is not None


def test_rungs_and_final_scores_reach_optunas_curves(bench: Bench) -> None:
    bench.run(FakeEvaluator(), 2)
    assert sorted(bench.trials[0].intermediate_values) == [2, 4, 6]
    assert bench.trials[0].intermediate_values[6] == pytest.approx(bench.trials[0].value)


def test_the_same_seed_gives_the_same_study(tmp_path: Path) -> None:
    studies = []
    for name in ("one", "two"):
        bench = Bench(tmp_path / name)
        bench.run(FakeEvaluator(), 10)
        studies.append([(r.key, r.seed, r.score, r.outcome) for r in bench.records_now])
    assert studies[0] == studies[1]


class Preempting(InlineExecutor):
    """Preempts a trial at its first starts, after so many rungs and at such a step each time."""

    def __init__(self, trial: int, rungs: Sequence[int], steps: Iterable[int] = ()) -> None:
        super().__init__(FakeEvaluator(), TASK)
        self._trial = trial
        self._rungs = list(rungs)
        self._steps = iter(steps)
        self.waits = 0
        """Times that the trial was asked about and not taken."""

    def poll(self, handler: Handler, timeout_s: float) -> None:
        job = self._job
        if job is None or job.trial != self._trial or not self._rungs:
            super().poll(handler, timeout_s)
            return
        self._job = None
        handler.on_started(job.trial, 0, "here", this_process())
        for step in job.budget.rungs[: self._rungs.pop(0)]:
            handler.on_rung(job.trial, CurvePoint(step, 0.9, 0.1, 1.0))
        for step in islice(self._steps, 1):
            handler.on_step(job.trial, step)
        handler.on_preempted(job.trial, "its node is gone")

    def takes(self, trial: int) -> bool:
        is_wait = trial == self._trial and self.waits < 2
        self.waits += is_wait
        return super().takes(trial) and not is_wait


def test_a_trial_that_is_preempted_again_and_again_at_the_same_place_is_given_up(bench: Bench) -> None:
    bench.executor_of = lambda evaluator: Preempting(2, [0] * 5)
    bench.run(FakeEvaluator(), 4)
    given_up = bench.records_now[2]
    assert (given_up.outcome, given_up.n_starts, given_up.n_lost) == (Outcome.CRASHED, 5, 0)
    assert given_up.reason == "preempted 5 times without coming any further; the last: its node is gone"


def test_a_trial_that_comes_further_each_time_may_be_preempted_as_often_as_it_likes(bench: Bench) -> None:
    bench.executor_of = lambda evaluator: Preempting(2, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    bench.run(FakeEvaluator(), 4)
    assert (bench.records_now[2].outcome, bench.records_now[2].n_starts) == (Outcome.COMPLETE, 11)


def test_steps_count_as_coming_further_for_there_are_checkpoints_between_rungs(bench: Bench) -> None:
    bench.executor_of = lambda evaluator: Preempting(2, [0] * 12, [3, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 5])
    bench.run(FakeEvaluator(), 4)
    assert bench.records_now[2].outcome is Outcome.CRASHED
    assert bench.records_now[2].n_starts == 4 + 1 + 5, "four times at step 3 at most, once at 4, five times at 5"


@pytest.mark.parametrize("lag", [None, 1])
def test_a_trial_that_waits_for_another_device_holds_up_nothing_but_what_must_see_it(
    bench: Bench, lag: int | None
) -> None:
    """In a deterministic study the next proposal has to see it, and so it is not made before."""
    executor = Preempting(2, [1])
    bench.executor_of = lambda evaluator: executor
    bench.run(FakeEvaluator(), 5, lag=lag)
    ended = bench.notes.finished
    assert sorted(ended) == [0, 1, 2, 3, 4]
    assert (ended == [0, 1, 2, 3, 4]) is (lag == 1)
    assert executor.waits == 2


def test_why_a_gpu_runs_steps_without_a_graph_is_said_once(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("steps", "eager: operation not permitted when stream is capturing")
    bench.run(FakeEvaluator(shown_variables=("steps",)), 3)
    assert [record.versions["steps"] for record in bench.records_now] == [
        "eager: operation not permitted when stream is capturing"
    ] * 3
    assert caplog.text.count("could not be captured as a CUDA graph (operation not permitted") == 1
