"""The lease around a run: held, shown to be alive, given back however the run ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection

from unetx_search.book import lease, new_run, showing_life
from unetx_space.errors import RequestError
from unetx_studies.store import Ledger, RunRecord, Store, open_store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MANY_LOOKS = 5


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with open_store(url, create=True) as opened:
        yield opened


def run_at_noon() -> RunRecord:
    return new_run("s", n_trials=1, n_slots=1, clock=lambda: NOON)


def test_a_lease_is_given_back_with_the_way_in_which_the_run_ended(store: Store) -> None:
    ledger = Ledger(store, "s")
    with lease(store, run_at_noon(), clock=lambda: NOON) as died:
        assert died is None
        assert ledger.holder() is not None
    assert ledger.holder() is None
    with pytest.raises(RequestError, match="no"), lease(store, run_at_noon(), clock=lambda: NOON):
        raise RequestError("no, said the data")
    assert ledger.holder() is None
    assert [run.ending for run in ledger.runs()] == ["ended", "RequestError: no, said the data"]


def test_a_lease_that_was_refused_is_not_given_back(store: Store) -> None:
    first = run_at_noon()
    with lease(store, first, clock=lambda: NOON):
        with pytest.raises(RequestError, match="one coordinator at a time"), lease(store, run_at_noon()):
            raise AssertionError("it was refused")
        holder = Ledger(store, "s").holder()
        assert holder is not None
        assert holder.id == first.id


def test_a_run_that_was_ended_at_once_writes_nothing_and_the_next_takes_over(store: Store) -> None:
    """A second Ctrl-C can come in the middle of a transaction, whose lock nobody then gives back: it must not wait."""
    first = run_at_noon()
    lock = "LOCK TABLE unetx_leases" if store.is_on_server else "BEGIN IMMEDIATE"

    def end_at_once(connection: Connection) -> None:
        with lease(store, first, clock=lambda: NOON):
            connection.exec_driver_sql(lock)
            raise KeyboardInterrupt

    with open_store(store.url, create=False) as other, other.engine.connect() as connection:
        with pytest.raises(KeyboardInterrupt):
            end_at_once(connection)
        connection.rollback()
    holder = Ledger(store, "s").holder()
    assert holder is not None
    assert holder.id == first.id
    with lease(store, run_at_noon(), clock=lambda: NOON) as died:
        assert died is not None
        assert died.id == first.id


def test_life_is_shown_while_the_run_is_busy_and_not_afterwards(store: Store) -> None:
    run, looked = run_at_noon(), threading.Event()
    n_looks = 0

    def clock() -> datetime:
        nonlocal n_looks
        n_looks += 1
        if n_looks == MANY_LOOKS:
            looked.set()
        return NOON + timedelta(minutes=n_looks)

    with lease(store, run, clock=lambda: NOON):
        with showing_life(store.url, run, clock=clock, every=timedelta(milliseconds=1)):
            assert looked.wait(60)
        holder = Ledger(store, "s").holder()
        assert holder is not None
        assert holder.seen_at == NOON + timedelta(minutes=n_looks)
        assert n_looks >= MANY_LOOKS


def test_a_run_that_is_quick_is_not_disturbed(store: Store) -> None:
    run = run_at_noon()
    with lease(store, run, clock=lambda: NOON):
        with showing_life(store.url, run, every=timedelta(hours=1)):
            pass
        assert Ledger(store, "s").holder() == run
