"""Stopping early: which rungs, and who goes on at each."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState

from unetx_evaluators.evaluation import Budget
from unetx_search.pruners import PRUNERS, StoppingHyperband, with_rungs_for

BUDGET = Budget(steps=200, batch_size=8, width_factor=0.25, rungs=(67, 133, 200), validation_cases=24)


@pytest.mark.parametrize("pruner", ["median", "none"])
def test_pruners_that_do_not_halve_keep_the_rungs(pruner: str) -> None:
    assert with_rungs_for(pruner, BUDGET) == BUDGET


@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
@pytest.mark.parametrize(
    ("steps", "rungs"),
    [(200, (22, 66, 200)), (240, (26, 78, 240)), (9, (1, 3, 9)), (5, (1, 3, 5)), (3, (1, 3)), (2, (1, 2)), (1, (1,))],
)
def test_rungs_of_pruners_that_halve_grow_threefold(pruner: str, steps: int, rungs: tuple[int, ...]) -> None:
    budget = Budget(steps, 8, 0.25, (steps,), validation_cases=24)
    assert with_rungs_for(pruner, budget).rungs == rungs


def survivors(pruner: optuna.pruners.BasePruner, budget: Budget, scores: list[float]) -> list[int]:
    """For each trial, one after another, the last step it came to."""
    study = optuna.create_study(direction="maximize", study_name="s", pruner=pruner)
    last = []
    for score in scores:
        trial = study.ask()
        for step in budget.rungs:
            trial.report(score, step)
            if step < budget.steps and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, score)
        last.append(step)
    return last


def test_halving_lets_the_best_third_of_those_that_came_to_a_rung_go_on() -> None:
    """By hand: with n scores at a rung the best n // 3 pass, and the best one always does."""
    budget = with_rungs_for("halving", BUDGET)
    scores = [0.5, 0.4, 0.6, 0.3, 0.55, 0.7, 0.65]
    # At step 22: 0.5 is the best of 1, 0.4 not of 2, 0.6 of 3, 0.3 not, 0.55 not of 5, 0.7 among 2 of 6, 0.65 too.
    # At step 66: 0.5; 0.6; 0.7; 0.65 is not the best of 4.
    assert survivors(PRUNERS["halving"](budget), budget, scores) == [200, 22, 200, 22, 22, 200, 66]


def test_hyperband_spares_some_trials_the_early_rungs_and_hides_nothing_from_the_sampler() -> None:
    budget = with_rungs_for("hyperband", BUDGET)
    falling = [1.0 - number / 100 for number in range(60)]  # each is worse than all before
    last = survivors(PRUNERS["hyperband"](budget), budget, falling)
    assert set(last) == {22, 66, 200}
    halved = survivors(PRUNERS["halving"](budget), budget, falling)
    assert last.count(200) > halved.count(200) == 1
    study = optuna.create_study(direction="maximize", pruner=StoppingHyperband(budget))
    trial = study.ask()
    assert optuna.pruners._filter_study(study, study.get_trials()[0]) is study
    assert trial.number == 0
