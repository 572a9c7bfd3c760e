"""The lease of a study: one holder, whoever comes at the same instant; what is dead is taken over."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from narrowing import there
from postgres_server import Server
from sqlalchemy import Connection

from unetx_space.errors import RequestError
from unetx_studies.processes import this_process
from unetx_studies.store import Lease, LeaseLost, RunRecord, Store, heartbeats, held_lease, new_run, open_store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUN = RunRecord("a" * 32, "s", this_process(), n_trials=20, started_at=NOON, seen_at=NOON)
LATER = replace(RUN, id="b" * 32, started_at=NOON + timedelta(minutes=1), seen_at=NOON + timedelta(minutes=1))
GONE = replace(RUN.process, began=1)
ELSEWHERE = replace(RUN.process, host="elsewhere")


@pytest.fixture
def lease(store: Store) -> Lease:
    return Lease(store, "s")


def renew(lease: Lease, store: Store, run: RunRecord, now: datetime) -> None:
    with store.writing() as connection:
        lease.renew(connection, run, now)


def test_a_run_comes_back_as_it_was_claimed_and_as_it_ended(lease: Lease) -> None:
    assert (lease.holder(), lease.runs()) == (None, ())
    assert lease.claim(RUN) is None
    assert lease.holder() == RUN
    lease.release(RUN, "ended", NOON + timedelta(hours=1))
    assert lease.holder() is None
    end = NOON + timedelta(hours=1)
    assert lease.runs() == (replace(RUN, seen_at=end, ended_at=end, ending="ended"),)


def test_a_second_run_is_refused_with_the_first_ones_identity(lease: Lease) -> None:
    lease.claim(RUN)
    with pytest.raises(RequestError) as caught:
        lease.claim(LATER)
    assert f"process {RUN.process.pid} on {RUN.process.host} has run it since 2026-03-01 12:00 UTC" in str(caught.value)
    assert f"kill -TERM {RUN.process.pid}" in str(caught.value)
    assert lease.holder() == RUN
    assert lease.runs() == (RUN,)


def test_another_study_in_the_same_file_has_a_lease_of_its_own(store: Store, lease: Lease) -> None:
    lease.claim(RUN)
    other = Lease(store, "t")
    assert other.claim(replace(LATER, study="t")) is None
    assert (lease.holder(), other.holder()) == (RUN, replace(LATER, study="t"))


@pytest.mark.parametrize(
    "dead",
    [
        GONE,  # the process ended, and its number was used again
        replace(RUN.process, pid=2**22 + 5),
        replace(RUN.process, boot="another"),  # the machine was started anew
    ],
)
def test_the_lease_of_a_run_that_died_here_is_taken_over_at_once(lease: Lease, dead: object) -> None:
    lease.claim(replace(RUN, process=dead))  # type: ignore[arg-type]
    before = there(lease.claim(LATER))
    assert before.id == RUN.id
    assert lease.holder() == LATER
    assert lease.runs()[0].ending == "died"


def test_a_run_on_another_machine_counts_as_dead_after_its_silence_only(store: Store, lease: Lease) -> None:
    lease.claim(replace(RUN, process=ELSEWHERE))
    renew(lease, store, RUN, NOON + timedelta(seconds=30))
    with pytest.raises(RequestError, match=r"on elsewhere has run it .* try again in 90 s"):
        lease.claim(LATER)
    at = NOON + timedelta(seconds=151)
    assert lease.claim(replace(LATER, started_at=at, seen_at=at)) is not None


def test_a_run_that_lost_its_lease_can_neither_renew_nor_release_it(store: Store, lease: Lease) -> None:
    first = replace(RUN, process=GONE)
    lease.claim(first)
    lease.claim(LATER)
    with pytest.raises(LeaseLost, match="another run has taken the study 's' over"):
        renew(lease, store, first, NOON)
    lease.release(first, "ended", NOON)
    assert lease.holder() == LATER
    renew(lease, store, LATER, NOON + timedelta(hours=1))
    holder = there(lease.holder())
    assert holder.seen_at == NOON + timedelta(hours=1)


@pytest.mark.parametrize("is_stale", [False, True])
def test_of_runs_that_start_at_the_same_instant_one_gets_the_lease(url: str, is_stale: bool) -> None:
    with open_store(url, create=True) as first:
        if is_stale:
            Lease(first, "s").claim(replace(RUN, process=GONE))
    n_rivals = 6
    barrier = threading.Barrier(n_rivals)
    winners: list[str] = []
    refused: list[str] = []

    def claim(number: int) -> None:
        with open_store(url, create=True) as store:
            run = replace(LATER, id=f"{number:032}")
            barrier.wait()
            try:
                Lease(store, "s").claim(run)
                winners.append(run.id)
            except RequestError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(n_rivals)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert len(refused) == n_rivals - 1
    with open_store(url, create=False) as store:
        holder = Lease(store, "s").holder()
    assert there(holder).id == winners[0]
    assert all(f"(run {winners[0][:8]})" in refusal for refusal in refused)


def test_a_lease_cannot_be_taken_over_while_its_holder_writes_a_heartbeat(postgres: Server, postgres_url: str) -> None:
    """The claim waits for that transaction and then sees what it has written. A file is locked as a whole anyway."""
    at = NOON + timedelta(minutes=10)
    refused: list[str] = []

    def claim() -> None:
        with open_store(postgres_url, create=False) as rival:
            try:
                Lease(rival, "s").claim(replace(LATER, started_at=at, seen_at=at))
            except RequestError as error:
                refused.append(str(error))

    with open_store(postgres_url, create=True) as store:
        lease = Lease(store, "s")
        lease.claim(replace(RUN, process=ELSEWHERE))
        with store.writing() as connection:
            lease.renew(connection, RUN, at)
            rival = threading.Thread(target=claim)
            rival.start()
            postgres.wait_until_somebody_waits()
        rival.join()
        assert len(refused) == 1
        renew(lease, store, RUN, at + timedelta(seconds=1))


def test_a_claim_whose_success_was_not_heard_of_can_be_made_again(lease: Lease) -> None:
    lease.claim(RUN)
    assert lease.claim(RUN) is None
    assert lease.runs() == (RUN,)


# The lease around a run: held, renewed, given back however the run ends.

MANY_LOOKS = 5


def run_at_noon() -> RunRecord:
    return new_run("s", n_trials=1, clock=lambda: NOON)


def test_a_lease_is_given_back_with_the_way_in_which_the_run_ended(store: Store) -> None:
    lease = Lease(store, "s")
    with held_lease(store, run_at_noon(), clock=lambda: NOON) as held:
        assert held.died is None
        assert lease.holder() is not None
    assert lease.holder() is None
    with pytest.raises(RequestError, match="no"), held_lease(store, run_at_noon(), clock=lambda: NOON):
        raise RequestError("no, said the data")
    assert lease.holder() is None
    assert [run.ending for run in lease.runs()] == ["ended", "RequestError: no, said the data"]


def test_a_lease_that_was_refused_is_not_given_back(store: Store) -> None:
    first = run_at_noon()
    with held_lease(store, first, clock=lambda: NOON):
        with pytest.raises(RequestError, match="one coordinator at a time"), held_lease(store, run_at_noon()):
            raise AssertionError("it was refused")
        holder = there(Lease(store, "s").holder())
        assert holder.id == first.id


def test_a_run_that_was_ended_at_once_writes_nothing_and_the_next_takes_over(store: Store) -> None:
    """A second Ctrl-C can come in the middle of a transaction, whose lock nobody then gives back: it must not wait."""
    first = run_at_noon()
    lock = "LOCK TABLE unetx_studies" if store.is_on_server else "BEGIN IMMEDIATE"

    def end_at_once(connection: Connection) -> None:
        with held_lease(store, first, clock=lambda: NOON):
            connection.exec_driver_sql(lock)
            raise KeyboardInterrupt

    with open_store(store.url, create=False) as other, other.engine.connect() as connection:
        with pytest.raises(KeyboardInterrupt):
            end_at_once(connection)
        connection.rollback()
    holder = there(Lease(store, "s").holder())
    assert holder.id == first.id
    with held_lease(store, run_at_noon(), clock=lambda: NOON) as held:
        assert there(held.died).id == first.id


def test_heartbeats_come_while_the_run_is_busy_and_not_afterwards(store: Store) -> None:
    run, looked = run_at_noon(), threading.Event()
    n_looks = 0

    def clock() -> datetime:
        nonlocal n_looks
        n_looks += 1
        if n_looks == MANY_LOOKS:
            looked.set()
        return NOON + timedelta(minutes=n_looks)

    with held_lease(store, run, clock=lambda: NOON):
        with heartbeats(store.url, run, clock=clock, every=timedelta(milliseconds=1)):
            assert looked.wait(60)
        holder = there(Lease(store, "s").holder())
        assert holder.seen_at == NOON + timedelta(minutes=n_looks)
        assert n_looks >= MANY_LOOKS


def test_a_run_that_is_quick_is_not_disturbed(store: Store) -> None:
    run = run_at_noon()
    with held_lease(store, run, clock=lambda: NOON):
        with heartbeats(store.url, run, every=timedelta(hours=1)):
            pass
        assert Lease(store, "s").holder() == run
