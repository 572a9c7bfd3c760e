"""The trainings of a model's folds, one after the other in this process, or each in a worker on a GPU of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Evaluator, Outcome
from unetx_evaluators.tasks import Task
from unetx_search.executors.base import Executor, Job, failed_evaluation
from unetx_search.executors.inline import InlineExecutor
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.slots import Slot
from unetx_search.models.training_progress import TrainingBar
from unetx_studies.processes import ProcessIdentity

POLL_S = 0.5

logger = logging.getLogger(__name__)


@dataclass
class FoldTraining:
    """One fold's job and what came of it; an executor's Handler. The job's number is the fold's."""

    task: Task
    job: Job
    bar: TrainingBar
    answer: Evaluation | None = None
    is_waiting: bool = True
    """No slot has it."""

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None: ...

    def on_step(self, trial: int, step: int) -> None:
        self.bar.on_step(step)

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        self.bar.on_point(point)
        return False

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self.answer = evaluation

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self.answer = evaluation

    def on_preempted(self, trial: int, reason: str) -> None:
        logger.warning("fold %d goes on from its checkpoint: %s", trial, reason)
        self.is_waiting = True

    def on_interrupted(self, trial: int) -> None:
        self.answer = failed_evaluation(Outcome.CRASHED, "interrupted")


def train_folds(
    trainings: Sequence[FoldTraining],
    evaluator: Evaluator,
    slots: Sequence[Slot],
    on_end: Callable[[FoldTraining, Evaluation], None],
) -> None:
    """Run every training, in as many workers as there are ``slots``, or in this process without any.

    ``on_end`` hears of each as it ends; what it raises ends all others, which keep their checkpoints.
    """
    free: list[Slot | None] = [*slots] or [None]
    running: list[tuple[FoldTraining, Executor, Slot | None]] = []
    waiting = list(trainings)
    with ExitStack() as stack:
        while waiting or running:
            while waiting and free:
                one, slot = waiting.pop(0), free.pop(0)
                executor: Executor = (
                    InlineExecutor(evaluator, one.task) if slot is None else LocalExecutor(evaluator, one.task, [slot])
                )
                running.append((one, stack.enter_context(executor), slot))
            for one, executor, slot in list(running):
                if one.is_waiting and executor.n_free() > 0:
                    executor.submit(one.job)
                    one.is_waiting = False
                executor.poll(one, POLL_S)
                if one.answer is not None:
                    executor.close()
                    running.remove((one, executor, slot))
                    free.append(slot)
                    on_end(one, one.answer)
