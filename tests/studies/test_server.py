"""A server as the store's place: what its URL may be, what is shown of it, how it is opened, read and waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from postgres_server import Server
from sqlalchemy import inspect, text
from sqlalchemy.exc import OperationalError

from unetx_space.errors import RequestError
from unetx_studies.disk_full import StorageFull, full_disk_explained
from unetx_studies.store import (
    ConnectionLost,
    Patience,
    ServerGone,
    Store,
    open_store,
    optuna_storage,
)
from unetx_studies.store.retry import retry
from unetx_studies.store.server import engine_options, parse_url, without_secrets


@pytest.mark.parametrize("name", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_name_of_postgresql_means_psycopg(name: str) -> None:
    url = parse_url(f"{name}://me@host:5433/studies")
    assert url.render_as_string() == "postgresql+psycopg://me@host:5433/studies"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("postgresql://me:s3cret@host/x", "postgresql+psycopg://me@host/x"),
        ("postgresql://me:%40%2F%3A@host/x", "postgresql+psycopg://me@host/x"),
        ("postgresql://me@host/x?password=s3cret&sslmode=require", "postgresql+psycopg://me@host/x?sslmode=require"),
        ("postgresql://host/x?sslpassword=s3cret", "postgresql+psycopg://host/x"),
        ("postgresql://", "postgresql+psycopg://"),
        ("postgresql:///?service=lab", "postgresql+psycopg:///?service=lab"),
    ],
)
def test_what_is_shown_and_kept_has_no_password_and_opens_the_same_database(words: str, shown: str) -> None:
    assert without_secrets(parse_url(words)) == shown
    assert without_secrets(parse_url(shown)) == shown


def test_an_option_of_the_url_is_the_users_own() -> None:
    given = parse_url("postgresql://h/x?connect_timeout=3&application_name=mine")
    options = engine_options(given, read_only=False)["connect_args"]
    assert not {"connect_timeout", "application_name"} & options.keys()
    assert options["keepalives_idle"] == 30


def test_tables_that_are_made_by_many_at_the_same_instant_are_made_once(postgres_url: str) -> None:
    n_rivals = 5
    barrier = threading.Barrier(n_rivals)
    problems: list[BaseException] = []

    def make() -> None:
        barrier.wait()
        try:
            with open_store(postgres_url, create=True) as store, store.making_tables():
                optuna_storage(postgres_url).engine.dispose()
        except BaseException as error:  # noqa: BLE001 (told below)
            problems.append(error)

    threads = [threading.Thread(target=make) for _ in range(n_rivals)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with open_store(postgres_url, create=False) as store:
        assert {"studies", "trials", "unetx_trials"} <= set(inspect(store.engine).get_table_names())


def test_a_database_without_our_tables_is_refused_unless_it_is_to_be_made_one(postgres_url: str) -> None:
    for read_only in (False, True):
        with pytest.raises(RequestError, match="holds no unetx-search study"):
            open_store(postgres_url, create=False, read_only=read_only)
    open_store(postgres_url, create=True).close()
    with pytest.raises(RequestError, match="holds no Optuna study yet"):
        optuna_storage(postgres_url, read_only=True)
    open_store(postgres_url, create=False, read_only=True).close()


def test_a_reader_cannot_write_whoever_asks(postgres_url: str) -> None:
    open_store(postgres_url, create=True).close()
    storage = optuna_storage(postgres_url)
    optuna.create_study(storage=storage, study_name="s")
    storage.engine.dispose()
    with (
        open_store(postgres_url, create=False, read_only=True) as reader,
        pytest.raises(Exception, match="read-only transaction"),
        reader.engine.begin() as connection,
    ):
        connection.execute(text("insert into unetx_studies values ('a', 'b', null)"))
    shown = optuna_storage(postgres_url, read_only=True)
    assert [study.study_name for study in shown.get_all_studies()] == ["s"]
    with pytest.raises(Exception, match="exception is raised during the commit") as caught:
        shown.create_new_trial(1)
    assert "read-only transaction" in str(caught.value.__cause__)
    shown.engine.dispose()


def test_a_server_that_does_not_answer_is_a_wrong_request_at_the_start(postgres: Server, postgres_url: str) -> None:
    with postgres.away(), pytest.raises(RequestError, match=r"postgresql\+psycopg://.* cannot be opened: .*") as caught:
        open_store(postgres_url, create=True, patience=Patience(120.0))
    assert "\n" not in str(caught.value)


def test_a_reader_does_not_wait_and_goes_on_when_the_server_is_back(postgres: Server, postgres_url: str) -> None:
    open_store(postgres_url, create=True).close()
    with open_store(postgres_url, create=False, read_only=True) as store:
        with postgres.away(), pytest.raises(ServerGone, match="does not answer"), store.reading() as session:
            session.execute(text("select 1"))
        with store.reading() as session:
            assert session.scalar(text("select 1")) == 1


def test_what_breaks_inside_a_transaction_is_told_from_a_server_that_is_away(
    postgres: Server, postgres_url: str
) -> None:
    def write(store: Store) -> None:
        with store.writing() as session:
            session.execute(text("insert into unetx_studies values ('mark', 'lost', null)"))
            postgres.restart("fast")
            session.execute(text("insert into unetx_studies values ('other', 'lost', null)"))

    with open_store(postgres_url, create=True) as store:
        with pytest.raises(ConnectionLost, match="broke in the middle"):
            write(store)
        with store.reading() as session:
            assert session.scalar(text("select count(*) from unetx_studies where id = 'lost'")) == 0


def test_what_a_server_has_confirmed_outlives_its_crash(postgres: Server, postgres_url: str) -> None:
    """Also where its administrator has chosen otherwise, as this one's has."""
    assert postgres.execute("select setting from pg_file_settings where name = 'synchronous_commit'") == [("off",)]
    with open_store(postgres_url, create=True) as store, store.reading() as session:
        assert session.scalar(text("show synchronous_commit")) == "on"
        assert session.scalar(text("show transaction_isolation")) == "read committed"


@pytest.mark.parametrize(("n_failures", "is_well"), [(0, True), (11, True), (12, False)])
def test_what_may_be_done_again_is_done_a_dozen_times_at_most(n_failures: int, is_well: bool) -> None:
    calls: list[None] = []

    def change() -> str:
        calls.append(None)
        if len(calls) <= n_failures:
            raise ConnectionLost("it broke")
        return "done"

    if is_well:
        assert retry(change) == "done"
    else:
        with pytest.raises(ConnectionLost):
            retry(change)
    assert len(calls) == min(n_failures + 1, 12)


def failing(n_times: int) -> Callable[[], str]:
    """What connects after so many failures."""
    left = [n_times]

    def connect() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise OperationalError("", {}, ConnectionRefusedError("refused\n\tIs the server running?"))
        return "a connection"

    return connect


def test_who_has_patience_waits_and_tells_so_twice() -> None:
    told: list[str] = []
    assert Patience(60.0, told.append).connect(failing(1), "the place") == "a connection"
    assert told[0] == "the place does not answer (refused Is the server running?); waiting up to 60 s for it"
    assert told[1].startswith("the place answers again after ")
    assert len(told) == 2


def test_who_has_none_is_told_at_once() -> None:
    told: list[str] = []
    with pytest.raises(ServerGone, match=r"the place does not answer \(refused Is the server running\?\)"):
        Patience(0.0, told.append).connect(failing(1), "the place")
    assert told == []


def test_a_server_whose_disk_is_full_is_told_as_that(tmp_path: Path) -> None:
    errors = pytest.importorskip("psycopg.errors", reason="psycopg, the driver, is not installed")
    with pytest.raises(StorageFull, match="the disk that holds the place is full"), full_disk_explained("the place"):
        raise RuntimeError("wrapped") from errors.DiskFull("could not extend file")
