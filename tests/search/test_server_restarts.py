"""A server that is restarted, crashes or stays away while a search writes: nothing is lost, nothing comes twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from coordinator_helpers import Bench
from kill_helpers import check_whole
from postgres_server import Server
from sqlalchemy import Engine, ExceptionContext, event
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from statements import at_statements
from test_exactly_once import N_TRIALS, story

from unetx_evaluators.fake import FakeEvaluator
from unetx_search.pruners import PRUNERS
from unetx_studies.store import Patience, ServerGone, Stage

psycopg = pytest.importorskip("psycopg", reason="psycopg, the driver, is not installed")


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    bench = Bench(tmp_path_factory.mktemp("undisturbed"))
    bench.run(FakeEvaluator(), N_TRIALS, lag=1)
    return story(bench)


@pytest.fixture
def bench(tmp_path: Path, postgres_url: str) -> Bench:
    """With a minute or two of patience."""
    bench = Bench(tmp_path, postgres_url)
    bench.patience = Patience(120.0)
    return bench


@contextmanager
def n_breaks() -> Iterator[list[int]]:
    """How often a connection broke while it was in use."""
    count = [0]

    def note(context: ExceptionContext) -> None:
        count[0] += context.is_disconnect and not context.is_pre_ping

    event.listen(Engine, "handle_error", note)
    try:
        yield count
    finally:
        event.remove(Engine, "handle_error", note)


def check_undisturbed(bench: Bench, undisturbed: list[object]) -> None:
    """Nothing that a trial is made of depends on what happened to the server."""
    assert story(bench) == undisturbed
    check_whole(bench.folder, N_TRIALS, bench.url)
    assert {job.stage for job in bench.records_now} == {Stage.FINISHED}


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_is_restarted_in_the_middle_of_transactions_costs_nothing_but_time(
    bench: Bench, postgres: Server, mode: str, undisturbed: list[object]
) -> None:
    rng = random.Random(mode)
    numbers = {rng.randrange(10, 400) for _ in range(5)}
    with n_breaks() as broken, at_statements(numbers, lambda: postgres.restart(mode)) as count:
        bench.run(FakeEvaluator(), N_TRIALS, lag=1)
    assert count[0] > max(numbers)
    assert broken[0] >= len(numbers), "every restart met a connection in use"
    check_undisturbed(bench, undisturbed)
    assert bench.notes.finished == list(range(N_TRIALS)), "each was evaluated once"
    assert {job.n_starts for job in bench.records_now} == {1}


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 30))])
def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_done_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, seed: int, undisturbed: list[object]
) -> None:
    """One commit in three breaks the connection: before the server has it, or after."""
    rng = random.Random(seed)
    original: Any = PGDialect_psycopg.do_commit
    fates = dict.fromkeys(("before", "after"), 0)

    def commit(dialect: PGDialect_psycopg, connection: Any) -> None:
        fate = rng.choice(("before", "after", "well", "well", "well", "well"))
        if fate != "before":
            original(dialect, connection)
        if fate != "well":
            fates[fate] += 1
            connection.dbapi_connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    with bench.open(FakeEvaluator(), N_TRIALS, lag=1) as coordinator:
        monkeypatch.setattr(PGDialect_psycopg, "do_commit", commit)
        coordinator.run()
        monkeypatch.undo()
    bench.look()
    assert min(fates.values()) >= 3, "both happened, more than once"
    check_undisturbed(bench, undisturbed)
    assert bench.notes.finished == list(range(N_TRIALS))


def test_a_server_that_is_away_is_waited_for_and_the_user_is_told(
    bench: Bench, postgres: Server, undisturbed: list[object]
) -> None:
    told = []

    def tell(words: str) -> None:
        told.append(words)
        if "does not answer" in words:
            postgres.start()

    bench.patience = Patience(120.0, tell)
    with at_statements({120}, lambda: postgres.control("stop", "-m", "fast")):
        bench.run(FakeEvaluator(), N_TRIALS, lag=1)
    asked, back = told
    assert asked.startswith("postgresql+psycopg://postgres@/test_")
    assert "waiting up to 120 s for it" in asked
    assert "answers again after" in back
    check_undisturbed(bench, undisturbed)


def test_a_server_that_stays_away_ends_the_run_in_order_and_the_same_command_continues(
    bench: Bench, postgres: Server, undisturbed: list[object]
) -> None:
    bench.patience = Patience(0.1)
    try:
        with (
            pytest.raises(ServerGone, match=r"does not answer.*run the same command again"),
            bench.open(FakeEvaluator(), N_TRIALS, lag=1) as coordinator,
            at_statements({200}, lambda: postgres.control("stop", "-m", "immediate")),
        ):
            coordinator.run()
    finally:
        postgres.start()
    n_before = len(bench.stored().trials(finished_only=True))
    assert n_before > 0
    bench.run(FakeEvaluator(), N_TRIALS, lag=1)
    check_undisturbed(bench, undisturbed)


def test_who_asks_for_an_end_does_not_wait_for_a_server_that_is_away(bench: Bench) -> None:
    with bench.open(FakeEvaluator(), N_TRIALS, lag=1) as coordinator:
        coordinator.stop()
        assert bench.patience is not None
        assert bench.patience.seconds <= 5


@pytest.mark.parametrize("pruner", [pytest.param("median", marks=pytest.mark.slow), "halving"])
def test_sessions_that_an_administrator_ends_at_every_turn_change_no_word_of_the_pruner(
    tmp_path: Path, postgres: Server, postgres_url: str, pruner: str
) -> None:
    benches = [Bench(tmp_path / "calm"), Bench(tmp_path / "hectic", postgres_url)]
    (tmp_path / "hectic").mkdir()
    for bench in benches:
        bench.pruner = lambda bench=bench: PRUNERS[pruner](bench.setup.budget)  # type: ignore[misc]
    calm, hectic = benches
    calm.run(FakeEvaluator(), 12, lag=1)
    database = postgres_url.partition("@/")[2].partition("?")[0]
    with (
        hectic.open(FakeEvaluator(), 12, lag=1) as coordinator,
        n_breaks() as broken,
        at_statements(set(range(10, 1000, 29)), lambda: postgres.end_sessions(database)),
    ):
        coordinator.run()
    hectic.look()
    assert broken[0] > 10
    assert story(hectic) == story(calm)
    assert [job.pruned_at for job in hectic.records_now] == [job.pruned_at for job in calm.records_now]
    assert any(job.pruned_at for job in calm.records_now)
