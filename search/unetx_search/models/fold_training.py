"""The trainings of a model's folds: one after the other in this process, or in workers, one or several for a fold."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Outcome
from unetx_evaluators.tasks import Task
from unetx_evaluators.training.rank import Rank
from unetx_search.executors.base import Executor, Handler, Job, failed_evaluation
from unetx_search.executors.inline import InlineExecutor
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.slots import Slot
from unetx_search.models.training_progress import TrainingBar
from unetx_studies.processes import ProcessIdentity

if TYPE_CHECKING:
    from unetx_evaluators.proxy import ProxyEvaluator

POLL_S = 0.5

logger = logging.getLogger(__name__)


@dataclass
class FoldTraining:
    """The training of one fold. The job's trial is the fold's number."""

    task: Task
    job: Job
    bar: TrainingBar
    n_processes: int = 1
    """The number of processes that share each batch."""


@dataclass
class _Process(Handler):
    """One of the processes of a fold, as the Handler of its executor's events."""

    fold: FoldTraining
    executor: Executor
    rank: Rank
    answer: Evaluation | None = None
    was_lost: bool = False
    is_waiting: bool = True
    """Whether no slot has its job."""

    def poll(self) -> None:
        if self.is_waiting and self.executor.n_free() > 0:
            self.executor.submit(self.fold.job)
            self.is_waiting = False
        self.executor.poll(self, POLL_S / self.rank.world_size)

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None: ...

    def on_step(self, trial: int, step: int) -> None:
        if self.rank.is_leader:
            self.fold.bar.on_step(step)

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        self.fold.bar.on_point(point)
        return False

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self.answer = evaluation

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self.answer, self.was_lost = evaluation, True

    def on_preempted(self, trial: int, reason: str) -> None:
        if self.rank.world_size > 1:  # the others cannot go on without it
            self.answer, self.was_lost = failed_evaluation(Outcome.CRASHED, reason), True
            return
        logger.warning("fold %d goes on from its checkpoint: %s", trial, reason)
        self.is_waiting = True

    def on_interrupted(self, trial: int) -> None:
        self.answer = failed_evaluation(Outcome.CRASHED, "interrupted")


@dataclass
class _RunningFold:
    """A fold under way."""

    training: FoldTraining
    processes: list[_Process]
    slots: list[Slot | None]

    def poll(self) -> Evaluation | None:
        """Return the result: of the first process when all have ended, or of one that failed; None before."""
        for process in self.processes:
            process.poll()
        if not self._failed:
            answers = [process.answer for process in self.processes]
            return answers[0] if all(answers) else None
        for process in self.processes:  # the end of one makes the others fail: which one was it?
            process.poll()
        cause = max(self._failed, key=lambda process: process.was_lost)
        assert cause.answer is not None
        if cause.rank.world_size == 1:
            return cause.answer
        where = f"process {cause.rank.number + 1} of {cause.rank.world_size}: {cause.answer.reason}"
        return replace(cause.answer, reason=f"{where}; the same command goes on from the last checkpoint")

    @property
    def _failed(self) -> list[_Process]:
        return [one for one in self.processes if one.answer and one.answer.outcome is not Outcome.COMPLETE]


def train_folds(
    trainings: Sequence[FoldTraining],
    evaluator: ProxyEvaluator,
    slots: Sequence[Slot],
    on_end: Callable[[FoldTraining, Evaluation], None],
) -> None:
    """Run every training, in as many workers as there are ``slots``, or in this process without any.

    ``on_end`` is called with each training that has ended; what it raises ends all others, which keep checkpoints.
    """
    free: list[Slot | None] = [*slots] or [None]
    running: list[_RunningFold] = []
    waiting = list(trainings)
    with ExitStack() as stack:
        meetings = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unetx-")))
        while waiting or running:
            while waiting and len(free) >= waiting[0].n_processes:
                one = waiting.pop(0)
                taken = [free.pop(0) for _ in range(one.n_processes)]
                processes = []
                for number, slot in enumerate(taken):
                    rank = Rank(number, one.n_processes, meetings / f"fold{one.job.trial}")
                    executor = stack.enter_context(_executor(replace(evaluator, rank=rank), one.task, slot))
                    processes.append(_Process(one, executor, rank))
                running.append(_RunningFold(one, processes, taken))
            for fold in list(running):
                if (answer := fold.poll()) is not None:
                    for process in fold.processes:
                        process.executor.close()
                    running.remove(fold)
                    free += fold.slots
                    on_end(fold.training, answer)


def _executor(evaluator: ProxyEvaluator, task: Task, slot: Slot | None) -> Executor:
    return InlineExecutor(evaluator, task) if slot is None else LocalExecutor(evaluator, task, [slot])
