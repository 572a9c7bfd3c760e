"""The records of trials: written by the coordinator alone, read by everyone.

Every event of a trial is one transaction that writes its row as it then is, and whatever belongs to it. Writing the
same again changes nothing, so that a connection which broke is answered by doing it again. A reader sees a result
whole or not at all. Instants are handed in; no clock is read here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, insert, select

from unetx_evaluators.evaluation import Budget, CaseScore, CurvePoint, Evaluation, Outcome
from unetx_space.architecture import Architecture
from unetx_space.canonical import canonical
from unetx_space.documents import loads
from unetx_studies.candidate import Origin
from unetx_studies.processes import ProcessIdentity
from unetx_studies.store.lease import HeldLease, upsert
from unetx_studies.store.open import Store
from unetx_studies.store.retry import retry
from unetx_studies.store.tables import ARCHITECTURES, CURVES, SCORES, TRIALS

T = TypeVar("T")


class Stage(StrEnum):
    """The stage of its life that a trial is in."""

    ASKED = "asked"  # recorded; no worker has it
    RUNNING = "running"  # a worker has it
    FINISHED = "finished"  # its result is recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """The record of a trial: what was asked, how far it has come and what came out."""

    number: int
    key: str
    """The key of its design."""
    params: Mapping[str, Any]
    """The design's genes by name."""
    origin: Origin
    why: str
    """Why its design was chosen."""
    n_parameters: int
    """Parameters of the design at full size."""
    macs: int
    """Multiply-adds of the design at full size for one training patch."""
    seed: int
    budget: Budget
    asked_at: datetime

    optuna_notes: Mapping[str, Any] = field(default_factory=dict)
    """What Optuna's sampler and pruner have noted about it (system attributes), and want to find again."""
    n_starts: int = 0
    n_lost: int = 0
    """Workers that ended without an answer while they had it."""
    exit_reason: str = ""
    """How the last of these ended."""
    pruned_at: int | None = None
    """The step at which it was told to stop."""
    worker: int | None = None
    device: str = ""
    process: ProcessIdentity | None = None
    """The process of its worker, from the worker's start on; None when no worker has it."""
    started_at: datetime | None = None
    """When its worker began it."""

    outcome: Outcome | None = None
    """How it ended; None while there is no result."""
    ended_at: datetime | None = None
    reason: str = ""
    """Why it did not complete."""
    traceback: str = ""
    score: float | None = None
    original_dice: float | None = None
    """The score on the cases' original voxels, where the evaluation told it."""
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        return self.outcome is not None

    @property
    def stage(self) -> Stage:
        """The stage of its life that it is in."""
        if self.is_finished:
            return Stage.FINISHED
        return Stage.ASKED if self.process is None else Stage.RUNNING


_COLUMNS = [TRIALS.c[one.name] for one in fields(TrialRecord)]


class Records:
    """The trials of one study. Reads return what was committed last.

    ``lease`` is renewed with what is written; who writes without one holds none. Writing raises LeaseLost when the
    study is another run's by now.
    """

    def __init__(self, store: Store, study: str, lease: HeldLease | None = None) -> None:
        self._store = store
        self._study = study
        self._lease = lease

    @staticmethod
    def studies(store: Store) -> tuple[str, ...]:
        """The names of the studies that have begun a trial."""
        with store.reading() as connection:
            return tuple(connection.scalars(select(TRIALS.c.study).distinct().order_by(TRIALS.c.study)))

    # Writing.

    def heartbeat(self) -> None:
        """Renew the lease, unless that was done a moment ago; nobody takes it over so soon. Raises LeaseLost."""
        if self._lease is not None and self._lease.is_due():
            self._write(lambda connection: None)

    def hurry(self) -> None:
        """Wait next to no time for a server from now on; safe to call from a signal handler."""
        self._store.patience.hurry()

    def begin(self, trial: TrialRecord, architecture: Architecture) -> None:
        """Record a trial that was asked, with its design. Raises ValueError when its key is another design's."""
        document = Architecture(architecture.backbone, architecture.genome).dumps()

        def begin(connection: Connection) -> None:
            row = upsert(connection, ARCHITECTURES).values(key=trial.key, document=document)
            connection.execute(row.on_conflict_do_nothing())
            known = connection.scalar(select(ARCHITECTURES.c.document).where(ARCHITECTURES.c.key == trial.key))
            if known is not None and known != document and not _same_design(loads(known), architecture):
                raise ValueError(f"the key {trial.key} stands for another architecture already")
            self._save(connection, trial, {})

        self._write(begin)

    def update(self, trial: TrialRecord, point: CurvePoint | None = None) -> None:
        """Record how far a trial has come, with a point of its curve. Raises ValueError when it has finished."""

        def update(connection: Connection) -> None:
            if self._save(connection, trial, {}) and point is not None:
                self._save_curve(connection, trial, [point])

        self._write(update)

    def finish(self, trial: TrialRecord, evaluation: Evaluation) -> None:
        """Record the end of a trial, with the scores of its cases, its curve and the insight of its evaluation.

        Raises ValueError when it has finished otherwise already: a result is never overwritten.
        """

        def finish(connection: Connection) -> None:
            if not self._save(connection, trial, {"insight": evaluation.insight.to_json()}):
                return  # it stands as a whole, and only the answer was lost
            self._save_curve(connection, trial, evaluation.curve)
            scores = [
                self._row(trial, case_name=one.case, class_name=one.class_name, metric=metric, value=_or_null(value))
                for one in evaluation.case_scores
                for metric, value in one.values.items()
            ]
            if scores:
                connection.execute(insert(SCORES), scores)

        self._write(finish)

    def _write(self, change: Callable[[Connection], T]) -> T:
        """Write in one transaction, again when the connection breaks, and renew the lease in it where that is due."""

        def once() -> T:
            with self._store.writing() as connection:
                if self._lease is not None and (self._store.is_on_server or self._lease.is_due()):
                    self._lease.renew(connection)
                return change(connection)

        return retry(once)

    def _save(self, connection: Connection, trial: TrialRecord, more: Mapping[str, Any]) -> bool:
        """Write a trial's row; False where it stands already as finished with this very result."""
        facts = {one.name: getattr(trial, one.name) for one in fields(TrialRecord)} | {"score": _or_null(trial.score)}
        changed = {name: value for name, value in (*facts.items(), *more.items()) if name != "number"}
        row = upsert(connection, TRIALS).values(study=self._study, **facts, **more)
        row = row.on_conflict_do_update(
            index_elements=["study", "number"], set_=changed, where=TRIALS.c.outcome.is_(None)
        )
        if connection.execute(row.returning(TRIALS.c.number)).first() is not None:
            return True
        known = connection.execute(self._of_study(TRIALS.c.outcome, TRIALS.c.ended_at, number=trial.number)).one()
        if tuple(known) != (trial.outcome, trial.ended_at):
            raise ValueError(f"trial {trial.number} of {self._study!r} has finished already as {known.outcome}")
        return False

    def _save_curve(self, connection: Connection, trial: TrialRecord, curve: Sequence[CurvePoint]) -> None:
        for point in curve:
            facts = {"score": _or_null(point.score), "loss": _or_null(point.loss), "seconds": point.seconds}
            row = upsert(connection, CURVES).values(self._row(trial, step=point.step, **facts))
            connection.execute(row.on_conflict_do_update(index_elements=["study", "number", "step"], set_=facts))

    def _row(self, trial: TrialRecord, **facts: Any) -> dict[str, Any]:
        return {"study": self._study, "number": trial.number, **facts}

    # Reading.

    def trial(self, number: int) -> TrialRecord | None:
        """The record of a trial; None when it was never asked."""
        return next(iter(self._read(self._of_study(*_COLUMNS, number=number), _trial)), None)

    def trials(self, *, finished_only: bool = False) -> tuple[TrialRecord, ...]:
        """The records of all trials in order, or of the finished ones alone."""
        query = self._of_study(*_COLUMNS).order_by(TRIALS.c.number)
        return self._read(query.where(TRIALS.c.outcome.is_not(None)) if finished_only else query, _trial)

    def architecture(self, key: str) -> Architecture:
        """The design with a key. Raises LookupError where there is none."""
        query = select(ARCHITECTURES.c.document).where(ARCHITECTURES.c.key == key)
        for document in self._read(query, lambda row: row["document"]):
            return loads(document)
        raise LookupError(f"no architecture has the key {key!r}")

    def architectures(self) -> dict[str, Architecture]:
        """All designs of the study, by key."""
        mine = select(TRIALS.c.key).where(TRIALS.c.study == self._study)
        query = select(ARCHITECTURES).where(ARCHITECTURES.c.key.in_(mine))
        return dict(self._read(query, lambda row: (row["key"], loads(row["document"]))))

    def case_scores(self, number: int) -> tuple[CaseScore, ...]:
        """The scores of a trial's cases by class, in order of their names; empty while there are none."""
        query = select(SCORES).where(SCORES.c.study == self._study, SCORES.c.number == number)
        found: dict[tuple[str, str], dict[str, float | None]] = {}
        for row in self._read(query.order_by(SCORES.c.case_name, SCORES.c.class_name), dict):
            found.setdefault((row["case_name"], row["class_name"]), {})[row["metric"]] = row["value"]
        return tuple(CaseScore(case, class_name, values) for (case, class_name), values in found.items())

    def insight(self, number: int) -> Mapping[str, Any] | None:
        """The insight of a trial's evaluation, as ``Insight.to_json`` gives it; None before the trial's end."""
        found = self._read(self._of_study(TRIALS.c.insight, number=number), lambda row: row["insight"])
        return next(iter(found), None)

    def curve(self, number: int) -> tuple[CurvePoint, ...]:
        """The learning curve of a trial: the rungs that it has reached, ascending."""
        return self.curves(number).get(number, ())

    def curves(self, number: int | None = None) -> Mapping[int, tuple[CurvePoint, ...]]:
        """The learning curves of all trials that have reached a rung, or of one alone, by number."""
        query = select(CURVES).where(CURVES.c.study == self._study).order_by(CURVES.c.number, CURVES.c.step)
        found: dict[int, tuple[CurvePoint, ...]] = {}
        for row in self._read(query if number is None else query.where(CURVES.c.number == number), dict):
            point = CurvePoint(row["step"], _or_nan(row["score"]), _or_nan(row["loss"]), row["seconds"])
            found[row["number"]] = (*found.get(row["number"], ()), point)
        return found

    def _of_study(self, *columns: Any, number: int | None = None) -> Select[Any]:
        query = select(*columns).where(TRIALS.c.study == self._study)
        return query if number is None else query.where(TRIALS.c.number == number)

    def _read(self, query: Select[Any], make: Callable[[Mapping[str, Any]], T]) -> tuple[T, ...]:
        """What ``make`` gives for each row of a query, which is sent again when the connection breaks."""

        def once() -> tuple[T, ...]:
            with self._store.reading() as connection:
                return tuple(make(row) for row in connection.execute(query).mappings())  # type: ignore[arg-type]

        return retry(once)


def _trial(row: Mapping[str, Any]) -> TrialRecord:
    return TrialRecord(**row)


def _same_design(one: Architecture, other: Architecture) -> bool:
    return one.backbone == other.backbone and canonical(one.genome) == canonical(other.genome)


def _or_null(number: float | None) -> float | None:
    """NULL for NaN, which databases sort and keep in ways of their own."""
    return None if number is None or math.isnan(number) else float(number)


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number
