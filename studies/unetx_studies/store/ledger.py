"""Who runs a study, how far each trial has come and why it was proposed, as kept in the database.

What may follow what is decided elsewhere, in pure functions; here it is only written and read. A study has one lease:
its holder is the one writer. Claiming it is one transaction, so of two runs that start at the same instant one gets it.
Every write of the holder may renew the lease in its own transaction; a run that lost its lease is told so then, before
anything of it is committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, inspect, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from unetx_space.errors import RequestError, UnetxError
from unetx_studies.processes import Presence, ProcessIdentity, presence, this_process
from unetx_studies.store.open import Store
from unetx_studies.tables import DecisionRow, JobRow, LeaseRow, RunRow, Stage

SILENCE = timedelta(seconds=120)
"""A run on another machine, whose process cannot be looked up from here, counts as dead after so long without a sign
of life."""

_held: set[str] = set()
"""Runs of this very process that have their lease; of another process its presence tells."""


class LeaseLost(UnetxError):
    """Another run has taken this study over, because this one showed no sign of life for too long."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of the command on a study."""

    id: str
    study: str
    process: ProcessIdentity
    n_trials: int
    n_slots: int
    started_at: datetime
    seen_at: datetime
    ended_at: datetime | None = None
    ending: str = ""

    def lives(self, now: datetime) -> bool:
        """Whether it is still at work, as far as can be told from here."""
        if self.ended_at is not None:
            return False
        found = presence(self.process)
        return now - self.seen_at < SILENCE if found is Presence.UNKNOWN else found is Presence.ALIVE


@dataclass(frozen=True, slots=True)
class JobRecord:
    """How far a trial has come."""

    trial: int
    stage: Stage = Stage.ASKED
    n_starts: int = 0
    n_deaths: int = 0
    """Workers that died while they had it."""
    last_death: str = ""
    pruned_at: int | None = None
    """The step at which it was told to stop."""
    worker: int | None = None
    device: str = ""
    process: ProcessIdentity | None = None
    """The worker's, from the moment it began."""
    taken_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """Why a trial's genome was proposed."""

    trial: int
    origin: str
    reason: str
    decided_at: datetime


class Ledger:
    """The ledger of one study. Instants are handed in; no clock is read here."""

    def __init__(self, store: Store, study: str) -> None:
        self._store = store
        self._study = study

    # The lease.

    def claim(self, run: RunRecord) -> RunRecord | None:
        """Take the study's lease for ``run``; the run from which it was taken over, when that died without a word.

        Raises RequestError, naming the other run, when that one is at work.
        """
        try:
            with self._store.writing() as session:
                before = self._claim(session, run)
        except IntegrityError:  # on a server two claims can overlap; the other's stands now
            with self._store.writing() as session:
                before = self._claim(session, run)
        _held.add(run.id)
        return before

    def _claim(self, session: Session, run: RunRecord) -> RunRecord | None:
        lease = session.get(LeaseRow, self._study, with_for_update=True)
        before = None
        if lease is not None:
            before = _run(session.get_one(RunRow, lease.run))
            if before.id == run.id:  # claimed before, by a transaction whose success was not heard of
                return None
            _refuse_occupied(before, run.process, run.started_at)
            session.execute(update(RunRow).where(RunRow.id == before.id).values(ended_at=run.started_at, ending="died"))
        process = run.process
        row = RunRow(
            id=run.id,
            study=self._study,
            n_trials=run.n_trials,
            n_slots=run.n_slots,
            host=process.host,
            boot=process.boot,
            namespace=process.namespace,
            pid=process.pid,
            began=process.began,
            started_at=run.started_at,
            seen_at=run.seen_at,
        )
        session.add(row)
        session.flush()
        if lease is None:
            session.add(LeaseRow(study=self._study, run=run.id))
        else:
            lease.run = run.id
        return before

    def renew(self, run: RunRecord, now: datetime) -> None:
        """A sign of life. Raises LeaseLost when the study is another run's by now.

        The lease stays locked until the transaction ends: nobody can take it over between this sign and what is
        written with it.
        """
        with self._store.writing() as session:
            mine = select(LeaseRow.run).where(LeaseRow.study == self._study, LeaseRow.run == run.id).with_for_update()
            if session.scalar(mine) is None:
                raise LeaseLost(
                    f"another run has taken the study {self._study!r} over, because this one showed no sign of life "
                    f"for more than {SILENCE.total_seconds():g} s; `unetx-search status` tells who has it now"
                )
            session.execute(update(RunRow).where(RunRow.id == run.id).values(seen_at=now))

    def seen_at(self, run: RunRecord) -> datetime | None:
        """The run's last sign of life; None when there is no such run."""
        with self._store.reading() as session:
            return session.scalar(select(RunRow.seen_at).where(RunRow.id == run.id))

    def seat(self, run: RunRecord, n_slots: int) -> None:
        """Note how many seats a run has after all."""
        with self._store.writing() as session:
            session.execute(update(RunRow).where(RunRow.id == run.id).values(n_slots=n_slots))

    def abandon(self, run: RunRecord) -> None:
        """Leave the lease to whoever comes next, without writing."""
        _held.discard(run.id)

    def release(self, run: RunRecord, ending: str, now: datetime) -> None:
        """Give the lease back; nothing happens when it is another run's by now."""
        self.abandon(run)
        with self._store.writing() as session:
            session.execute(delete(LeaseRow).where(LeaseRow.study == self._study, LeaseRow.run == run.id))
            session.execute(update(RunRow).where(RunRow.id == run.id).values(seen_at=now, ended_at=now, ending=ending))

    # Jobs and decisions.

    def write(self, job: JobRecord) -> None:
        """Note how far a trial has come, over what was noted before."""
        process = job.process
        facts = {
            "stage": job.stage,
            "n_starts": job.n_starts,
            "n_deaths": job.n_deaths,
            "last_death": job.last_death,
            "pruned_at": job.pruned_at,
            "worker": job.worker,
            "device": job.device,
            "host": process.host if process else None,
            "boot": process.boot if process else None,
            "namespace": process.namespace if process else None,
            "pid": process.pid if process else None,
            "began": process.began if process else None,
            "taken_at": job.taken_at,
        }
        self._put(JobRow, job.trial, facts)

    def decide(self, decision: DecisionRecord) -> None:
        """Note why a genome was proposed, over what was noted before."""
        facts = {"origin": decision.origin, "reason": decision.reason, "decided_at": decision.decided_at}
        self._put(DecisionRow, decision.trial, facts)

    def _put(self, table: type[JobRow] | type[DecisionRow], trial: int, facts: Mapping[str, Any]) -> None:
        """One statement, whether the row is there or not."""
        with self._store.writing() as session:
            dialect = postgresql if session.connection().dialect.name == "postgresql" else sqlite
            row = dialect.insert(table).values(study=self._study, trial_number=trial, **facts)
            session.execute(row.on_conflict_do_update(index_elements=["study", "trial_number"], set_=dict(facts)))

    @staticmethod
    def studies(store: Store) -> tuple[str, ...]:
        """Names of the studies that the command was run on, whether a trial has begun or not."""
        with store.reading() as session:
            if not _has_ledger(session):
                return ()
            return tuple(session.scalars(select(RunRow.study).distinct().order_by(RunRow.study)))

    # Reading. A database of version 1 has no ledger: it is read as an empty one.

    def check_free(self, now: datetime) -> None:
        """Raises RequestError, naming the other run, when one is at work; nothing is written."""
        holder = self.holder()
        if holder is not None:
            _refuse_occupied(holder, this_process(), now)

    def holder(self) -> RunRecord | None:
        """The run that has the lease, dead or alive; None when the last one ended in order."""
        with self._store.reading() as session:
            if not _has_ledger(session):
                return None
            lease = session.get(LeaseRow, self._study)
            return None if lease is None else _run(session.get_one(RunRow, lease.run))

    def runs(self) -> tuple[RunRecord, ...]:
        """Every run of the command, earliest first."""
        query = select(RunRow).where(RunRow.study == self._study).order_by(RunRow.started_at)
        with self._store.reading() as session:
            return tuple(map(_run, session.scalars(query))) if _has_ledger(session) else ()

    def jobs(self, *, unfinished_only: bool = False) -> tuple[JobRecord, ...]:
        """Every job in order of trial number."""
        query = select(JobRow).where(JobRow.study == self._study).order_by(JobRow.trial_number)
        if unfinished_only:
            query = query.where(JobRow.stage != Stage.FINISHED)
        with self._store.reading() as session:
            return tuple(map(_job, session.scalars(query))) if _has_ledger(session) else ()

    def decisions(self) -> Sequence[DecisionRecord]:
        """Why each genome was proposed, in order of trial number."""
        query = select(DecisionRow).where(DecisionRow.study == self._study).order_by(DecisionRow.trial_number)
        with self._store.reading() as session:
            if not _has_ledger(session):
                return ()
            return tuple(
                DecisionRecord(row.trial_number, row.origin, row.reason, row.decided_at)
                for row in session.scalars(query)
            )


def _has_ledger(session: Session) -> bool:
    return inspect(session.connection()).has_table(LeaseRow.__tablename__)


def _refuse_occupied(other: RunRecord, mine: ProcessIdentity, now: datetime) -> None:
    is_abandoned = other.process == mine and other.id not in _held
    if not other.lives(now) or is_abandoned:
        return
    since = f"{other.started_at:%Y-%m-%d %H:%M} UTC"
    if presence(other.process) is Presence.UNKNOWN:
        left = (SILENCE - (now - other.seen_at)).total_seconds()
        way_out = (
            f"that process cannot be looked up from here; should it be dead, try again in {max(1, round(left))} s, "
            "when its silence has proved it"
        )
    else:
        way_out = f"stop that process first (kill -TERM {other.process.pid} ends it in order)"
    raise RequestError(
        f"the study {other.study!r} has one coordinator at a time, and {other.process} has run it since {since} "
        f"(run {other.id[:8]}); {way_out}, or take another --study NAME"
    )


def _run(row: RunRow) -> RunRecord:
    return RunRecord(
        id=row.id,
        study=row.study,
        process=ProcessIdentity(row.host, row.boot, row.namespace, row.pid, row.began),
        n_trials=row.n_trials,
        n_slots=row.n_slots,
        started_at=row.started_at,
        seen_at=row.seen_at,
        ended_at=row.ended_at,
        ending=row.ending or "",
    )


def _job(row: JobRow) -> JobRecord:
    process = None
    if row.host is not None and row.pid is not None:
        process = ProcessIdentity(row.host, row.boot or "", row.namespace or "", row.pid, row.began or 0)
    return JobRecord(
        trial=row.trial_number,
        stage=row.stage,
        n_starts=row.n_starts,
        n_deaths=row.n_deaths,
        last_death=row.last_death,
        pruned_at=row.pruned_at,
        worker=row.worker,
        device=row.device or "",
        process=process,
        taken_at=row.taken_at,
    )
