"""Our tables, beside Optuna's in the same database and joined to them by study name and trial number.

What was asked, who ran it and when, and what came out stand in one row of ``unetx_evaluations``. Who coordinates a
study stands in ``unetx_leases``, how far each trial has come in ``unetx_jobs``, and why it was proposed in
``unetx_decisions``. Optuna's own tables are never touched from here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from unetx_evaluators.evaluation import Outcome

SCHEMA_VERSION = 2
"""Raised by one with every change of these tables, together with a step in ``store/migrations``."""


class Stage(StrEnum):
    """Where a trial is in its life."""

    ASKED = "asked"  # proposed and recorded; no worker has it
    RUNNING = "running"  # a worker has it
    FINISHED = "finished"  # its result is recorded and Optuna was told


class UtcDateTime(TypeDecorator[datetime]):
    """An instant, kept in UTC without its zone and read back with it. A naive time is refused with ValueError."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"an instant needs a time zone, got {value!r}; use datetime.now(UTC)")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Words(TypeDecorator[str]):
    """Text of any origin, such as a worker's last words; what a database could not keep (NUL, half a surrogate pair) is
    kept as its escape.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _values(enumeration: type[StrEnum]) -> list[str]:
    return [member.value for member in enumeration]


class Base(DeclarativeBase):
    """All of our tables; constraints have names, so that a migration can speak of them."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        }
    )


class MetaRow(Base):
    """Facts about the tables themselves: ``schema_version`` and ``created``."""

    __tablename__ = "unetx_meta"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class ArchitectureRow(Base):
    """A design at full size, once for all evaluations of it."""

    __tablename__ = "unetx_architectures"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    document: Mapped[str] = mapped_column(Text)
    """The JSON document without score and provenance."""
    n_parameters: Mapped[int] = mapped_column(BigInteger)
    macs: Mapped[int] = mapped_column(BigInteger)
    """Multiply-adds for one training patch."""


class EvaluationRow(Base):
    """One trial's evaluation; it is running as long as ``outcome`` is NULL."""

    __tablename__ = "unetx_evaluations"
    __table_args__ = (UniqueConstraint("study", "trial_number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study: Mapped[str] = mapped_column(String(512))
    """Optuna's name of the study."""
    trial_number: Mapped[int]

    # What was asked.
    architecture_key: Mapped[str] = mapped_column(ForeignKey(ArchitectureRow.key), index=True)
    seed: Mapped[int] = mapped_column(BigInteger)
    origin: Mapped[str] = mapped_column(String(64))
    budget: Mapped[dict[str, Any]] = mapped_column(JSON)

    # Who ran it and when.
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    worker: Mapped[int | None]
    device: Mapped[str | None] = mapped_column(Text)
    versions: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))

    # What came out.
    outcome: Mapped[Outcome | None] = mapped_column(
        Enum(Outcome, native_enum=False, length=32, values_callable=_values)
    )
    reason: Mapped[str | None] = mapped_column(Words)
    traceback: Mapped[str | None] = mapped_column(Words)
    score: Mapped[float | None]
    n_parameters: Mapped[int | None] = mapped_column(BigInteger)
    """Of the trained, width-scaled network."""
    peak_mem_mib: Mapped[float | None]
    seconds: Mapped[float | None]

    case_scores: Mapped[list[CaseScoreRow]] = relationship(
        cascade="all, delete-orphan", passive_deletes=True, order_by="CaseScoreRow.id"
    )
    curve: Mapped[list[CurveRow]] = relationship(
        cascade="all, delete-orphan", passive_deletes=True, order_by="CurveRow.step"
    )


class CaseScoreRow(Base):
    """A metric's value for one class on one case; NULL where the class is absent from truth and prediction alike."""

    __tablename__ = "unetx_case_scores"
    __table_args__ = (UniqueConstraint("evaluation_id", "case_name", "class_name", "metric"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    evaluation_id: Mapped[int] = mapped_column(ForeignKey(EvaluationRow.id, ondelete="CASCADE"))
    case_name: Mapped[str] = mapped_column(String(512))
    class_name: Mapped[str] = mapped_column(String(256))
    metric: Mapped[str] = mapped_column(String(64))
    value: Mapped[float | None]


class InsightRow(Base):
    """What an evaluation told beside its scores."""

    __tablename__ = "unetx_insights"

    evaluation_id: Mapped[int] = mapped_column(ForeignKey(EvaluationRow.id, ondelete="CASCADE"), primary_key=True)
    loss_sum: Mapped[float | None]
    """Of all training steps."""
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
    """``Insight.to_json``: zero-cost features, gradients by stage, similarity of skips, recall by size."""


class CurveRow(Base):
    """What was known at a rung; NULL stands for a number that is none, as the loss of a net that diverged."""

    __tablename__ = "unetx_curves"

    evaluation_id: Mapped[int] = mapped_column(ForeignKey(EvaluationRow.id, ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    score: Mapped[float | None]
    loss: Mapped[float | None]
    seconds: Mapped[float]


class RunRow(Base):
    """One run of the command on a study: who coordinated it, and how it ended."""

    __tablename__ = "unetx_runs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    study: Mapped[str] = mapped_column(String(512), index=True)
    n_trials: Mapped[int]
    """The total it was to reach."""
    n_slots: Mapped[int]
    host: Mapped[str] = mapped_column(String(256))
    boot: Mapped[str] = mapped_column(String(64))
    namespace: Mapped[str] = mapped_column(String(64))
    pid: Mapped[int]
    began: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """Its last sign of life."""
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ending: Mapped[str | None] = mapped_column(Words)


class LeaseRow(Base):
    """Who coordinates a study now: at most one run. A run that ends in order takes its lease away."""

    __tablename__ = "unetx_leases"

    study: Mapped[str] = mapped_column(String(512), primary_key=True)
    run: Mapped[str] = mapped_column(ForeignKey(RunRow.id))


class JobRow(Base):
    """How far a trial has come, and who has it now."""

    __tablename__ = "unetx_jobs"

    study: Mapped[str] = mapped_column(String(512), primary_key=True)
    trial_number: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[Stage] = mapped_column(Enum(Stage, native_enum=False, length=16, values_callable=_values))
    n_starts: Mapped[int]
    n_deaths: Mapped[int]
    """Workers that died while they had it."""
    last_death: Mapped[str] = mapped_column(Words)
    pruned_at: Mapped[int | None]
    """The step at which it was told to stop."""
    worker: Mapped[int | None]
    device: Mapped[str | None] = mapped_column(Text)
    host: Mapped[str | None] = mapped_column(String(256))
    boot: Mapped[str | None] = mapped_column(String(64))
    namespace: Mapped[str | None] = mapped_column(String(64))
    pid: Mapped[int | None]
    began: Mapped[int | None] = mapped_column(BigInteger)
    taken_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class DecisionRow(Base):
    """Why a trial's genome was proposed."""

    __tablename__ = "unetx_decisions"

    study: Mapped[str] = mapped_column(String(512), primary_key=True)
    trial_number: Mapped[int] = mapped_column(primary_key=True)
    origin: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)
    decided_at: Mapped[datetime] = mapped_column(UtcDateTime)
