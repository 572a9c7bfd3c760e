"""The life of a trial: its stages, what may follow what, and what a restart makes of what it finds. Pure functions.

::

    asked --taken--> running --finished--> finished
      ^                 |
      +--left, lost-----+

A trial that is left (an orderly stop, a node that is gone) or lost (its worker died) is asked again under the same
number. One that lost ``MAX_DEATHS`` workers is taken for what killed them and finished as crashed. What is finished
stays so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from optuna.trial import FrozenTrial, TrialState

from unetx_studies.processes import ProcessIdentity
from unetx_studies.store import EvaluationRecord, JobRecord, Stage

MAX_DEATHS = 2


class IllegalMove(RuntimeError):
    """A bug of ours: a trial cannot go where it was to go."""


def taken(job: JobRecord, worker: int, device: str, process: ProcessIdentity, at: datetime) -> JobRecord:
    """A worker begins it."""
    _expect(job, Stage.ASKED, "taken")
    return replace(
        job,
        stage=Stage.RUNNING,
        n_starts=job.n_starts + 1,
        worker=worker,
        device=device,
        process=process,
        taken_at=at,
    )


def left(job: JobRecord) -> JobRecord:
    """Its worker stopped as asked, never began, or went down with its node."""
    _refuse_finished(job, "left")
    return replace(job, stage=Stage.ASKED, worker=None, device="", process=None, taken_at=None)


def lost(job: JobRecord, death: str) -> JobRecord:
    """Its worker died."""
    _expect(job, Stage.RUNNING, "lost")
    return replace(left(job), n_deaths=job.n_deaths + 1, last_death=death)


def is_deadly(job: JobRecord) -> bool:
    """It killed too many workers to be given to another."""
    return job.n_deaths >= MAX_DEATHS


def told_to_stop(job: JobRecord, step: int) -> JobRecord:
    """The pruner spoke at a rung; asked again there, it says the same."""
    _expect(job, Stage.RUNNING, "pruned")
    return replace(job, pruned_at=step)


def finished(job: JobRecord) -> JobRecord:
    """Its result is recorded and Optuna was told."""
    _refuse_finished(job, "finished")
    return replace(job, stage=Stage.FINISHED, process=None)


def _expect(job: JobRecord, stage: Stage, move: str) -> None:
    if job.stage is not stage:
        raise IllegalMove(f"a trial is {move} from {stage}, trial {job.trial} is {job.stage}")


def _refuse_finished(job: JobRecord, move: str) -> None:
    if job.stage is Stage.FINISHED:
        raise IllegalMove(f"a finished trial stays so, trial {job.trial} was to be {move}")


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a restart has to do before it goes on; numbers of trials, ascending."""

    n_asked: int
    """Trials that count towards the total: all but those that only wait in Optuna's queue."""
    to_tell: tuple[int, ...]
    """Our result stands, Optuna has not heard of it."""
    to_run: tuple[int, ...]
    """Without a result: from the last checkpoint, or from the start, under the same number."""
    to_close: tuple[int, ...]
    """Somebody else has finished it in Optuna's tables while ours were waiting for a result."""


def recovery(trials: Iterable[FrozenTrial], records: Mapping[int, EvaluationRecord]) -> Recovery:
    """Compare Optuna's trials with our records by trial number."""
    n_asked = 0
    to_tell: list[int] = []
    to_run: list[int] = []
    to_close: list[int] = []
    for trial in sorted(trials, key=lambda trial: trial.number):
        record = records.get(trial.number)
        if trial.state is TrialState.WAITING:
            continue
        n_asked += 1
        if trial.state is TrialState.RUNNING:
            is_done = record is not None and record.is_finished
            (to_tell if is_done else to_run).append(trial.number)
        elif record is not None and not record.is_finished:
            to_close.append(trial.number)
    return Recovery(n_asked, tuple(to_tell), tuple(to_run), tuple(to_close))
