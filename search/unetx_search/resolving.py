"""From a request to what a study is begun with: its prepared data, how designs are trained on them, and their space.

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
from unetx_search.config import SearchConfig, StudySettings
from unetx_search.piloting import ExecutorOf, PilotFile, piloted
from unetx_search.preparing import prepared_task
from unetx_search.progress import say
from unetx_search.pruners import with_rungs_for

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.tasks import Source, Task
    from unetx_evaluators.tasks.options import Machine
    from unetx_search.data_choices import DataChoices
    from unetx_space.design_space import DesignSpace


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """A request whose data are prepared and whose open choices are made."""

    task: Task
    space: DesignSpace
    budget: Budget
    settings: StudySettings


def resolve_request(
    config: SearchConfig,
    source: Source,
    machine: Machine,
    executor_of: ExecutorOf,
    console: Console,
    stored: Mapping[str, Any] | None = None,
) -> ResolvedRequest:
    """Prepare the data of a request and make the choices that it leaves open, with a pilot where that is needed.

    ``stored`` is the settings file of a study that has begun, which keeps its choices. ``executor_of`` opens an
    executor of the search's workers on a task, for the pilot.
    """

    def prepared(spacing: Spacing | None) -> Task:
        options = config.task_options(machine)
        options = options if spacing is None else replace(options, spacing=spacing)
        return prepared_task(config.folder, source, config.cache_folder, options, console)

    if stored is not None:
        spacing = stored_spacing(config, stored)
        task, budget, pilot = prepared(spacing), Budget.from_json(stored["budget"]), None
    else:
        task, budget, pilot = settle_training(config, prepared, executor_of, console)
        spacing = None if pilot is None else piloted_spacing(task, pilot)
        task = task if spacing is None else prepared(spacing)
        budget = with_rungs_for(config.pruner, budget)
    if pilot is not None:
        task = replace(task, choices=pilot.choices(task.choices))
    space = config.design_space(len(task.strides))
    settings = StudySettings.of(config, task, space, budget, pilot_spacing=spacing)
    return ResolvedRequest(task, space, budget, settings)


def with_audited_steps(config: SearchConfig, resolved: ResolvedRequest, console: Console) -> ResolvedRequest:
    """Take over the steps that an audit of the task has recommended, unless the user has set them."""
    kept = None if config.steps is not None else AuditFile.of(resolved.task, resolved.budget).read()
    if kept is None or kept.steps is None:
        return resolved
    say(console, f"steps by the audit of this dataset (--steps N overrides): {kept.reason}")
    budget = with_rungs_for(config.pruner, with_steps(resolved.budget, kept.steps))
    task = replace(resolved.task, choices={**resolved.task.choices, **audit_choice(kept)})
    return replace(resolved, task=task, budget=budget, settings=replace(resolved.settings, budget=asdict(budget)))


def audit_choice(kept: Recommendation) -> dict[str, Any]:
    """Return what an audit says of the steps, in the form of a task's choices: name, value and reason."""
    if kept.steps is None:
        return {"audit": {"value": None, "reason": kept.reason}}
    return {"steps": {"value": kept.steps, "reason": f"{kept.reason}, by the audit"}}


def settle_training(
    config: SearchConfig, prepared: Callable[[Spacing | None], Task], executor_of: ExecutorOf, console: Console
) -> tuple[Task, Budget, Pilot | None]:
    """Return the task as planned, the budget to train on it, and the pilot that has settled that, if there was one.

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


def stored_spacing(choices: DataChoices, settings: Mapping[str, Any]) -> Spacing | None:
    """Return the voxel size that a study's pilot has chosen, by its settings file; None where the user gives one."""
    voxels = None if choices.spacing is not None else settings.get("pilot_spacing")
    return None if voxels is None else tuple(voxels)


def stored_pilot(config: SearchConfig, task: Task) -> Pilot | None:
    """Read what a pilot has settled for such a search already; None where a pilot would have to be run."""
    return PilotFile.of(task, unpiloted_budget(config, task), pilot_limits(config, task)).read()


def piloted_spacing(task: Task, pilot: Pilot) -> Spacing | None:
    """Return the voxel size that a pilot has chosen in place of the task's own; None where it keeps that."""
    return None if pilot.spacing in (None, *task.alternatives[-1:]) else pilot.spacing


def unpiloted_budget(config: SearchConfig, task: Task) -> Budget:
    """Return the task's default budget with what the user has set; other ``steps`` move the rungs along."""
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
    """Return what the user has left for a pilot to settle, and within which limits."""
    return Limits(
        max_steps=task.max_steps or default_budget(task).steps,
        min_gain=config.pilot_gain,
        learning_rates=LEARNING_RATES if config.learning_rate is None else (config.learning_rate,),
        background_weights=BACKGROUND_WEIGHTS if config.background_weight is None else (config.background_weight,),
        alternatives=task.alternatives,
        steps=config.steps,
    )
