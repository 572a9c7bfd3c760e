"""The fake evaluator's checkpoint: an evaluation that was left goes on where it was, and answers as a whole one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_fake import BUDGET, NO_SKIP, TASK, U_NET

from unetx_evaluators.evaluation import CurvePoint, Evaluation, EvaluationInterrupted, NullObserver
from unetx_evaluators.fake import FakeEvaluator


class Leaving:
    """Leaves after a step; notes every step and rung."""

    def __init__(self, after: int = 10**9, prune_at: int = 0) -> None:
        self.after = after
        self.prune_at = prune_at
        self.steps: list[int] = []
        self.rungs: list[int] = []

    def on_step(self, step: int) -> None:
        self.steps.append(step)
        if step > self.after:
            raise EvaluationInterrupted

    def on_rung(self, point: CurvePoint) -> bool:
        self.rungs.append(point.step)
        return point.step == self.prune_at


def without_times(evaluation: Evaluation) -> Evaluation:
    return replace(evaluation, seconds=0.0, curve=tuple(replace(point, seconds=0.0) for point in evaluation.curve))


@pytest.mark.parametrize(("after", "first_step"), [(1, 1), (2, 3), (3, 3), (4, 5), (7, 5)])
def test_what_was_left_goes_on_after_its_last_rung(tmp_path: Path, after: int, first_step: int) -> None:
    """Rungs are at 2, 4 and 8."""
    kept = tmp_path / "kept" / "trial-0"
    with pytest.raises(EvaluationInterrupted):
        FakeEvaluator().evaluate(U_NET, TASK, BUDGET, 3, Leaving(after), checkpoint=kept)
    watcher = Leaving()
    answer = FakeEvaluator().evaluate(U_NET, TASK, BUDGET, 3, watcher, checkpoint=kept)
    whole = FakeEvaluator().evaluate(U_NET, TASK, BUDGET, 3, NullObserver())
    assert watcher.steps == list(range(first_step, 9))
    assert watcher.rungs == [rung for rung in (2, 4) if rung >= first_step]
    assert without_times(answer) == without_times(whole)


@pytest.mark.parametrize("other", ["architecture", "budget", "seed"])
def test_the_state_of_another_evaluation_is_not_taken(tmp_path: Path, other: str) -> None:
    kept = tmp_path / "trial-0"
    with pytest.raises(EvaluationInterrupted):
        FakeEvaluator().evaluate(U_NET, TASK, BUDGET, 3, Leaving(5), checkpoint=kept)
    watcher = Leaving()
    FakeEvaluator().evaluate(
        NO_SKIP if other == "architecture" else U_NET,
        TASK,
        replace(BUDGET, batch_size=9) if other == "budget" else BUDGET,
        4 if other == "seed" else 3,
        watcher,
        checkpoint=kept,
    )
    assert watcher.steps[0] == 1


def test_nothing_is_kept_of_a_rung_at_which_the_observer_said_stop(tmp_path: Path) -> None:
    """Or the same evaluation, asked again after a crash, would go on beyond it."""
    kept = tmp_path / "trial-0"
    FakeEvaluator().evaluate(U_NET, TASK, BUDGET, 3, Leaving(prune_at=4), checkpoint=kept)
    watcher = Leaving(prune_at=4)
    FakeEvaluator().evaluate(U_NET, TASK, BUDGET, 3, watcher, checkpoint=kept)
    assert watcher.rungs == [4]
