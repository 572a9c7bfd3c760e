"""From a request to what a study is begun with: its data, how they are trained on, and the design space.

A study that has begun keeps what it was begun with. For a new one the dataset's pilot decides what the user left open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from unetx_evaluators.budgets import check_rankable, default_budget
from unetx_evaluators.evaluation import Budget
from unetx_evaluators.pilot import BACKGROUND_WEIGHTS, LEARNING_RATES, Limits, Pilot, Spacing, with_steps
from unetx_evaluators.tasks.cache import task_in_use
from unetx_search.audit.recommendation import AuditFile, Recommendation
from unetx_search.config import SearchConfig, Settled
from unetx_search.piloting import ExecutorOf, PilotFile, piloted
from unetx_search.preparing import prepared_task
from unetx_search.progress import say
from unetx_search.pruners import with_rungs_for

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.tasks import Source, Task
    from unetx_evaluators.tasks.options import Machine
    from unetx_space.design_space import DesignSpace


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request comes to, once its data are prepared and its training is settled."""

    task: Task
    space: DesignSpace
    budget: Budget
    settled: Settled
    pilot: Pilot | None = None
    """None where a study goes on, or nothing was left to a pilot."""


def asked(
    config: SearchConfig,
    source: Source,
    machine: Machine,
    executor_of: ExecutorOf,
    console: Console,
    begun: Mapping[str, Any] | None = None,
) -> Asked:
    """Prepare the data and settle the training; ``begun`` is what the study was begun with, as its settings file says.

    ``executor_of`` opens an executor of the search's workers on a task, for the pilot.
    """

    def prepared(spacing: Spacing | None) -> Task:
        options = config.task_options(machine)
        options = options if spacing is None else replace(options, spacing=spacing)
        return prepared_task(config.folder, source, config.cache_folder, options, console)

    if begun is not None:
        voxels = None if config.spacing is not None else begun.get("pilot_spacing")
        spacing = None if voxels is None else tuple(voxels)
        task, budget, pilot = prepared(spacing), Budget.from_json(begun["budget"]), None
    else:
        task, budget, pilot = trained_on(config, prepared, executor_of, console)
        spacing = None if pilot is None else moved_to(task, pilot)
        task = task if spacing is None else prepared(spacing)
        budget = with_rungs_for(config.pruner, budget)
    if pilot is not None:
        task = replace(task, choices=pilot.choices(task.choices))
    space = config.design_space(len(task.strides))
    return Asked(task, space, budget, Settled.of(config, task, space, budget, pilot_spacing=spacing), pilot)


def audited(config: SearchConfig, found: Asked, console: Console) -> Asked:
    """The same, trained for as many steps as an audit of the task recommends, unless the user has set them."""
    kept = None if config.steps is not None else AuditFile.of(found.task, found.budget).read()
    if kept is None or kept.steps is None:
        return found
    say(console, f"steps by the audit of this dataset (--steps N overrides): {kept.reason}")
    budget = with_rungs_for(config.pruner, with_steps(found.budget, kept.steps))
    task = replace(found.task, choices={**found.task.choices, **audit_choice(kept)})
    return replace(found, task=task, budget=budget, settled=replace(found.settled, budget=asdict(budget)))


def audit_choice(kept: Recommendation) -> dict[str, Any]:
    """Among a task's choices, what its audit says of the steps."""
    if kept.steps is None:
        return {"audit": {"value": None, "reason": kept.reason}}
    return {"steps": {"value": kept.steps, "reason": f"{kept.reason}, by the audit"}}


def trained_on(
    config: SearchConfig, prepared: Callable[[Spacing | None], Task], executor_of: ExecutorOf, console: Console
) -> tuple[Task, Budget, Pilot | None]:
    """The task as planned, how it is trained on, and the pilot that settled that, where one was asked.

    ``prepared`` gives the task at a voxel size, None for the planned one. Raises DataError where no design could be
    ranked, and what ``piloted`` raises.
    """
    task = prepared(None)
    budget, limits = unpiloted_budget(config, task), pilot_limits(config, task)
    check_rankable(task, budget)
    if not config.pilot or not limits.has_open_choices:
        return task, budget, None
    with task_in_use(task):
        pilot = piloted(task, budget, limits, executor_of, prepared, console)
    return task, pilot.budget, pilot


def kept_pilot(config: SearchConfig, task: Task) -> Pilot | None:
    """What a pilot has settled for such a search already; None where it would have to be run."""
    return PilotFile.of(task, unpiloted_budget(config, task), pilot_limits(config, task)).read()


def moved_to(task: Task, pilot: Pilot) -> Spacing | None:
    """The voxel size that a pilot has chosen in the place of the task's own; None where it keeps that."""
    return None if pilot.spacing in (None, *task.alternatives[-1:]) else pilot.spacing


def unpiloted_budget(config: SearchConfig, task: Task) -> Budget:
    """The task's default budget with what the user set; new ``steps`` move the rungs along."""
    budget = default_budget(task)
    recipe = replace(
        budget.recipe,
        learning_rate=config.learning_rate or budget.recipe.learning_rate,
        background_weight=config.background_weight or budget.recipe.background_weight,
    )
    return replace(
        with_steps(budget, config.steps or budget.steps),
        batch_size=config.batch_size or budget.batch_size,
        width_factor=config.width_factor or budget.width_factor,
        validation_cases=config.validation_cases or budget.validation_cases,
        recipe=recipe,
    )


def pilot_limits(config: SearchConfig, task: Task) -> Limits:
    """What the user has left for a pilot to settle."""
    return Limits(
        max_steps=task.max_steps or default_budget(task).steps,
        min_gain=config.pilot_gain,
        learning_rates=LEARNING_RATES if config.learning_rate is None else (config.learning_rate,),
        background_weights=BACKGROUND_WEIGHTS if config.background_weight is None else (config.background_weight,),
        alternatives=task.alternatives,
        steps=config.steps,
    )
