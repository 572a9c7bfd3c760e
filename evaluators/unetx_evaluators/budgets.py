"""How much training an evaluation gets when nobody says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Budget, DataError
from unetx_evaluators.tasks.task import IGNORED

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

WIDTH_FACTOR = 0.25
"""A base width of 32 becomes 8. Resolution stays: what skip connections are worth shows there."""

STEPS = {2: 200, 3: 240}
SMALL_PATCH_STEPS = 400
"""In 2D, for patches of at most SMALL_PATCH_VOXELS: they teach less a step and cost less, and with a batch of 8 more
steps are worth more than larger batches (benchmarks/results/noise.txt)."""
SMALL_PATCH_VOXELS = 64 * 64
BATCH_SIZE = {2: 8, 3: 2}
SELECTION_CASES = {2: 24, 3: 12}
"""By dimensions."""


def default_steps(patch: Sequence[int]) -> int:
    """By the size of the patch; between a small 2D patch and one of twice its voxels, steps times voxels stay equal."""
    if len(patch) == 3:
        return STEPS[3]
    steps = round(SMALL_PATCH_STEPS * SMALL_PATCH_VOXELS / math.prod(patch))
    return min(max(steps, STEPS[2]), SMALL_PATCH_STEPS)


def check_rankable(task: Task, budget: Budget) -> None:
    """Raises DataError where none of the selection cases that are scored shows any foreground: all designs would get 0.

    Small structures may vanish on the way into the task, and fewer cases may be scored than there are.
    """
    scored = task.splits.selection[: budget.selection_cases]
    if not any(((label := task.label(name)) > 0).any() and (label[label > 0] != IGNORED).any() for name in scored):
        raise DataError(
            f"none of the {len(scored)} selection cases that are scored shows any foreground, so that no design could "
            f"be ranked; score more of the {len(task.splits.selection)} there are (--selection-cases), try another "
            "--split-seed, or add cases that show some"
        )


def default_budget(task: Task) -> Budget:
    """Short enough for a CPU: about half a minute of one core for a U-Net, in 2D and in 3D alike."""
    steps = default_steps(task.patch)
    return Budget(
        steps=steps,
        batch_size=BATCH_SIZE[task.dims],
        width_factor=WIDTH_FACTOR,
        rungs=(round(steps / 3), round(2 * steps / 3), steps),
        selection_cases=SELECTION_CASES[task.dims],
    )
