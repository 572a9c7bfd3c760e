"""The rounds of a pilot: what they try, what they keep, when they stop, and what they cost at most."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from unetx_evaluators.evaluation import Budget, CurvePoint, Evaluation, Outcome
from unetx_evaluators.pilot import Limits, Pilot, PilotJob, settle, with_steps

BUDGET = Budget(steps=800, batch_size=2, width_factor=0.25, rungs=(267, 533, 800), validation_cases=24)
LIMITS = Limits(max_steps=800)
FINE, COARSE, COARSEST = (1.0, 1.0), (2.0, 2.0), (3.0, 3.0)

ScoreOf = Callable[[PilotJob], float]


def run(score_of: ScoreOf, limits: Limits = LIMITS) -> tuple[Pilot, list[list[PilotJob]]]:
    """The pilot's answer, and the jobs of its rounds."""
    rounds, asked = settle(BUDGET, limits), []
    try:
        jobs = next(rounds)
        while True:
            asked.append(jobs)
            jobs = rounds.send([answer(score_of(job), job.budget.steps) for job in jobs])
    except StopIteration as end:
        return end.value, asked


def answer(score: float, steps: int) -> Evaluation:
    """NaN stands for a training that did not complete."""
    if score != score:
        return Evaluation(Outcome.DIVERGED, "the loss was nan")
    return Evaluation(Outcome.COMPLETE, score=score, curve=(CurvePoint(steps, score, 1.0 - score, 2.0),), seconds=2.0)


def saturating(job: PilotJob) -> float:
    """Twice the steps gain 0.1, 0.05, 0.025, ... from 100 on; the learning rate 3e-3 with weight 1 is best."""
    recipe = job.budget.recipe
    right = (recipe.learning_rate == 3e-3) + (recipe.background_weight == 1.0)
    return 0.7 - 20.0 / job.budget.steps + 0.01 * right


def steps_of(rounds: list[list[PilotJob]]) -> list[list[int]]:
    return [[job.budget.steps for job in jobs] for jobs in rounds]


def test_recipes_race_and_steps_are_doubled_until_they_gain_too_little() -> None:
    pilot, rounds = run(saturating)
    assert steps_of(rounds) == [[200] * 4, [400] * 2, [800]]
    assert (pilot.budget.recipe.learning_rate, pilot.budget.recipe.background_weight) == (3e-3, 1.0)
    assert pilot.budget.steps == 800, "200 to 400 gained 0.05, 400 to 800 gained 0.025"
    assert pilot.still_gaining == pytest.approx(0.025)
    assert "scores still rise" in pilot.reasons["steps"]
    assert pilot.budget == replace(BUDGET, recipe=pilot.budget.recipe)


@pytest.mark.parametrize("max_steps", [801, 802, 803])
def test_every_round_has_twice_the_steps_of_the_one_before(max_steps: int) -> None:
    """So that no training is made twice at almost the same length."""
    _, rounds = run(saturating, replace(LIMITS, max_steps=max_steps))
    assert steps_of(rounds) == [[200] * 4, [400] * 2, [800]]


def test_steps_that_gain_less_than_asked_are_not_taken() -> None:
    pilot, rounds = run(saturating, replace(LIMITS, min_gain=0.03))
    assert steps_of(rounds) == [[200] * 4, [400] * 2, [800], [400]]
    assert [job.seed for job in rounds[-1]] == [1]
    assert pilot.budget.steps == 400
    assert pilot.budget.rungs == (134, 266, 400)
    assert pilot.still_gaining is None
    assert pilot.reasons["steps"] == (
        "400: twice as many, or four times, gain less than 0.03 Dice a doubling in the pilot, and another seed differs "
        "by less (0.6200 after 200, 0.6700 after 400, 0.6950 after 800, 0.6700 after 400 with another seed)"
    )
    assert run(saturating, replace(LIMITS, min_gain=0.06))[0].budget.steps == 200


def test_scores_that_jump_from_seed_to_seed_need_longer_training() -> None:
    """As on nuclei, where half of the steps gave 0.9258 with one seed and 0.8988 with the next."""

    def jumping(job: PilotJob) -> float:
        return 0.93 - (0.03 if job.seed == 1 and job.budget.steps < 800 else 0.0)

    pilot, rounds = run(jumping)
    assert steps_of(rounds) == [[200] * 4, [400] * 2, [800], [200], [400]]
    assert pilot.budget.steps == 800
    assert pilot.still_gaining is None
    assert "0.9000 after 400 with another seed" in pilot.reasons["steps"]
    assert "still rise" not in pilot.reasons["steps"]


def test_a_chance_that_makes_one_doubling_look_useless_does_not_end_the_growth() -> None:
    """A quarter and half are alike, all of it is far better: as it was on a set of small targets."""

    def stalling(job: PilotJob) -> float:
        return {200: 0.474, 400: 0.482, 800: 0.562}[job.budget.steps]

    pilot, _ = run(stalling)
    assert pilot.budget.steps == 800
    assert pilot.still_gaining == pytest.approx(0.08)


def test_what_the_user_has_set_is_not_tried() -> None:
    pilot, rounds = run(saturating, replace(LIMITS, learning_rates=(5e-3,), steps=100))
    assert steps_of(rounds) == [[25, 25], [50, 50]]
    assert {job.budget.recipe.learning_rate for jobs in rounds for job in jobs} == {5e-3}
    assert (pilot.budget.steps, pilot.budget.recipe.learning_rate) == (100, 5e-3)
    assert pilot.reasons["steps"] == "100: set by the user"
    assert pilot.reasons["learning_rate"] == "0.005: set by the user"
    assert "the best of 1, 0.3" in pilot.reasons["background_weight"]


def test_voxel_sizes_are_tried_only_where_they_are_in_question() -> None:
    def coarse_wins(job: PilotJob) -> float:
        return saturating(job) + (0.1 if job.spacing == COARSE else 0.0)

    pilot, rounds = run(coarse_wins, replace(LIMITS, alternatives=(FINE, COARSE)))
    assert [[job.spacing for job in jobs] for jobs in rounds] == [[COARSE] * 4, [COARSE] * 2, [FINE, COARSE]]
    assert steps_of(rounds) == [[200] * 4, [400] * 2, [800] * 2]
    assert pilot.spacing == COARSE
    assert pilot.reasons["spacing"] == (
        "2x2 mm: by Dice on the original voxels in the pilot (0.6950 at 1x1 mm, 0.7950 at 2x2 mm); coarser voxels must "
        "gain 0.02 over finer ones"
    )
    assert run(saturating)[0].spacing is None


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ((0.019, 0.0), FINE),
        ((0.021, 0.0), COARSE),
        ((0.021, 0.04), COARSE),
        ((0.0, 0.021), COARSEST),
        ((-0.1, 0), FINE),
    ],
)
def test_coarser_voxels_must_be_clearly_better_than_what_was_taken_so_far(
    gains: tuple[float, float], chosen: tuple[float, float]
) -> None:
    gain_at: dict[Any, float] = {COARSE: gains[0], COARSEST: gains[1]}

    def gaining(job: PilotJob) -> float:
        return saturating(job) + gain_at.get(job.spacing, 0.0)

    pilot, _ = run(gaining, replace(LIMITS, alternatives=(COARSEST, FINE, COARSE)))
    assert pilot.spacing == chosen


def test_a_training_that_did_not_complete_never_wins() -> None:
    def explodes(job: PilotJob) -> float:
        return float("nan") if job.budget.recipe.learning_rate == 1e-2 else saturating(job)

    pilot, rounds = run(explodes)
    assert pilot.budget.recipe.learning_rate == 3e-3
    assert {job.budget.recipe.learning_rate for job in rounds[1]} == {3e-3}
    assert sum(run.outcome is Outcome.DIVERGED for run in pilot.runs) == 2


@pytest.mark.parametrize("alternatives", [(), (FINE, COARSE)])
@pytest.mark.parametrize("min_gain", [0.0, 0.01, 1.0])
def test_a_pilot_costs_at_most_five_evaluations_of_all_the_steps_that_time_allows(
    min_gain: float, alternatives: tuple[tuple[float, ...], ...]
) -> None:
    """A tenth of 100 trials is ten; an average design costs about twice the U-Net."""
    _, rounds = run(saturating, Limits(max_steps=1600, min_gain=min_gain, alternatives=alternatives))
    assert sum(job.budget.steps for jobs in rounds for job in jobs) <= (5 if alternatives else 4) * 1600


def test_a_pilot_survives_json() -> None:
    pilot, _ = run(saturating, replace(LIMITS, alternatives=(FINE, COARSE)))
    assert Pilot.from_json(json.loads(json.dumps(pilot.to_json()))) == pilot


def test_one_question_left_is_a_question() -> None:
    settled = Limits(max_steps=800, learning_rates=(1e-2,), background_weights=(1.0,), steps=100)
    assert not settled.has_open_choices
    for open_one in (replace(settled, steps=None), replace(settled, alternatives=(FINE, COARSE)), LIMITS):
        assert open_one.has_open_choices


@pytest.mark.parametrize(("steps", "rungs"), [(400, (134, 266, 400)), (2, (1, 2)), (1, (1,)), (800, (267, 533, 800))])
def test_rungs_keep_their_shares_of_the_steps(steps: int, rungs: tuple[int, ...]) -> None:
    assert with_steps(BUDGET, steps).rungs == rungs
