"""The fake evaluator: its formula worked by hand, its promises, its misdeeds."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from unetx_evaluators.evaluation import Budget, CurvePoint, Evaluation, EvaluationInterrupted, NullObserver, Outcome
from unetx_evaluators.fake import CASE_SPREAD, FakeEvaluator, InjectedFault, digest, learning_curve
from unetx_evaluators.tasks.task import Splits, Task
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.genome import Attention, DecoderNode, Genome, decoder, encoder

BUDGET = Budget(steps=8, batch_size=1, width_factor=1.0, rungs=(2, 4, 8), validation_cases=3)
TASK = Task(
    folder=Path("nowhere"),
    name="none",
    source="made up",
    dims=2,
    channels=("ct",),
    classes=("background", "vessel", "lesion"),
    spacing=(1.0, 1.0),
    patch=(32, 32),
    strides=((1, 1), (2, 2), (2, 2)),
    widths=(32, 64, 128),
    splits=Splits(train=("a",), validation=("b", "c", "d", "e"), test=("f",)),
    digest="0",
)
D1 = DecoderNode(decoder(1), encoder(2))
D0 = DecoderNode(decoder(0), decoder(1))


def design(*nodes: DecoderNode) -> Architecture:
    return Architecture(isotropic_backbone(2, n_levels=3), Genome(nodes))


NO_SKIP = design(D1, D0)
U_NET = design(replace(D1, sources=(encoder(1),)), replace(D0, sources=(encoder(0),)))


def evaluate(evaluator: FakeEvaluator, architecture: Architecture = U_NET, seed: int = 0) -> Evaluation:
    return evaluator.evaluate(architecture, TASK, BUDGET, seed, NullObserver())


@pytest.mark.parametrize(
    ("architecture", "score"),
    [
        (NO_SKIP, 0.55 + 0.01),
        (U_NET, 0.55 + 0.25 + 0.01),
        # Of two nodes one reads its own level; the other a foreign one, with attention, and sums.
        (
            design(
                replace(D1, sources=(encoder(1),)),
                replace(D0, sources=(encoder(1),), attention=Attention("se", "source"), fusion="sum"),
            ),
            0.55 + 0.125 + 0.015 + 0.01 + 0.005,
        ),
    ],
)
def test_the_noiseless_score_is_the_formula(architecture: Architecture, score: float) -> None:
    answer = evaluate(FakeEvaluator(noise=0.0), architecture)
    assert answer.outcome is Outcome.COMPLETE
    assert answer.score == pytest.approx(score, abs=1e-12)


def test_noise_is_bounded_drawn_anew_for_each_seed_and_design_and_the_same_again() -> None:
    noises = [
        FakeEvaluator(noise=0.02).final_score(architecture, seed)
        - FakeEvaluator(noise=0.0).final_score(architecture, seed)
        for architecture in (NO_SKIP, U_NET)
        for seed in range(200)
    ]
    assert max(map(abs, noises)) <= 0.02 + 1e-12
    assert len({round(noise, 12) for noise in noises}) == 400
    # Uniform on +-0.02: standard deviation 0.02 / sqrt(3), so the mean of 400 lies within 4 of its own deviations.
    assert abs(sum(noises) / 400) < 4 * 0.02 / math.sqrt(3) / math.sqrt(400)
    assert evaluate(FakeEvaluator()).score == evaluate(FakeEvaluator()).score


def test_another_process_gives_the_same_score() -> None:
    program = (
        "import pickle, sys; evaluator, architecture = pickle.load(sys.stdin.buffer);"
        "print(evaluator.final_score(architecture, 5).hex())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps((FakeEvaluator(), U_NET)),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert float.fromhex(answer.stdout.decode()) == FakeEvaluator().final_score(U_NET, 5)


def test_the_learning_curve_runs_from_nothing_to_everything_and_flattens() -> None:
    assert (learning_curve(0.0), learning_curve(1.0)) == (0.0, 1.0)
    assert learning_curve(0.5) == pytest.approx((1 - math.exp(-2)) / (1 - math.exp(-4)))
    assert learning_curve(0.25) > 0.25


def test_every_rung_is_on_the_curve_and_the_last_is_the_score() -> None:
    answer = evaluate(FakeEvaluator(noise=0.0))
    assert [point.step for point in answer.curve] == [2, 4, 8]
    assert answer.curve[-1].score == answer.score
    assert answer.curve[0].score == pytest.approx(0.81 * learning_curve(0.25))
    assert all(point.loss == 1.0 - point.score for point in answer.curve)


def test_the_mean_over_classes_of_the_mean_over_cases_is_the_score() -> None:
    answer = evaluate(FakeEvaluator())
    assert answer.score is not None
    assert {(score.case, score.class_name) for score in answer.case_scores} == {
        (case, name) for case in "bcd" for name in ("vessel", "lesion")
    }
    dice = [value for score in answer.case_scores if (value := score.values["dice"]) is not None]
    assert sum(dice) / len(dice) == pytest.approx(answer.score)
    assert max(dice) - min(dice) == pytest.approx(2 * CASE_SPREAD)


def test_a_single_validation_case_scores_exactly_the_mean() -> None:
    answer = FakeEvaluator().evaluate(U_NET, TASK, replace(BUDGET, validation_cases=1), 0, NullObserver())
    assert [score.values["dice"] for score in answer.case_scores] == [answer.score] * 2


class Watcher(NullObserver):
    """Prunes at a rung, leaves at a step."""

    def __init__(self, *, prune_at: int = 0, leave_at: int = 0) -> None:
        self.prune_at, self.leave_at = prune_at, leave_at
        self.steps: list[int] = []
        self.rungs: list[int] = []

    def on_step(self, step: int) -> None:
        self.steps.append(step)
        if step == self.leave_at:
            raise EvaluationInterrupted

    def on_rung(self, point: CurvePoint) -> bool:
        self.rungs.append(point.step)
        return point.step == self.prune_at


def test_the_observer_sees_every_step_and_every_rung_but_the_last() -> None:
    watcher = Watcher()
    FakeEvaluator().evaluate(U_NET, TASK, BUDGET, 0, watcher)
    assert (watcher.steps, watcher.rungs) == ([1, 2, 3, 4, 5, 6, 7, 8], [2, 4])


def test_an_observer_that_says_so_prunes() -> None:
    watcher = Watcher(prune_at=4)
    answer = FakeEvaluator().evaluate(U_NET, TASK, BUDGET, 0, watcher)
    assert (answer.outcome, watcher.steps[-1], answer.case_scores) == (Outcome.PRUNED, 4, ())
    assert answer.score == answer.curve[-1].score
    assert answer.reason == "behind at step 4"


def test_an_interrupt_is_let_through() -> None:
    watcher = Watcher(leave_at=3)
    with pytest.raises(EvaluationInterrupted):
        FakeEvaluator().evaluate(U_NET, TASK, BUDGET, 0, watcher)
    assert watcher.steps == [1, 2, 3]


def test_a_budget_of_no_time_is_timed_out() -> None:
    answer = FakeEvaluator().evaluate(U_NET, TASK, replace(BUDGET, max_seconds=-1.0), 0, NullObserver())
    assert (answer.outcome, answer.score) == (Outcome.TIMED_OUT, None)


@pytest.mark.parametrize("outcome", Outcome)
def test_any_outcome_can_be_asked_for_by_seed(outcome: Outcome) -> None:
    evaluator = FakeEvaluator(acts_by_seed={1: outcome})
    answer = evaluate(evaluator, seed=1)
    assert (answer.outcome, bool(answer.reason)) == (outcome, outcome is not Outcome.COMPLETE)
    assert evaluate(evaluator, seed=0).outcome is Outcome.COMPLETE


def test_an_act_can_wait_for_a_step() -> None:
    watcher = Watcher()
    with pytest.raises(ArithmeticError):
        FakeEvaluator(acts_by_seed={0: InjectedFault.RAISE}, act_after_step=4).evaluate(U_NET, TASK, BUDGET, 0, watcher)
    assert (watcher.steps, watcher.rungs) == ([1, 2, 3, 4], [2, 4])


def test_calls_are_counted_and_written_down(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(calls_folder=tmp_path / "calls", acts_by_call={1: Outcome.DIVERGED})
    outcomes = [evaluate(evaluator, seed=seed).outcome for seed in (5, 6, 7)]
    assert outcomes == [Outcome.COMPLETE, Outcome.DIVERGED, Outcome.COMPLETE]
    notes = [json.loads((tmp_path / "calls" / f"{n}.json").read_text(encoding="utf-8")) for n in range(3)]
    assert [note["seed"] for note in notes] == [5, 6, 7]
    assert {(note["pid"], note["digest"]) for note in notes} == {(os.getpid(), digest(U_NET))}


def test_counting_calls_needs_a_folder() -> None:
    with pytest.raises(ValueError, match="calls_folder"):
        FakeEvaluator(acts_by_call={0: InjectedFault.RAISE})


def test_errors_and_answers_on_request_cannot_be_pickled() -> None:
    with pytest.raises(Exception, match="an error on request") as caught:
        evaluate(FakeEvaluator(acts_by_seed={0: InjectedFault.RAISE_UNPICKLABLE}))
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(caught.value)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(evaluate(FakeEvaluator(acts_by_seed={0: InjectedFault.RETURN_UNPICKLABLE})))


def test_it_shows_what_its_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNETX_SEEN", "yes")
    monkeypatch.delenv("UNETX_UNSEEN", raising=False)
    answer = evaluate(FakeEvaluator(shown_variables=("UNETX_SEEN", "UNETX_UNSEEN"), ballast_bytes=10))
    assert {**answer.versions, "torch": ""} == {
        "pid": str(os.getpid()),
        "torch": "",
        "UNETX_SEEN": "yes",
        "ballast": "x" * 10,
    }
    assert answer.versions["torch"] == ("imported" if "torch" in sys.modules else "absent")


def test_an_evaluator_survives_pickling() -> None:
    evaluator = FakeEvaluator(acts_by_seed={1: InjectedFault.HANG, 2: Outcome.PRUNED}, shown_variables=("A",))
    assert pickle.loads(pickle.dumps(evaluator)) == evaluator
