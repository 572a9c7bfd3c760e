"""Pruners, which stop evaluations early, by the names of ``--pruner``, and the rungs that each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from unetx_evaluators.evaluation import Budget

REDUCTION = 3
"""One in so many trials goes on from a rung (eta of Li et al., Hyperband, JMLR 18, 2018, section 2)."""
N_RUNGS = 3
"""The number of rungs, the last of which is the whole budget."""


class StoppingHyperband(BasePruner):
    """Hyperband in its stopping form: a trial's number decides in which bracket it competes, and a trial that loses
    stops for good (Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, section 3.2).

    Optuna's own pruner would also hide the other brackets from the sampler, which has few trials to learn from anyway.
    """

    def __init__(self, budget: Budget) -> None:
        self._brackets = HyperbandPruner(
            min_resource=budget.rungs[0], max_resource=budget.steps, reduction_factor=REDUCTION
        )

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return self._brackets.prune(study, trial)


PRUNERS: Mapping[str, Callable[[Budget], BasePruner]] = {
    "median": lambda budget: MedianPruner(n_startup_trials=5),
    "halving": lambda budget: SuccessiveHalvingPruner(min_resource=budget.rungs[0], reduction_factor=REDUCTION),
    "hyperband": StoppingHyperband,
    "none": lambda budget: NopPruner(),
}
IN_GEOMETRIC_RUNGS = ("halving", "hyperband")


def with_rungs_for(pruner: str, budget: Budget) -> Budget:
    """Return the budget with the rungs at which a pruner decides: steps r, 3r, ... for those that halve."""
    if pruner not in IN_GEOMETRIC_RUNGS:
        return budget
    first = max(1, budget.steps // REDUCTION ** (N_RUNGS - 1))
    early = {first * REDUCTION**rung for rung in range(N_RUNGS - 1)}
    return replace(budget, rungs=(*sorted(step for step in early if step < budget.steps), budget.steps))
