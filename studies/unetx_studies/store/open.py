"""The doors to a study's database: where it lies, our own tables in it, and Optuna's storage beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from optuna.storages import RDBStorage
from sqlalchemy import URL, Connection, Engine, create_engine, insert, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from unetx_space.errors import RequestError
from unetx_studies.full import full_disk_explained
from unetx_studies.store.migrations import migrate
from unetx_studies.store.sqlite import check_file, database_path, engine_options
from unetx_studies.tables import SCHEMA_VERSION, Base, MetaRow

DATABASE = "study.db"
OLDEST_VERSION = 1


class Store:
    """Our tables in an open database. One process writes at a time, from one thread; any number read."""

    def __init__(self, engine: Engine, read_only: bool) -> None:
        self.engine = engine
        self.read_only = read_only
        self._open: Session | None = None

    @property
    def url(self) -> str:
        """What opens the same database again; with its password, so not for people's eyes."""
        return self.engine.url.render_as_string(hide_password=False)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction: committed as a whole at the end, or rolled back as a whole by an exception.

        Inside another one of this store it is part of that one. Raises StorageFull when the disk is.
        """
        if self._open is not None:
            yield self._open
            self._open.flush()
            return
        with (
            full_disk_explained(_place(self.engine.url)),
            self.engine.begin() as connection,
            Session(connection, join_transaction_mode="rollback_only") as session,
        ):
            if self.engine.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # what is read inside cannot change before it is written
            self._open = session
            try:
                yield session
                session.flush()
            finally:
                self._open = None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that is rolled back at its end."""
        with Session(self.engine) as session:
            yield session

    def close(self) -> None:
        """Give every connection back; the last writer to close folds the log into the file."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _place(url: URL) -> str:
    return url.database if url.get_backend_name() == "sqlite" and url.database else _shown(url)


def study_url(folder: Path | str) -> str:
    """The URL of the database in a study's folder, any character of the path escaped."""
    path = (Path(folder) / DATABASE).absolute()
    return URL.create("sqlite", database=path.as_posix()).render_as_string()


def open_store(url: str, *, create: bool, read_only: bool = False) -> Store:
    """Our tables in the database at ``url``, created there when they are missing and ``create`` says so.

    Tables of an older version are brought to that of today, except to read: what was there then is read as it is.
    Raises RequestError when there is no database, when it holds none of our tables, when it is damaged, and when a
    newer version of this project has written it.
    """
    if create and read_only:
        raise ValueError("what is opened read-only cannot be created")
    engine = _engine(url, create=create, read_only=read_only)
    try:
        with engine.begin() as connection:
            if engine.name == "sqlite" and not read_only:
                # Python's driver starts no transaction before a CREATE TABLE, and a half-made schema must never stay.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            _check_schema(connection, create=create, read_only=read_only)
    except DBAPIError as error:
        engine.dispose()
        raise RequestError(f"{_shown(url)} cannot be opened: {error.orig}") from error
    except RequestError:
        engine.dispose()
        raise
    return Store(engine, read_only)


def _engine(url: str, *, create: bool, read_only: bool) -> Engine:
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite":
        options = {"postgresql_readonly": True} if read_only else {}
        return _create_engine(parsed).execution_options(**options)
    path = database_path(parsed)
    check_file(path)
    if create:
        _make_folder(path.parent)
    elif not path.exists():
        raise RequestError(f"there is no study at {path}; `unetx-search --study NAME --out FOLDER` creates one")
    return create_engine(parsed, **engine_options(path, read_only=read_only))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"the folder {folder} cannot be made: {error.strerror}; choose another --out") from error


def _create_engine(url: URL) -> Engine:
    try:
        return create_engine(url, pool_pre_ping=True)
    except ImportError as error:
        raise RequestError(
            f"{_shown(url)} needs the driver {error.name!r}, which is not installed; install it, or leave the storage "
            "at its default, a SQLite file"
        ) from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise RequestError(f"expected a database URL like sqlite:///runs/demo/study.db: {error}") from error
    return parsed


def _shown(url: str | URL) -> str:
    """The URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def _check_schema(connection: Connection, *, create: bool, read_only: bool) -> None:
    if not inspect(connection).has_table(MetaRow.__tablename__):
        if not create:
            raise RequestError(
                f"{_shown(connection.engine.url)} holds no unetx-search study; name the folder that a search wrote"
            )
        _create_schema(connection)
    version = connection.scalar(select(MetaRow.value).where(MetaRow.key == "schema_version"))
    if version is None or not version.isdigit() or not OLDEST_VERSION <= int(version) <= SCHEMA_VERSION:
        raise RequestError(
            f"{_shown(connection.engine.url)} has tables of version {version}, this unetx-search reads version "
            f"{SCHEMA_VERSION}; open it with the unetx-search that wrote it, or a newer one"
        )
    if int(version) < SCHEMA_VERSION and not read_only:
        migrate(connection, int(version))


def _create_schema(connection: Connection) -> None:
    Base.metadata.create_all(connection)
    facts = {"schema_version": str(SCHEMA_VERSION), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    connection.execute(insert(MetaRow), [{"key": key, "value": value} for key, value in facts.items()])


def optuna_storage(url: str, *, read_only: bool = False) -> RDBStorage:
    """Optuna's storage in the same database, on connections of the same kind.

    Read-only, its tables must be there: it is then what a dashboard reads while a search writes. Raises RequestError
    as ``open_store`` does.
    """
    parsed = _parse(url)
    options = {}
    if parsed.get_backend_name() == "sqlite":
        path = database_path(parsed)
        check_file(path)
        if read_only:
            _check_optuna_tables(path, parsed)
        options = engine_options(path, read_only=read_only)
    # Rendered anew, because Optuna formats the URL and would choke on a brace that is not escaped.
    escaped = parsed.render_as_string(hide_password=False)
    return RDBStorage(escaped, engine_kwargs=options, skip_table_creation=read_only)


def _check_optuna_tables(path: Path, url: URL) -> None:
    if not path.exists():
        raise RequestError(f"there is no study at {path}")
    engine = create_engine(url, **engine_options(path, read_only=True))
    if not inspect(engine).has_table("studies"):
        raise RequestError(f"{path} holds no Optuna study yet; start the search first")
