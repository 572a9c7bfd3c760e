"""The life of a trial: what each event makes of its record. Pure functions.

::

    asked --taken--> running --finished--> finished
      ^                 |
      +--left, lost-----+

A trial that is left (a graceful shutdown, a preemption) or lost (its worker ended without an answer) is asked again
under the same number. One that lost ``MAX_LOST`` workers is taken for what ended them and finished as crashed. What is
finished stays so: ``Records`` refuses to write over it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime

from unetx_evaluators.evaluation import Evaluation
from unetx_studies.processes import ProcessIdentity
from unetx_studies.store import TrialRecord

MAX_LOST = 2


def taken(trial: TrialRecord, worker: int, device: str, process: ProcessIdentity, at: datetime) -> TrialRecord:
    """A worker begins it."""
    return replace(trial, n_starts=trial.n_starts + 1, worker=worker, device=device, process=process, started_at=at)


def left(trial: TrialRecord) -> TrialRecord:
    """Its worker stopped as asked, never began, or was preempted."""
    return replace(trial, worker=None, device="", process=None, started_at=None)


def lost(trial: TrialRecord, exit_reason: str) -> TrialRecord:
    """Its worker ended without an answer."""
    return replace(left(trial), n_lost=trial.n_lost + 1, exit_reason=exit_reason)


def is_deadly(trial: TrialRecord) -> bool:
    """It has ended too many workers to be given to another."""
    return trial.n_lost >= MAX_LOST


def finished(trial: TrialRecord, evaluation: Evaluation, worker: int, at: datetime) -> TrialRecord:
    """Its result is there."""
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
