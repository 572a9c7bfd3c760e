"""The worker's side: a process that waits for jobs, evaluates them one at a time and reports the results.

The parent pins the device in the environment this process starts with, so nothing here imports torch, directly or not:
the evaluator does, when it is unpickled or called.

A thread reads everything the parent says. So an interrupt costs the training loop one comparison per step, neither
side can block the other with a full pipe, and the end of the parent (or its hanging up) ends the worker at once, even
in the middle of a step that hangs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, NoReturn

from unetx_evaluators.evaluation import (
    CurvePoint,
    DeviceFailed,
    Evaluation,
    EvaluationInterrupted,
    Evaluator,
    Observer,
    Outcome,
)
from unetx_evaluators.signals import ignore_signals
from unetx_search.executors import messages
from unetx_search.executors.base import Job, failed_evaluation
from unetx_search.executors.slots import Slot
from unetx_studies.disk_full import StorageFull, full_disk_explained
from unetx_studies.processes import this_process

if TYPE_CHECKING:
    from unetx_evaluators.tasks.task import Task

STEP_INTERVAL_S = 0.5
"""Seconds between two reported steps."""


class Relay(Observer):
    """Observes an evaluation: passes its progress on, stops it when asked, and keeps the curve."""

    def __init__(
        self,
        is_interrupted: Callable[[], bool],
        tell_step: Callable[[int], None],
        ask_at_rung: Callable[[CurvePoint], bool],
    ) -> None:
        self.curve: list[CurvePoint] = []
        self._is_interrupted = is_interrupted
        self._tell_step = tell_step
        self._ask_at_rung = ask_at_rung
        self._next_report_s = 0.0

    def on_step(self, step: int) -> None:
        self._raise_if_interrupted()
        now_s = time.monotonic()
        if now_s >= self._next_report_s:
            self._next_report_s = now_s + STEP_INTERVAL_S
            self._tell_step(step)

    def on_rung(self, point: CurvePoint) -> bool:
        self._raise_if_interrupted()
        self.curve.append(point)
        prune = self._ask_at_rung(point)
        self._raise_if_interrupted()
        return prune

    def _raise_if_interrupted(self) -> None:
        if self._is_interrupted():
            raise EvaluationInterrupted


def evaluate_job(evaluator: Evaluator, task: Task, job: Job, relay: Relay) -> Evaluation | None:
    """Evaluate a job; an error becomes a CRASHED evaluation with its traceback. None when the job was interrupted.

    Raises StorageFull and DeviceFailed, which say nothing about the design and would meet every other job, too.
    """
    began_s = time.monotonic()
    try:
        with full_disk_explained(job.checkpoint or task.folder):
            evaluation = evaluator.evaluate(
                job.architecture,
                task,
                job.budget,
                job.seed,
                relay,
                checkpoint=job.checkpoint,
                weights=job.weights,
                diagnosed_above=job.diagnosed_above,
            )
        if not isinstance(evaluation, Evaluation):
            raise TypeError(
                f"{type(evaluator).__name__}.evaluate returns an Evaluation, got {type(evaluation).__name__}"
            )
    except EvaluationInterrupted:
        return None
    except (StorageFull, DeviceFailed):
        raise
    except MemoryError as error:
        return crash_evaluation(error, relay, time.monotonic() - began_s, Outcome.OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001  a failed trial is data: stored with its traceback, and the study goes on
        return crash_evaluation(error, relay, time.monotonic() - began_s)
    return evaluation


def crash_evaluation(error: Exception, relay: Relay, seconds: float, outcome: Outcome = Outcome.CRASHED) -> Evaluation:
    """Return the evaluation for an unforeseen error, which becomes text, as not every exception can be pickled."""
    reason = traceback.format_exception_only(error)[-1].strip()
    text = "".join(traceback.format_exception(error))
    return failed_evaluation(outcome, reason, curve=relay.curve, seconds=seconds, traceback=text)


def main(connection: Connection[messages.Report, messages.Order], slot: Slot, log_file: Path | None) -> None:
    """Run a worker process; returns only when its set-up failed."""
    os.environ.update(slot.environment)  # stood already as it began; once more, in case a start-up hook undid it
    ignore_signals()
    if log_file is not None:
        _redirect_output(log_file)
    faulthandler.enable()  # a segmentation fault leaves a Python traceback in the log
    with contextlib.suppress(OSError):  # when memory runs out, Linux is to end a worker rather than the coordinator
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    mailbox = Mailbox(connection)
    mailbox.send(messages.Hello(slot.label))
    try:
        evaluator, task = pickle.loads(mailbox.setups.get().payload)
    except Exception:  # noqa: BLE001  whatever it is, the parent tells it to the user and gives up after a few
        mailbox.send(messages.StartFailed(traceback.format_exc()))
        sys.exit(1)
    while True:
        _do_job(evaluator, task, mailbox.jobs.get(), mailbox)


def _do_job(evaluator: Evaluator, task: Task, order: messages.Begin, mailbox: Mailbox) -> None:
    number = order.number
    relay = Relay(
        is_interrupted=lambda: mailbox.interrupted == number,
        tell_step=lambda step: mailbox.send(messages.Stepped(number, step)),
        ask_at_rung=lambda point: mailbox.ask(number, point),
    )
    mailbox.send(messages.Started(number, this_process()))
    began_s = time.monotonic()
    try:
        evaluation = evaluate_job(evaluator, task, order.job, relay)
    except StorageFull as error:
        mailbox.send(messages.DiskFull(number, str(error)))
        return
    except DeviceFailed as error:
        traceback.print_exc()  # for the log
        mailbox.send(messages.DeviceLost(number, str(error), error.may_be_design))
        _exit_at_once()
    if evaluation is None:
        mailbox.send(messages.Interrupted(number))
        return
    try:
        mailbox.send(messages.Finished(number, evaluation))
    except Exception as error:  # noqa: BLE001  pickling runs foreign code, which raises what it likes
        mailbox.send(messages.Finished(number, crash_evaluation(error, relay, time.monotonic() - began_s)))


class Mailbox:
    """The worker's end of the pipe: sends from the main thread, receives in a thread of its own."""

    def __init__(self, connection: Connection[messages.Report, messages.Order]) -> None:
        self.setups: SimpleQueue[messages.Setup] = SimpleQueue()
        self.jobs: SimpleQueue[messages.Begin] = SimpleQueue()
        self.interrupted = 0
        """The number of the latest job that is to be interrupted; numbers start at 1."""
        self._answers: SimpleQueue[messages.Answer] = SimpleQueue()
        self._connection = connection
        threading.Thread(target=self._listen, name="mailbox", daemon=True).start()

    def send(self, report: messages.Report) -> None:
        """Send a report; it waits while the pipe is full. Raises what pickling raises; exits without a parent."""
        try:
            self._connection.send(report)
        except OSError:
            _exit_at_once()

    def ask(self, number: int, point: CurvePoint) -> bool:
        """Report a rung and return whether to prune; an interrupt counts as the answer no."""
        self.send(messages.ReachedRung(number, point))
        while True:
            answer = self._answers.get()
            if answer.number == number:  # the answer to a job that was left can come late
                return answer.prune

    def _listen(self) -> None:
        while True:
            try:
                order = self._connection.recv()
            except (EOFError, OSError):
                _exit_at_once()
            match order:
                case messages.Setup():
                    self.setups.put(order)
                case messages.Begin():
                    self.jobs.put(order)
                case messages.Answer():
                    self._answers.put(order)
                case messages.Interrupt():
                    self.interrupted = max(self.interrupted, order.number)  # one of an earlier job may come late
                    self._answers.put(messages.Answer(order.number, prune=False))  # wakes a job that waits at a rung


def _exit_at_once() -> NoReturn:
    """End this process from any thread, at once: nobody waits for an answer, or its device answers nothing any more."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def _redirect_output(log_file: Path) -> None:
    """Append everything this process prints, C libraries included, to the file."""
    descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for target in (1, 2):
        os.dup2(descriptor, target)
    os.close(descriptor)
