"""Opens a study's database: our own tables in it, and Optuna's storage beside them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from optuna.storages import RDBStorage
from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, inspect
from sqlalchemy.exc import DBAPIError

from unetx_space.errors import RequestError
from unetx_studies.disk_full import full_disk_explained
from unetx_studies.store import server, sqlite
from unetx_studies.store.retry import ConnectionLost, Patience, ServerGone
from unetx_studies.store.schema_versions import check_schema
from unetx_studies.store.server import is_server, parse_url, without_secrets
from unetx_studies.study_folders import DATABASE


class Store:
    """Our tables in an open database. One process writes at a time, from one thread; any number read.

    A server that has gone away is waited for as long as ``patience`` says, wherever nothing was begun yet.
    """

    def __init__(self, engine: Engine, patience: Patience) -> None:
        self.engine = engine
        self.patience = patience
        self._n_breaks = 0
        """The number of connections that broke while they were in use."""
        event.listen(engine, "handle_error", self._note_break)

    def _note_break(self, context: ExceptionContext) -> None:
        self._n_breaks += context.is_disconnect and not context.is_pre_ping

    @property
    def url(self) -> str:
        """The URL that opens the same database again, with its password, so not for people's eyes."""
        return self.engine.url.render_as_string(hide_password=False)

    @property
    def is_on_server(self) -> bool:
        """Whether a server keeps the database, which may go away and come back while it is used."""
        return is_server(self.engine.url)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with, which works when it is given.

        Raises ServerGone when the server stays away, ConnectionLost when the connection breaks inside.
        """
        n_breaks = self._n_breaks
        try:
            with self._connect() as connection:
                yield connection
        except Exception as error:
            if self._n_breaks == n_breaks or isinstance(error, ConnectionLost | ServerGone):
                raise
            raise ConnectionLost(
                f"the connection to {without_secrets(self.engine.url)} broke in the middle of a transaction; every "
                "trial that had finished is safe. Run the same command again"
            ) from error

    def _connect(self) -> Connection:
        if self.is_on_server:
            return self.patience.connect(self.engine.connect, without_secrets(self.engine.url))
        return self.engine.connect()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection to write with in one transaction, committed at the end or rolled back by an exception.

        Raises StorageFull when the disk is, and what ``reading`` raises.
        """
        with full_disk_explained(_place(self.engine.url)), self.reading() as connection, connection.begin():
            if not self.is_on_server:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # what is read inside cannot change before it is written
            yield connection

    @contextmanager
    def making_tables(self) -> Iterator[None]:
        """Keep other processes from making tables on a server meanwhile; Optuna makes its own without such a lock."""
        with self.reading() as connection, connection.begin():
            if self.is_on_server:
                server.lock_tables(connection)
            yield

    def close(self) -> None:
        """Give every connection back; the last writer to close folds the log into the file."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.close()


def _place(url: URL) -> str:
    return without_secrets(url) if is_server(url) or not url.database else url.database


def study_url(folder: Path | str) -> str:
    """The URL of the database in a study's folder, any character of the path escaped."""
    path = (Path(folder) / DATABASE).absolute()
    return URL.create("sqlite", database=path.as_posix()).render_as_string()


def open_store(url: str, *, create: bool, read_only: bool = False, patience: Patience | None = None) -> Store:
    """Our tables in the database at ``url``, created there when they are missing and ``create`` says so.

    Tables of an older release are brought up to date, except to read. ``patience`` is for later: a server that does not
    answer now is a wrong request. Raises RequestError when there is no database, when it is damaged, and when another
    version of this project has written it; NoStudy when it holds none of our tables.
    """
    if create and read_only:
        raise ValueError("what is opened read-only cannot be created")
    engine = _engine(parse_url(url), create=create, read_only=read_only)
    try:
        with engine.begin() as connection:
            if not read_only:
                _begin_alone(connection)
            check_schema(connection, create=create, read_only=read_only)
    except DBAPIError as error:
        engine.dispose()
        raise RequestError(server.refusal(engine.url, error)) from error
    except RequestError:
        engine.dispose()
        raise
    return Store(engine, patience or Patience())


def _begin_alone(connection: Connection) -> None:
    """Begin the transaction that makes tables; others who open the database at that moment wait until they stand."""
    if is_server(connection.engine.url):
        server.lock_tables(connection)
    else:
        # Python's driver starts no transaction before a CREATE TABLE, and a half-made schema must never stay.
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _engine(url: URL, *, create: bool, read_only: bool) -> Engine:
    if is_server(url):
        engine = _server_engine(url, read_only=read_only)
        if not read_only:
            server.make_reliable(engine)
        return engine
    path = sqlite.database_path(url)
    sqlite.check_file(path)
    if create:
        _make_folder(path.parent)
    elif not path.exists():
        raise RequestError(f"there is no study at {path}; `unetx-search --study NAME --out FOLDER` creates one")
    return create_engine(url, **sqlite.engine_options(path, read_only=read_only))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        way_out = "choose a shorter --study" if error.errno == errno.ENAMETOOLONG else "choose another --out"
        raise RequestError(f"the folder {folder} cannot be made: {error.strerror}; {way_out}") from error


def _server_engine(url: URL, *, read_only: bool) -> Engine:
    try:
        return create_engine(url, **server.engine_options(url, read_only=read_only))
    except ImportError as error:
        raise RequestError(
            f"{without_secrets(url)} needs the driver psycopg, which is not installed; "
            'pip install "unetx-search[postgres]", or leave --storage out: the study is then kept in a SQLite file'
        ) from error


def optuna_storage(url: str, *, read_only: bool = False) -> RDBStorage:
    """Optuna's storage in the same database, on connections of the same kind.

    Read-only, its tables must be there: it is then what a dashboard reads while a search writes. Raises RequestError
    as ``open_store`` does.
    """
    parsed = parse_url(url)
    options = _optuna_options(parsed, read_only=read_only)
    # Rendered anew, because Optuna formats the URL and would choke on a brace that is not escaped.
    escaped = parsed.render_as_string(hide_password=False)
    storage = RDBStorage(escaped, engine_kwargs=options, skip_table_creation=read_only)
    if is_server(parsed) and not read_only:
        storage.engine.dispose()  # its connections so far are not reliable yet
        server.make_reliable(storage.engine)
    return storage


def _optuna_options(url: URL, *, read_only: bool) -> dict[str, Any]:
    if is_server(url):
        if read_only:
            _check_optuna_tables(_server_engine(url, read_only=True))
        return server.engine_options(url, read_only=read_only)
    path = sqlite.database_path(url)
    sqlite.check_file(path)
    options = sqlite.engine_options(path, read_only=read_only)
    if read_only:
        if not path.exists():
            raise RequestError(f"there is no study at {path}")
        _check_optuna_tables(create_engine(url, **options))
    return options


def _check_optuna_tables(engine: Engine) -> None:
    try:
        if not inspect(engine).has_table("studies"):
            raise RequestError(f"{_place(engine.url)} holds no Optuna study yet; start the search first")
    except DBAPIError as error:
        raise RequestError(server.refusal(engine.url, error)) from error
    finally:
        engine.dispose()
