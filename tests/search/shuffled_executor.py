"""Several slots in this process whose jobs take turns in random order: every interleaving without a process."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

from executor_helpers import TASK

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Outcome
from unetx_evaluators.fake import FakeEvaluator, case_scores, learning_curve
from unetx_search.executors.base import Executor, Handler, Job
from unetx_studies.processes import this_process


class ShuffledExecutor(Executor):
    """At each poll one job, chosen at random, does its next thing: start, a rung, the end."""

    def __init__(self, n_slots: int, seed: int, evaluator: FakeEvaluator = FakeEvaluator()) -> None:  # noqa: B008 (frozen)
        self.n_slots = n_slots
        self.most_at_once = 0
        self._evaluator = evaluator
        self._rng = random.Random(seed)
        self._lives: dict[int, Iterator[Callable[[Handler], None]]] = {}

    def n_free(self) -> int:
        return self.n_slots - len(self._lives)

    def submit(self, job: Job) -> None:
        self._lives[job.trial] = self._live(job)
        self.most_at_once = max(self.most_at_once, len(self._lives))

    def poll(self, handler: Handler, timeout_s: float) -> None:
        if self._lives:
            next(self._lives[self._rng.choice(sorted(self._lives))])(handler)

    def _live(self, job: Job) -> Iterator[Callable[[Handler], None]]:
        """What the job does, one thing after another."""
        yield lambda handler: handler.on_started(job.trial, 0, "here", this_process())
        final, budget = self._evaluator.final_score(job.architecture, job.seed), job.budget
        curve: list[CurvePoint] = []
        pruned: list[bool] = []
        for step in budget.rungs:
            score = final * learning_curve(step / budget.steps)
            curve.append(CurvePoint(step, score, 1.0 - score, 0.0))
            if step < budget.steps:
                yield lambda handler: pruned.append(handler.on_rung(job.trial, curve[-1]))
            if any(pruned):
                break
        outcome = Outcome.PRUNED if any(pruned) else Outcome.COMPLETE
        scores = () if any(pruned) else case_scores(TASK, budget, final)
        yield partial(self._end, job, Evaluation(outcome, score=score, curve=tuple(curve), case_scores=scores))

    def _end(self, job: Job, evaluation: Evaluation, handler: Handler) -> None:
        del self._lives[job.trial]
        handler.on_finished(job.trial, 0, evaluation)

    def interrupt(self) -> None:
        """Nothing hangs here."""

    def close(self, timeout_s: float = 10.0) -> None:
        self._lives.clear()
