"""The default budget: how much training an evaluation gets unless the user or the pilot decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Budget, DataError

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

WIDTH_FACTOR = 0.25
"""Factor of all widths: a base width of 32 becomes 8. Resolution stays, since skip connections act on fine detail."""

STEPS = {2: 800, 3: 480}
"""Training steps, by dimensions, of a plan, and of an evaluation unless a pilot has found fewer to be enough."""
BATCH_SIZE = {2: 2, 3: 1}
"""Patches per step, by dimensions. At equal cost, many steps on few patches teach a proxy more than few on many."""
VALIDATION_CASES = {2: 24, 3: 12}
"""Largest number of validation cases that are scored, by dimensions."""


def check_rankable(task: Task, budget: Budget) -> None:
    """Raises DataError where no validation case that is scored shows any foreground: all designs would get 0.

    Small structures may vanish on the way into the task, and fewer cases may be scored than there are.
    """
    scored = task.splits.validation[: budget.validation_cases]
    if not any(map(task.shows_foreground, scored)):
        raise DataError(
            f"none of the {len(scored)} validation cases that are scored shows any foreground, so that no design could "
            f"be ranked; score more of the {len(task.splits.validation)} there are (--validation-cases), try another "
            "--split-seed, or add cases that show some"
        )


def default_budget(task: Task) -> Budget:
    """The budget of a task without a pilot: half a minute of one CPU core for a U-Net, in 2D and in 3D alike."""
    steps = STEPS[task.dims]
    return Budget(
        steps=steps,
        batch_size=BATCH_SIZE[task.dims],
        width_factor=WIDTH_FACTOR,
        rungs=(round(steps / 3), round(2 * steps / 3), steps),
        validation_cases=VALIDATION_CASES[task.dims],
    )
