"""The lease of a study, and the runs of the command that had it. Its holder is the one writer.

Claiming it is one transaction, so of two runs that start at the same instant one gets it. Every write of the holder
makes sure that it still has the lease, in the write's own transaction; a run that lost it is told so then, before
anything of it is committed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from sqlalchemy import Connection, Table, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert

from unetx_space.errors import Interrupted, RequestError, UnetxError
from unetx_studies.processes import Presence, ProcessIdentity, presence, this_process
from unetx_studies.store.open import Store, open_store
from unetx_studies.store.retry import ServerGone, retry
from unetx_studies.store.tables import RUNS, STUDIES, TRIALS

SILENCE = timedelta(seconds=120)
"""A run on another machine, whose process cannot be looked up from here, counts as dead after so long without a
heartbeat."""
HEARTBEAT = timedelta(seconds=15)

_held: set[str] = set()
"""Ids of the runs of this very process that hold a lease; whether a run of another one does is told by its process."""


class LeaseLost(UnetxError):
    """Another run has taken this study over, because this one showed no sign of life for too long."""


def utc_now() -> datetime:
    """The present instant, with its zone."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of the command on a study, as it is recorded."""

    id: str
    study: str
    process: ProcessIdentity
    n_trials: int
    """The total number of trials that it is to reach."""
    started_at: datetime
    seen_at: datetime
    """Its last heartbeat."""
    ended_at: datetime | None = None
    ending: str = ""

    def is_alive(self, now: datetime) -> bool:
        """Whether it is still at work, as far as can be told from here."""
        if self.ended_at is not None:
            return False
        found = presence(self.process)
        return now - self.seen_at < SILENCE if found is Presence.UNKNOWN else found is Presence.ALIVE


def new_run(study: str, *, n_trials: int, clock: Callable[[], datetime] = utc_now) -> RunRecord:
    """A run of this process that begins now."""
    now = clock()
    return RunRecord(uuid4().hex, study, this_process(), n_trials, started_at=now, seen_at=now)


def upsert(connection: Connection, table: Table) -> PostgresInsert | SqliteInsert:
    """An insert into a table that can say what to do where the row is there already, for either kind of database."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


class Lease:
    """The lease of one study. Instants are handed in; no clock is read here."""

    def __init__(self, store: Store, study: str) -> None:
        self._store = store
        self._study = study

    def claim(self, run: RunRecord, study_id: str = "") -> RunRecord | None:
        """Take the lease for ``run``, and return the run from which it was taken over, when that had died.

        Raises RequestError when another run is at work, naming it, and when the database has a study of this name that
        is known by another id than ``study_id``.
        """
        _held.add(run.id)  # before another thread can see the claim, and take it for one that was abandoned here
        try:
            return retry(lambda: self._claim(run, study_id))
        except BaseException:
            _held.discard(run.id)
            raise

    def _claim(self, run: RunRecord, study_id: str) -> RunRecord | None:
        with self._store.writing() as connection:
            row = upsert(connection, STUDIES).values(name=self._study, id=study_id)
            connection.execute(row.on_conflict_do_nothing())
            mine = select(STUDIES.c.id).where(STUDIES.c.name == self._study).with_for_update()
            has_begun = select(TRIALS.c.number).where(TRIALS.c.study == self._study).limit(1)
            if connection.scalar(mine) != study_id and connection.scalar(has_begun) is not None:
                raise RequestError(
                    f"the database has a study {self._study!r} already that was not begun from this folder; take "
                    "another --study NAME, or run the command where its folder is"
                )
            before = self._holder(connection)
            if before is not None:
                if before.id == run.id:  # claimed before, by a transaction whose success was not heard of
                    return None
                _refuse_if_occupied(before, run.process, run.started_at)
                died = {"ended_at": run.started_at, "ending": "died"}
                connection.execute(update(RUNS).where(RUNS.c.id == before.id).values(died))
            connection.execute(insert(RUNS).values({name: getattr(run, name) for name in RUNS.c.keys()}))  # noqa: SIM118
            taken = update(STUDIES).where(STUDIES.c.name == self._study)
            connection.execute(taken.values(id=study_id, holder=run.id))
            return before

    def renew(self, connection: Connection, run: RunRecord, now: datetime) -> None:
        """Record a heartbeat as a part of a transaction. Raises LeaseLost when the study is another run's by now.

        The lease stays locked until the transaction ends: nobody can take it over between this and what is written
        with it.
        """
        mine = select(STUDIES.c.holder).where(STUDIES.c.name == self._study, STUDIES.c.holder == run.id)
        if connection.scalar(mine.with_for_update()) is None:
            raise LeaseLost(
                f"another run has taken the study {self._study!r} over, because this one showed no sign of life "
                f"for more than {SILENCE.total_seconds():g} s; `unetx-search status` tells who has it now"
            )
        connection.execute(update(RUNS).where(RUNS.c.id == run.id).values(seen_at=now))

    def abandon(self, run: RunRecord) -> None:
        """Leave the lease to whoever comes next, without writing."""
        _held.discard(run.id)

    def release(self, run: RunRecord, ending: str, now: datetime) -> None:
        """Give the lease back; nothing happens when it is another run's by now."""
        self.abandon(run)
        given_back = update(STUDIES).where(STUDIES.c.name == self._study, STUDIES.c.holder == run.id)
        ended = update(RUNS).where(RUNS.c.id == run.id).values(seen_at=now, ended_at=now, ending=ending)

        def release() -> None:
            with self._store.writing() as connection:
                connection.execute(given_back.values(holder=None))
                connection.execute(ended)

        retry(release)

    # Reading.

    @staticmethod
    def studies(store: Store) -> tuple[str, ...]:
        """The names of the studies that the command was run on, whether a trial has begun or not."""
        with store.reading() as connection:
            return tuple(connection.scalars(select(STUDIES.c.name).order_by(STUDIES.c.name)))

    def check_free(self, now: datetime) -> None:
        """Check, without writing, that no run is at work. Raises RequestError, naming the run, where one is."""
        holder = self.holder()
        if holder is not None:
            _refuse_if_occupied(holder, this_process(), now)

    def holder(self) -> RunRecord | None:
        """The run that has the lease, dead or alive; None when the last one ended in order."""
        with self._store.reading() as connection:
            return self._holder(connection)

    def _holder(self, connection: Connection) -> RunRecord | None:
        query = select(RUNS).join(STUDIES, STUDIES.c.holder == RUNS.c.id).where(STUDIES.c.name == self._study)
        row = connection.execute(query).mappings().one_or_none()
        return None if row is None else RunRecord(**row)

    def runs(self) -> tuple[RunRecord, ...]:
        """Every run of the command, earliest first."""
        query = select(RUNS).where(RUNS.c.study == self._study).order_by(RUNS.c.started_at)
        with self._store.reading() as connection:
            return tuple(RunRecord(**row) for row in connection.execute(query).mappings())


def _refuse_if_occupied(other: RunRecord, mine: ProcessIdentity, now: datetime) -> None:
    is_abandoned = other.process == mine and other.id not in _held
    if not other.is_alive(now) or is_abandoned:
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


class HeldLease:
    """The lease of a study while this process has it."""

    def __init__(self, lease: Lease, run: RunRecord, died: RunRecord | None, clock: Callable[[], datetime]) -> None:
        self.run = run
        self.died = died
        """The run from which it was taken over, when that died."""
        self.clock = clock
        self.renewed_at = run.seen_at
        self._lease = lease

    def is_due(self) -> bool:
        """Whether it is time for a heartbeat."""
        return self.clock() - self.renewed_at >= HEARTBEAT

    def renew(self, connection: Connection) -> None:
        """Record a heartbeat as a part of a transaction. Raises LeaseLost."""
        now = self.clock()
        self._lease.renew(connection, self.run, now)
        self.renewed_at = now


@contextmanager
def held_lease(
    store: Store, run: RunRecord, *, study_id: str = "", clock: Callable[[], datetime] = utc_now
) -> Iterator[HeldLease]:
    """Hold the lease of the run's study; raises what ``Lease.claim`` raises.

    A lease whose giving back fails, as on a full disk, or is left out, as after a second Ctrl-C or because the server
    has gone, is taken over by the next run.
    """
    lease = Lease(store, run.study)
    held = HeldLease(lease, run, lease.claim(run, study_id), clock)
    try:
        yield held
    except (KeyboardInterrupt, ServerGone):
        # The first may have cut a transaction in its middle, whose lock stands until the process ends.
        lease.abandon(run)
        raise
    except BaseException as error:
        lease.release(run, "ended" if isinstance(error, Interrupted) else f"{type(error).__name__}: {error}", clock())
        raise
    else:
        lease.release(run, "ended", clock())


@contextmanager
def heartbeats(
    url: str, run: RunRecord, *, clock: Callable[[], datetime] = utc_now, every: timedelta = HEARTBEAT
) -> Iterator[None]:
    """Renew the lease from a thread while the caller is busy with what takes long and writes nothing, as reading data.

    A lease that was lost meanwhile shows at the next write.
    """
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every.total_seconds()):
            with (
                suppress(UnetxError),  # next time it may be better
                open_store(url, create=False) as store,
                store.writing() as connection,
            ):
                Lease(store, run.study).renew(connection, run, clock())

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
