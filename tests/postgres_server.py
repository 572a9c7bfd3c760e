"""A real PostgreSQL server for tests, from the wheel pgserver: started once, an empty database for each test."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

DEADLINE_S = 60.0


class Server:
    """Listens on a socket in a folder of its own, for which no password is needed unless a test asks for one."""

    def __init__(self, folder: Path) -> None:
        self._pgserver: Any = pytest.importorskip("pgserver", reason="pgserver, a PostgreSQL server, is not installed")
        self._psycopg: Any = pytest.importorskip("psycopg", reason="psycopg, the driver, is not installed")
        self.data = folder / "data"
        self._server = self._pgserver.get_server(self.data, cleanup_mode=None)
        self._numbers = itertools.count()
        self._made: set[str] = set()
        self._free: list[str] = []
        for setting in ("fsync", "full_page_writes"):  # no test pulls the plug of the machine
            self.execute(f"alter system set {setting} = off")
        self.execute("alter system set synchronous_commit = off")  # a crash loses what was committed last, if we let it
        self.execute("select pg_reload_conf()")

    def url(self, database: str, **changes: Any) -> str:
        """As a user would write it."""
        plain = {"username": "postgres", "database": database, "query": {"host": str(self.data)}}
        return URL.create("postgresql", **{**plain, **changes}).render_as_string(hide_password=False)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty one. Its files are used again, because making new ones takes longer than many a test."""
        name = self._free.pop() if self._free else f"test_{next(self._numbers)}"
        if name not in self._made:
            self.execute(f"create database {name}")
            self._made.add(name)
        try:
            yield self.url(name)
        finally:
            self.end_sessions(name)
            self.execute("drop schema public cascade", name)
            self.execute("create schema public", name)
            self._free.append(name)

    def end_sessions(self, database: str) -> None:
        """Of everybody who has it open."""
        self.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'")

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """As the superuser, outside any transaction; it outlives a crash."""
        options = "-c synchronous_commit=on"
        with self._psycopg.connect(self.url(database), autocommit=True, options=options) as connection:
            cursor = connection.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def wait_until_somebody_waits(self) -> None:
        """For a lock."""
        deadline = time.monotonic() + DEADLINE_S
        while not self.execute("select 1 from pg_stat_activity where wait_event_type = 'Lock'"):
            assert time.monotonic() < deadline, "nobody waits for a lock"
            time.sleep(0.02)

    def control(self, *words: str) -> None:
        """pg_ctl; waits until it is done."""
        self._pgserver.pg_ctl(
            ["-w", *words, "-l", str(self.data / "log")], pgdata=self.data, user=self._server.system_user
        )

    def restart(self, mode: str) -> None:
        """``fast`` ends every session in order, ``immediate`` is a crash."""
        self.control("restart", "-m", mode)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Inside, nobody answers."""
        self.control("stop", "-m", "immediate")
        try:
            yield
        finally:
            self.start()

    def start(self) -> None:
        """Again, on the same socket."""
        self.control("start", "-o", f"-h '' -k {self.data}")

    @contextmanager
    def asking_for_a_password(self, database: str, password: str) -> Iterator[str]:
        """The URL, without its password, of a user who needs one."""
        rules = self.data / "pg_hba.conf"
        usual = rules.read_text(encoding="utf-8")
        self.execute(f"create role keeper login superuser password '{password}'")
        rules.write_text(f"local all keeper scram-sha-256\n{usual}", encoding="utf-8")
        self.execute("select pg_reload_conf()")
        try:
            yield self.url(database, username="keeper")
        finally:
            self.end_sessions(database)
            rules.write_text(usual, encoding="utf-8")
            self.execute("select pg_reload_conf()")
            self.execute("reassign owned by keeper to postgres", database)
            self.execute("drop role keeper")

    def end(self) -> None:
        """For good."""
        self.control("stop", "-m", "immediate")


@contextmanager
def postgres_server() -> Iterator[Server]:
    """A short path for its socket, and one that another user can reach: as root, the server runs as somebody else."""
    folder = Path(tempfile.mkdtemp(prefix="unetx-pg-"))
    folder.chmod(0o755)
    try:
        server = Server(folder)
        try:
            yield server
        finally:
            server.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
