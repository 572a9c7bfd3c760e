"""The executor with one slot in this process, for tests, for debugging and for trainings on a single device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from unetx_evaluators.evaluation import EvaluationInterrupted, Evaluator
from unetx_search.executors.base import Executor, Handler, Job
from unetx_search.executors.worker import Relay, evaluate_job
from unetx_studies.processes import this_process

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

P = ParamSpec("P")
R = TypeVar("R")

DEVICE = "this process"


class InlineExecutor(Executor):
    """Runs each job inside ``poll``, to its end. An evaluation that crashes or hangs takes the coordinator with it."""

    def __init__(self, evaluator: Evaluator, task: Task) -> None:
        self.n_slots = 1
        self._evaluator = evaluator
        self._task = task
        self._job: Job | None = None
        self._interrupted = False
        self._closed = False

    def n_free(self) -> int:
        return 1 if self._job is None else 0

    def submit(self, job: Job) -> None:
        if self._closed or self._job is not None:
            why = "it is closed" if self._closed else "its one slot is taken"
            raise RuntimeError(f"an executor takes a job while n_free() > 0; trial {job.trial} came when {why}")
        self._job, self._interrupted = job, False

    def poll(self, handler: Handler, timeout_s: float) -> None:
        """Run the submitted job to its end and pass its events to the handler; return at once where there is none."""
        job = self._job
        if job is None:
            return
        try:
            end = self._run(job, handler)
        finally:
            self._job = None
        end()

    def _run(self, job: Job, handler: Handler) -> Callable[[], None]:
        """Run the job; how to tell its end, once the slot is free. Re-raises what the handler raised."""
        if self._interrupted:
            return partial(handler.on_interrupted, job.trial)
        handler_error = _HandlerError()
        relay = Relay(
            is_interrupted=lambda: self._interrupted,
            tell_step=handler_error.guard(partial(handler.on_step, job.trial)),
            ask_at_rung=handler_error.guard(partial(handler.on_rung, job.trial)),
        )
        handler.on_started(job.trial, 0, DEVICE, this_process())
        evaluation = evaluate_job(self._evaluator, self._task, job, relay)
        if handler_error.error is not None:
            raise handler_error.error
        if evaluation is None:
            return partial(handler.on_interrupted, job.trial)
        return partial(handler.on_finished, job.trial, 0, evaluation)

    def interrupt(self) -> None:
        self._interrupted = self._job is not None

    def close(self, timeout_s: float = 10.0) -> None:
        self._closed, self._job = True, None


class _HandlerError:
    """Carries an error of the handler past the evaluator, which must not take it for one of its own."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def guard(self, call: Callable[P, R]) -> Callable[P, R]:
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return call(*args, **kwargs)
            except BaseException as error:
                self.error = error
                raise EvaluationInterrupted from error

        return guarded
