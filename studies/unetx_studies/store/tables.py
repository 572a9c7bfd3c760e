"""Our tables: the record of what was asked, how far it has come and what came out, joined by study and trial number.

Optuna's tables lie in the same database, are a mirror of these, and are never touched from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Double,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

from unetx_evaluators.evaluation import Budget, Outcome
from unetx_studies.candidate import Origin
from unetx_studies.processes import ProcessIdentity


class UtcDateTime(TypeDecorator[datetime]):
    """A column of instants, kept in UTC without a zone and read back with it. Raises ValueError for a naive time."""

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
    """A column of text of any origin, such as a worker's last words.

    What a database could not keep (NUL, half a surrogate pair) is kept as its escape.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


class Document(TypeDecorator[Any]):
    """A column of frozen dataclasses, kept as JSON; ``read`` makes them again from that."""

    impl = JSON
    cache_ok = True

    def __init__(self, read: Callable[[Mapping[str, Any]], Any]) -> None:
        super().__init__(none_as_null=True)
        self.read = read

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else asdict(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else self.read(value)


def _process(data: Mapping[str, Any]) -> ProcessIdentity:
    return ProcessIdentity(**data)


def _one_of(enumeration: type[StrEnum]) -> Enum:
    """A member of an enumeration, kept by the value that people read."""
    return Enum(enumeration, native_enum=False, length=32, values_callable=lambda found: [m.value for m in found])


METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)
"""All of our tables; their constraints have names, so that a migration can refer to them."""


RUNS = Table(
    "unetx_runs",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("study", String(512), nullable=False, index=True),
    Column("process", Document(_process), nullable=False),
    Column("n_trials", Integer, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("ending", Words, nullable=False),
)
"""One run of the command on a study: who coordinated it, its total, its last heartbeat, and how it ended."""

STUDIES = Table(
    "unetx_studies",
    METADATA,
    Column("name", String(512), primary_key=True),
    Column("id", String(64), nullable=False),
    Column("holder", ForeignKey(RUNS.c.id)),
)
"""A study; ``id`` is what its folder knows it by, ``holder`` the run that has its lease. A run that ends in order gives
the lease back."""

ARCHITECTURES = Table(
    "unetx_architectures",
    METADATA,
    Column("key", String(64), primary_key=True),
    Column("document", Text, nullable=False),
)
"""A design at full size, once for all its evaluations: the JSON document without score and provenance."""

TRIALS = Table(
    "unetx_trials",
    METADATA,
    Column("study", String(512), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    # What was asked.
    Column("key", ForeignKey(ARCHITECTURES.c.key), nullable=False),
    Column("params", JSON, nullable=False),
    Column("origin", Document(Origin.from_json), nullable=False),
    Column("why", Text, nullable=False),
    Column("n_parameters", BigInteger, nullable=False),
    Column("macs", BigInteger, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("budget", Document(Budget.from_json), nullable=False),
    Column("asked_at", UtcDateTime, nullable=False),
    # How far it has come.
    Column("optuna_notes", JSON, nullable=False),
    Column("n_starts", Integer, nullable=False),
    Column("n_lost", Integer, nullable=False),
    Column("exit_reason", Words, nullable=False),
    Column("pruned_at", Integer),
    Column("worker", Integer),
    Column("device", Text, nullable=False),
    Column("process", Document(_process)),
    Column("started_at", UtcDateTime),
    # What came out.
    Column("outcome", _one_of(Outcome)),
    Column("ended_at", UtcDateTime),
    Column("reason", Words, nullable=False),
    Column("traceback", Words, nullable=False),
    Column("score", Double),
    Column("original_dice", Double),
    Column("seconds", Double, nullable=False),
    Column("versions", JSON, nullable=False),
    Column("insight", JSON(none_as_null=True)),
)
"""One trial: ``TrialRecord`` tells what each column means; ``insight`` is what ``Insight.to_json`` gives."""

CURVES = Table(
    "unetx_curves",
    METADATA,
    Column("study", String(512), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("score", Double),
    Column("loss", Double),
    Column("seconds", Double, nullable=False),
    ForeignKeyConstraint(["study", "number"], [TRIALS.c.study, TRIALS.c.number], ondelete="CASCADE"),
)
"""What was known at a rung; NULL stands for a number that is none, as the loss of a net that diverged."""

SCORES = Table(
    "unetx_scores",
    METADATA,
    Column("study", String(512), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("case_name", String(512), primary_key=True),
    Column("class_name", String(256), primary_key=True),
    Column("metric", String(32), primary_key=True),
    Column("value", Double),
    ForeignKeyConstraint(["study", "number"], [TRIALS.c.study, TRIALS.c.number], ondelete="CASCADE"),
    sqlite_with_rowid=False,
)
"""One metric of one class on one case; NULL where the class is absent from truth and prediction alike."""
