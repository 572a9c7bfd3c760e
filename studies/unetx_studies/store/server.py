"""PostgreSQL connections as every part of the project wants them, and what of a URL may be shown and kept.

A password lives in the memory of the process that was given it, and nowhere else. Where the URL has none, libpq looks
for one in its own places: PGPASSWORD, ~/.pgpass, a service file.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Connection, Engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from unetx_space.errors import RequestError

DRIVER = "postgresql+psycopg"
NAMES = frozenset({"postgresql", "postgres", DRIVER})
"""Schemes of a PostgreSQL URL; all mean psycopg, version 3."""
SECRETS = ("password", "sslpassword")
"""Options of a URL that are never shown or kept."""
EXAMPLE = "postgresql://USER@HOST/DATABASE"
_ESCAPING = "in a name or a password write @ as %40, : as %3A and / as %2F"

CONNECT_WITHIN_S = 10
KEEPALIVE: dict[str, int] = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""A network that was cut is noticed within a minute, on both sides: else the server would hold a dead client's locks
for hours."""
ALWAYS_SYNCHRONOUS = """
    select set_config(name, 'on', false) from pg_settings where name = 'synchronous_commit' and setting = 'off'
"""
TABLES_LOCK = 0x756E657478
"""Key of the advisory lock ("unetx") that whoever makes or changes tables holds."""


def parse_url(words: str) -> URL:
    """A database URL, with the driver that is used. Raises RequestError, which never repeats what may be a password."""
    try:
        url = make_url(words)
    except (ArgumentError, ValueError) as error:  # the second: a port that is no number
        raise RequestError(f"expected a database URL like {EXAMPLE}, and this is none; {_ESCAPING}") from error
    if url.drivername in NAMES:
        if words.count("@") > 1:  # a second one cuts a password in two, whose rest would be shown as a part of the host
            raise RequestError(f"a database URL like {EXAMPLE} has one @, in front of the host; {_ESCAPING}")
        return url.set(drivername=DRIVER)
    if url.get_backend_name() == "postgresql":
        raise RequestError(
            f"PostgreSQL is spoken to through psycopg, another driver was named ({url.drivername}); write {EXAMPLE}"
        )
    if url.get_backend_name() != "sqlite":
        raise RequestError(f"a study's database is SQLite or PostgreSQL, got {url.drivername}; write {EXAMPLE}")
    return url


def is_server(url: URL) -> bool:
    """Whether a server keeps the database, which may be away and come back; else it is a file."""
    return url.get_backend_name() != "sqlite"


def without_secrets(url: URL) -> str:
    """The URL as it may be shown and kept."""
    query = {name: value for name, value in url.query.items() if name not in SECRETS}
    bare = URL.create(url.drivername, url.username, None, url.host, url.port, url.database, query)
    return bare.render_as_string(hide_password=False)


def engine_options(url: URL, *, read_only: bool) -> dict[str, Any]:
    """Keywords for ``create_engine``.

    Every statement sees what was committed before it (READ COMMITTED), whatever the server's default is: a claim of
    the lease that waited for another one must see that one's.
    """
    wanted = {"connect_timeout": CONNECT_WITHIN_S, "application_name": "unetx-search", **KEEPALIVE}
    return {
        "pool_pre_ping": True,
        "isolation_level": "READ COMMITTED",
        "execution_options": {"postgresql_readonly": read_only},
        "connect_args": {name: value for name, value in wanted.items() if name not in url.query},
    }


def make_reliable(engine: Engine) -> None:
    """Let the server notice soon that this client has gone, and make all it confirms outlive a crash of the server.

    Both are settings of each connection that the engine makes from now on.
    """
    statements = [f"select set_config('tcp_{name}', '{value}', false)" for name, value in KEEPALIVE.items()]
    statements.append(ALWAYS_SYNCHRONOUS)

    def on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("; ".join(statements))
        cursor.close()
        connection.autocommit = False

    event.listen(engine, "connect", on_connect)


def lock_tables(connection: Connection) -> None:
    """Keep others from making or changing tables until the transaction ends."""
    connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": TABLES_LOCK})


def refusal(url: URL, error: DBAPIError) -> str:
    """Why a database cannot be opened, in one line."""
    way_out = ""
    if "password" in str(error.orig):
        way_out = "; passwords are never kept: set PGPASSWORD or ~/.pgpass (a search takes one in --storage, too)"
    elif not is_server(url) and ("malformed" in str(error.orig) or "not a database" in str(error.orig)):
        way_out = "; it is damaged: restore it from a backup, or begin another study with --study NAME"
    elif not is_server(url) and ("readonly" in str(error.orig) or "unable to open" in str(error.orig)):
        way_out = "; a search writes into its study: make file and folder writable for you, or go on in a copy of them"
    return f"{without_secrets(url)} cannot be opened: {reason(error)}{way_out}"


def reason(error: DBAPIError) -> str:
    """The driver's own words about an error, on one line."""
    return " ".join(str(error.orig).split())
