"""The lease of a study: one holder, whoever comes at the same instant; what is dead is taken over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from postgres_server import Server

from unetx_space.errors import RequestError
from unetx_studies.processes import this_process
from unetx_studies.store import (
    DecisionRecord,
    JobRecord,
    LeaseLost,
    Ledger,
    RunRecord,
    Stage,
    Store,
    open_store,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUN = RunRecord("a" * 32, "s", this_process(), n_trials=20, n_slots=2, started_at=NOON, seen_at=NOON)
LATER = replace(RUN, id="b" * 32, started_at=NOON + timedelta(minutes=1), seen_at=NOON + timedelta(minutes=1))
GONE = replace(RUN.process, began=1)
ELSEWHERE = replace(RUN.process, host="elsewhere")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with open_store(url, create=True) as opened:
        yield opened


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store, "s")


def test_a_run_comes_back_as_it_was_claimed_and_as_it_ended(ledger: Ledger) -> None:
    assert (ledger.holder(), ledger.runs()) == (None, ())
    assert ledger.claim(RUN) is None
    assert ledger.holder() == RUN
    ledger.release(RUN, "ended", NOON + timedelta(hours=1))
    assert ledger.holder() is None
    end = NOON + timedelta(hours=1)
    assert ledger.runs() == (replace(RUN, seen_at=end, ended_at=end, ending="ended"),)


def test_a_second_run_is_refused_with_the_first_ones_identity(ledger: Ledger) -> None:
    ledger.claim(RUN)
    with pytest.raises(RequestError) as caught:
        ledger.claim(LATER)
    assert f"process {RUN.process.pid} on {RUN.process.host} has run it since 2026-03-01 12:00 UTC" in str(caught.value)
    assert f"kill -TERM {RUN.process.pid}" in str(caught.value)
    assert ledger.holder() == RUN
    assert ledger.runs() == (RUN,)


def test_another_study_in_the_same_file_has_a_lease_of_its_own(store: Store, ledger: Ledger) -> None:
    ledger.claim(RUN)
    other = Ledger(store, "t")
    assert other.claim(replace(LATER, study="t")) is None
    assert (ledger.holder(), other.holder()) == (RUN, replace(LATER, study="t"))


@pytest.mark.parametrize(
    "dead",
    [
        GONE,  # the process ended, and its number was used again
        replace(RUN.process, pid=2**22 + 5),
        replace(RUN.process, boot="another"),  # the machine was started anew
    ],
)
def test_the_lease_of_a_run_that_died_here_is_taken_over_at_once(ledger: Ledger, dead: object) -> None:
    ledger.claim(replace(RUN, process=dead))  # type: ignore[arg-type]
    before = ledger.claim(LATER)
    assert before is not None
    assert before.id == RUN.id
    assert ledger.holder() == LATER
    assert ledger.runs()[0].ending == "died"


def test_a_run_on_another_machine_counts_as_dead_after_its_silence_only(ledger: Ledger) -> None:
    ledger.claim(replace(RUN, process=ELSEWHERE))
    ledger.renew(RUN, NOON + timedelta(seconds=30))
    with pytest.raises(RequestError, match=r"on elsewhere has run it .* try again in 90 s"):
        ledger.claim(LATER)
    at = NOON + timedelta(seconds=151)
    assert ledger.claim(replace(LATER, started_at=at, seen_at=at)) is not None


def test_a_run_that_lost_its_lease_can_neither_renew_nor_release_it(ledger: Ledger) -> None:
    first = replace(RUN, process=GONE)
    ledger.claim(first)
    ledger.claim(LATER)
    with pytest.raises(LeaseLost, match="another run has taken the study 's' over"):
        ledger.renew(first, NOON)
    ledger.release(first, "ended", NOON)
    assert ledger.holder() == LATER
    ledger.renew(LATER, NOON + timedelta(hours=1))
    holder = ledger.holder()
    assert holder is not None
    assert holder.seen_at == NOON + timedelta(hours=1)


@pytest.mark.parametrize("is_stale", [False, True])
def test_of_runs_that_start_at_the_same_instant_one_gets_the_lease(url: str, is_stale: bool) -> None:
    with open_store(url, create=True) as first:
        if is_stale:
            Ledger(first, "s").claim(replace(RUN, process=GONE))
    n_rivals = 6
    barrier = threading.Barrier(n_rivals)
    winners: list[str] = []
    refused: list[str] = []

    def claim(number: int) -> None:
        with open_store(url, create=True) as store:
            run = replace(LATER, id=f"{number:032}")
            barrier.wait()
            try:
                Ledger(store, "s").claim(run)
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
        holder = Ledger(store, "s").holder()
    assert holder is not None
    assert holder.id == winners[0]
    assert all(f"(run {winners[0][:8]})" in refusal for refusal in refused)


def test_a_lease_cannot_be_taken_over_while_its_holder_writes_a_sign_of_life(
    postgres: Server, postgres_url: str
) -> None:
    """The claim waits for that transaction and then sees what it has written. A file is locked as a whole anyway."""
    at = NOON + timedelta(minutes=10)
    refused: list[str] = []

    def claim() -> None:
        with open_store(postgres_url, create=False) as rival:
            try:
                Ledger(rival, "s").claim(replace(LATER, started_at=at, seen_at=at))
            except RequestError as error:
                refused.append(str(error))

    with open_store(postgres_url, create=True) as store:
        ledger = Ledger(store, "s")
        ledger.claim(replace(RUN, process=ELSEWHERE))
        with store.writing():
            ledger.renew(RUN, at)
            rival = threading.Thread(target=claim)
            rival.start()
            postgres.wait_until_somebody_waits()
        rival.join()
        assert len(refused) == 1
        ledger.renew(RUN, at + timedelta(seconds=1))


def test_a_claim_whose_success_was_not_heard_of_can_be_made_again(ledger: Ledger) -> None:
    ledger.claim(RUN)
    assert ledger.claim(RUN) is None
    assert ledger.runs() == (RUN,)


def test_jobs_come_back_as_they_were_written_last(ledger: Ledger) -> None:
    waiting = JobRecord(3)
    running = JobRecord(
        1,
        Stage.RUNNING,
        n_starts=2,
        n_deaths=1,
        last_death="was killed by SIGKILL",
        pruned_at=4,
        worker=1,
        device="GPU 1: x",
        process=RUN.process,
        taken_at=NOON,
    )
    done = JobRecord(0, Stage.FINISHED)
    for job in (waiting, replace(running, n_starts=1), running, done):
        ledger.write(job)
    assert ledger.jobs() == (done, running, waiting)
    assert ledger.jobs(unfinished_only=True) == (running, waiting)


def test_decisions_come_in_order_of_trial_number(ledger: Ledger) -> None:
    second, first = (DecisionRecord(n, "random", f"drawn for {n}", NOON) for n in (1, 0))
    ledger.decide(second)
    ledger.decide(first)
    assert ledger.decisions() == (first, second)
