"""Evaluations as they are kept: written by the coordinator alone, read by everyone.

A trial's record is begun by ``start`` and completed by ``finish``, each in one transaction, so that a reader sees an
evaluation either running or whole. Instants are handed in; no clock is read here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Select, insert, inspect, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from unetx_evaluators.evaluation import Budget, CaseScore, CurvePoint, Evaluation, Outcome
from unetx_space.architecture import Architecture
from unetx_space.canonical import canonical
from unetx_space.documents import loads
from unetx_studies.ranking import ranking
from unetx_studies.store.open import Store
from unetx_studies.tables import (
    ArchitectureRow,
    CaseScoreRow,
    CurveRow,
    EvaluationRow,
    InsightRow,
)

Part = TypeVar("Part", CaseScoreRow, CurveRow, InsightRow)


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """A trial's evaluation without its cases and its curve, which ``Records`` reads apart."""

    trial_number: int

    key: str
    seed: int
    origin: str
    """Where the genome came from: ``preset u-net``, ``replicate of preset u-net``, ``sampler``, ``random``,
    ``replicate``."""
    budget: Budget

    started_at: datetime
    ended_at: datetime | None
    worker: int | None
    device: str
    versions: Mapping[str, str]

    outcome: Outcome | None
    """None while it is running, or when it was left half done."""
    reason: str
    traceback: str
    score: float | None
    n_parameters: int | None
    """Of the trained, width-scaled network."""
    peak_mem_mib: float | None
    seconds: float

    @property
    def is_finished(self) -> bool:
        return self.outcome is not None


@dataclass(frozen=True, slots=True)
class TrialInsight:
    """What an evaluation told beside its scores."""

    loss_sum: float | None
    """Of all training steps up to the last rung reached."""
    document: Mapping[str, Any]
    """As ``Insight.to_json`` writes it; training steps are texts, as JSON has it."""


@dataclass(frozen=True, slots=True)
class ArchitectureRecord:
    """A design with its costs at full size."""

    key: str
    architecture: Architecture
    n_parameters: int
    macs: int
    """Multiply-adds for one training patch."""


class Records:
    """The records of one study. Reads return what was committed last."""

    def __init__(self, store: Store, study: str) -> None:
        self._store = store
        self._study = study

    @staticmethod
    def studies(store: Store) -> tuple[str, ...]:
        """Names of the studies that have begun a trial."""
        with store.reading() as session:
            return tuple(session.scalars(select(EvaluationRow.study).distinct().order_by(EvaluationRow.study)))

    # Writing.

    def add_architecture(self, key: str, architecture: Architecture, n_parameters: int, macs: int) -> None:
        """Keep a design; nothing happens when it is known. Score and provenance are left out.

        Raises ValueError when the key is known for another design.
        """
        document = Architecture(architecture.backbone, architecture.genome).dumps()
        with self._store.writing() as session:
            known = session.get(ArchitectureRow, key)
            if known is None:
                session.add(ArchitectureRow(key=key, document=document, n_parameters=n_parameters, macs=macs))
            elif known.document != document and not _same_design(loads(known.document), architecture):
                raise ValueError(f"the key {key} stands for another architecture already")

    def start(
        self, trial_number: int, key: str, *, seed: int, origin: str, budget: Budget, started_at: datetime
    ) -> None:
        """Begin a trial's record, over whatever an interrupted run of the same trial left.

        Raises ValueError when the trial has finished: a result is never overwritten.
        """
        with self._store.writing() as session:
            left = self._row(session, trial_number)
            if left is not None:
                self._refuse_finished(left)
                session.delete(left)
                session.flush()
            session.add(
                EvaluationRow(
                    study=self._study,
                    trial_number=trial_number,
                    architecture_key=key,
                    seed=seed,
                    origin=origin,
                    budget=asdict(budget),
                    started_at=started_at,
                )
            )

    def finish(self, trial_number: int, evaluation: Evaluation, *, worker: int, ended_at: datetime) -> None:
        """Complete a trial's record: the evaluation, its cases and its curve in one transaction.

        Raises LookupError when the trial was never started, ValueError when it has finished already.
        """
        with self._store.writing() as session:
            row = self._row(session, trial_number)
            if row is None:
                raise LookupError(f"trial {trial_number} of {self._study!r} finished without having been started")
            self._refuse_finished(row)
            row.ended_at, row.worker = ended_at, worker
            _write_result(row, evaluation)
            for kind, parts in (
                (CaseScoreRow, _case_rows(row, evaluation)),
                (CurveRow, _curve_rows(row, evaluation)),
                (InsightRow, [_insight_row(row, evaluation)]),
            ):
                if parts:
                    session.execute(insert(kind), parts)

    def _refuse_finished(self, row: EvaluationRow) -> None:
        if row.outcome is not None:
            raise ValueError(f"trial {row.trial_number} of {self._study!r} has finished already as {row.outcome}")

    # Reading.

    def evaluation(self, trial_number: int) -> EvaluationRecord | None:
        """The record of a trial, or None when it was never started."""
        with self._store.reading() as session:
            row = self._row(session, trial_number)
            return None if row is None else _record(row)

    def evaluations(self, *, finished_only: bool = False) -> tuple[EvaluationRecord, ...]:
        """Every record in order of trial number, running ones included unless told otherwise."""
        query = self._of_study()
        if finished_only:
            query = query.where(EvaluationRow.outcome.is_not(None))
        with self._store.reading() as session:
            return tuple(_record(row) for row in session.scalars(query.order_by(EvaluationRow.trial_number)))

    def best(self) -> EvaluationRecord | None:
        """The first of the ``ranking``; None before an evaluation is complete."""
        return next(iter(ranking(self.evaluations(finished_only=True))), None)

    def known_keys(self) -> frozenset[str]:
        """Keys of every design that this study has evaluated or is evaluating."""
        return self._keys(self._of_study())

    def finished_keys(self) -> frozenset[str]:
        """Keys of every design with a finished evaluation in this study, whatever its outcome."""
        return self._keys(self._of_study().where(EvaluationRow.outcome.is_not(None)))

    def architecture(self, key: str) -> Architecture:
        """The design of a key. Raises LookupError."""
        return self.architecture_record(key).architecture

    def architecture_record(self, key: str) -> ArchitectureRecord:
        """The design of a key with its full-size costs. Raises LookupError."""
        with self._store.reading() as session:
            row = session.get(ArchitectureRow, key)
            if row is None:
                raise LookupError(f"no architecture has the key {key!r}")
            return ArchitectureRecord(row.key, loads(row.document), row.n_parameters, row.macs)

    def case_scores(self, trial_number: int) -> tuple[CaseScore, ...]:
        """Per case and class, in the order in which they came; empty while there are none."""
        values: dict[tuple[str, str], dict[str, float | None]] = {}
        for row in self._parts(trial_number, CaseScoreRow, CaseScoreRow.id):
            values.setdefault((row.case_name, row.class_name), {})[row.metric] = row.value
        return tuple(CaseScore(*of, by_metric) for of, by_metric in values.items())

    def insight(self, trial_number: int) -> TrialInsight | None:
        """What the trial's evaluation told beside its scores; None before its end, and from older versions."""
        rows = self._parts(trial_number, InsightRow)
        return TrialInsight(rows[0].loss_sum, rows[0].document) if rows else None

    def original_dice(self) -> Mapping[int, float]:
        """The objective on original voxels by trial, where an evaluation told it."""
        query = select(EvaluationRow.trial_number, InsightRow.document).join(InsightRow)
        with self._store.reading() as session:
            if not inspect(session.connection()).has_table(InsightRow.__tablename__):
                return {}  # a database of an older version, opened to read
            told = session.execute(query.where(EvaluationRow.study == self._study)).all()
        dice = {trial: document.get("original_dice") for trial, document in told}
        return {trial: value for trial, value in dice.items() if value is not None}

    def curve(self, trial_number: int) -> tuple[CurvePoint, ...]:
        """The rungs that were reached, ascending."""
        rows = self._parts(trial_number, CurveRow, CurveRow.step)
        return tuple(CurvePoint(row.step, _or_nan(row.score), _or_nan(row.loss), row.seconds) for row in rows)

    def _of_study(self) -> Select[EvaluationRow]:
        return select(EvaluationRow).where(EvaluationRow.study == self._study)

    def _row(self, session: Session, trial_number: int) -> EvaluationRow | None:
        return session.scalars(self._of_study().where(EvaluationRow.trial_number == trial_number)).one_or_none()

    def _keys(self, query: Select[EvaluationRow]) -> frozenset[str]:
        with self._store.reading() as session:
            return frozenset(session.scalars(query.with_only_columns(EvaluationRow.architecture_key)))

    def _parts(
        self, trial_number: int, row: type[Part], order: InstrumentedAttribute[int] | None = None
    ) -> Sequence[Part]:
        query = select(row).join(EvaluationRow, EvaluationRow.id == row.evaluation_id).order_by(order)
        query = query.where(EvaluationRow.study == self._study, EvaluationRow.trial_number == trial_number)
        with self._store.reading() as session:
            if not inspect(session.connection()).has_table(row.__tablename__):
                return ()  # a database of an older version, opened to read
            return session.scalars(query).all()


def _same_design(one: Architecture, other: Architecture) -> bool:
    return one.backbone == other.backbone and canonical(one.genome) == canonical(other.genome)


def _write_result(row: EvaluationRow, evaluation: Evaluation) -> None:
    row.outcome, row.reason, row.traceback = evaluation.outcome, evaluation.reason, evaluation.traceback
    row.score = _or_null(evaluation.score)
    row.n_parameters = evaluation.n_parameters
    row.peak_mem_mib, row.seconds = evaluation.peak_mem_mib, evaluation.seconds
    row.device, row.versions = evaluation.device, dict(evaluation.versions)


def _case_rows(row: EvaluationRow, evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "evaluation_id": row.id,
            "case_name": score.case,
            "class_name": score.class_name,
            "metric": metric,
            "value": _or_null(value),
        }
        for score in evaluation.case_scores
        for metric, value in score.values.items()
    ]


def _insight_row(row: EvaluationRow, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "evaluation_id": row.id,
        "loss_sum": _or_null(evaluation.loss_sum),
        "document": evaluation.insight.to_json(),
    }


def _curve_rows(row: EvaluationRow, evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "evaluation_id": row.id,
            "step": point.step,
            "score": _or_null(point.score),
            "loss": _or_null(point.loss),
            "seconds": point.seconds,
        }
        for point in evaluation.curve
    ]


def _or_null(number: float | None) -> float | None:
    """NULL for NaN, which databases sort and keep in ways of their own."""
    return None if number is None or math.isnan(number) else float(number)


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number


def _record(row: EvaluationRow) -> EvaluationRecord:
    return EvaluationRecord(
        trial_number=row.trial_number,
        key=row.architecture_key,
        seed=row.seed,
        origin=row.origin,
        budget=Budget.from_json(row.budget),
        started_at=row.started_at,
        ended_at=row.ended_at,
        worker=row.worker,
        device=row.device or "",
        versions=row.versions or {},
        outcome=row.outcome,
        reason=row.reason or "",
        traceback=row.traceback or "",
        score=row.score,
        n_parameters=row.n_parameters,
        peak_mem_mib=row.peak_mem_mib,
        seconds=row.seconds or 0.0,
    )
