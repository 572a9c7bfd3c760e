"""The life of a trial: pure functions, each of which gives the record of a trial after an event.

::

    asked --started--> running --finished--> finished
      ^                   |
      +-- requeued, ------+
          worker_lost

A trial that is requeued (after a graceful shutdown or a preemption) or has lost its worker (which ended without an
answer) is asked again under the same number. One that has lost ``MAX_LOST`` workers is taken for what ended them and
finished as crashed. What is finished stays so: ``Records`` refuses to write over it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime

from unetx_evaluators.evaluation import Evaluation
from unetx_studies.processes import ProcessIdentity
from unetx_studies.store import TrialRecord

MAX_LOST = 2
"""Workers that a trial may lose before it is given to no other."""


def started(trial: TrialRecord, worker: int, device: str, process: ProcessIdentity, at: datetime) -> TrialRecord:
    """The record once a worker has begun the trial."""
    return replace(trial, n_starts=trial.n_starts + 1, worker=worker, device=device, process=process, started_at=at)


def requeued(trial: TrialRecord) -> TrialRecord:
    """The record once the trial's worker has stopped as asked, never began, or was preempted."""
    return replace(trial, worker=None, device="", process=None, started_at=None)


def worker_lost(trial: TrialRecord, exit_reason: str) -> TrialRecord:
    """The record once the trial's worker has ended without an answer."""
    return replace(requeued(trial), n_lost=trial.n_lost + 1, exit_reason=exit_reason)


def has_lost_too_many(trial: TrialRecord) -> bool:
    """Whether the trial has ended too many workers to be given to another."""
    return trial.n_lost >= MAX_LOST


def finished(trial: TrialRecord, evaluation: Evaluation, worker: int, at: datetime) -> TrialRecord:
    """The record once the trial's result is there."""
    has_score = evaluation.score is not None and not math.isnan(evaluation.score)
    return replace(
        trial,
        worker=worker,
        process=None,
        outcome=evaluation.outcome,
        ended_at=at,
        reason=evaluation.reason,
        traceback=evaluation.traceback,
        score=evaluation.score if has_score else None,
        original_dice=evaluation.insight.original_dice,
        seconds=evaluation.seconds,
        device=evaluation.device or trial.device,
        versions=dict(evaluation.versions),
    )
