"""Version 2 adds who runs a study (runs, leases), how far each trial has come (jobs), why it was proposed, and what an
evaluation tells beside its scores (insights).

Trials of version 1 have no job and no decision: a search completes them where they are unfinished.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

_metadata = MetaData()


RUNS = Table(
    "unetx_runs",
    _metadata,
    Column("id", String(32), nullable=False),
    Column("study", String(512), nullable=False),
    Column("n_trials", Integer, nullable=False),
    Column("n_slots", Integer, nullable=False),
    Column("host", String(256), nullable=False),
    Column("boot", String(64), nullable=False),
    Column("namespace", String(64), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("began", BigInteger, nullable=False),
    Column("started_at", DateTime, nullable=False),
    Column("seen_at", DateTime, nullable=False),
    Column("ended_at", DateTime),
    Column("ending", Text),
    PrimaryKeyConstraint("id", name="pk_unetx_runs"),
    Index("ix_unetx_runs_study", "study"),
)
LEASES = Table(
    "unetx_leases",
    _metadata,
    Column("study", String(512), nullable=False),
    Column("run", String(32), nullable=False),
    PrimaryKeyConstraint("study", name="pk_unetx_leases"),
    ForeignKeyConstraint(["run"], ["unetx_runs.id"], name="fk_unetx_leases_run"),
)
JOBS = Table(
    "unetx_jobs",
    _metadata,
    Column("study", String(512), nullable=False),
    Column("trial_number", Integer, nullable=False),
    Column("stage", String(16), nullable=False),
    Column("n_starts", Integer, nullable=False),
    Column("n_deaths", Integer, nullable=False),
    Column("last_death", Text, nullable=False),
    Column("pruned_at", Integer),
    Column("worker", Integer),
    Column("device", Text),
    Column("host", String(256)),
    Column("boot", String(64)),
    Column("namespace", String(64)),
    Column("pid", Integer),
    Column("began", BigInteger),
    Column("taken_at", DateTime),
    PrimaryKeyConstraint("study", "trial_number", name="pk_unetx_jobs"),
)
DECISIONS = Table(
    "unetx_decisions",
    _metadata,
    Column("study", String(512), nullable=False),
    Column("trial_number", Integer, nullable=False),
    Column("origin", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("decided_at", DateTime, nullable=False),
    PrimaryKeyConstraint("study", "trial_number", name="pk_unetx_decisions"),
)
INSIGHTS = Table(
    "unetx_insights",
    _metadata,
    Column("evaluation_id", Integer, nullable=False),
    Column("loss_sum", Double),
    Column("document", JSON, nullable=False),
    PrimaryKeyConstraint("evaluation_id", name="pk_unetx_insights"),
    ForeignKeyConstraint(
        ["evaluation_id"], ["unetx_evaluations.id"], name="fk_unetx_insights_evaluation_id", ondelete="CASCADE"
    ),
)
EVALUATIONS = Table("unetx_evaluations", _metadata, Column("id", Integer, primary_key=True))
"""There since version 1; named so that the others can refer to it."""


def upgrade(connection: Connection) -> None:
    """Add the tables."""
    new = [RUNS, LEASES, JOBS, DECISIONS, INSIGHTS]
    _metadata.create_all(connection, tables=new, checkfirst=False)
