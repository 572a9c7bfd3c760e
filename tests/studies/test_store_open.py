"""The doors to the database: what they create, refuse and leave alone."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import optuna
import pytest
from sqlalchemy import inspect, text

import unetx_studies.store
from unetx_space.errors import RequestError
from unetx_studies.store import Store, open_store, optuna_storage, study_url
from unetx_studies.store.schema_versions import VERSION_TABLE
from unetx_studies.store.sqlite import filesystem_of, journal_mode, set_journal_mode
from unetx_studies.store.tables import METADATA

LATEST = "1"

ODD_NAMES = ["with space", "naïve-肝臓", "a#b", "a?b", "100%", "50%25", "{braces}", "a@b:c", "a&b=c;d", "quote'\""]


def create(folder: Path) -> Store:
    return open_store(study_url(folder), create=True)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pragma(store: Store, name: str) -> object:
    with store.engine.connect() as connection:
        return connection.scalar(text(f"PRAGMA {name}"))


def test_a_new_store_has_exactly_our_tables_and_their_version(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        names = set(inspect(store.engine).get_table_names())
        with store.engine.connect() as connection:
            version = connection.scalar(text("SELECT version_num FROM unetx_version"))
    assert names == {*METADATA.tables, VERSION_TABLE}
    assert all(name.startswith("unetx_") for name in names)
    assert version == LATEST


def test_a_writing_connection_uses_a_write_ahead_log_waits_a_minute_and_holds_foreign_keys(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        assert pragma(store, "journal_mode") == "wal"
        assert pragma(store, "busy_timeout") == 60_000
        assert pragma(store, "foreign_keys") == 1
        assert pragma(store, "synchronous") == 1  # NORMAL
        assert pragma(store, "integrity_check") == "ok"


def test_opening_again_keeps_what_is_there(tmp_path: Path) -> None:
    with create(tmp_path) as store, store.engine.begin() as connection:
        connection.execute(text("INSERT INTO unetx_studies VALUES ('mark', 'kept', NULL)"))
    with create(tmp_path) as store, store.engine.connect() as connection:
        assert connection.scalar(text("SELECT id FROM unetx_studies WHERE name = 'mark'")) == "kept"


@pytest.mark.parametrize("read_only", [False, True])
def test_without_create_a_missing_study_is_refused_and_nothing_is_written(tmp_path: Path, read_only: bool) -> None:
    with pytest.raises(RequestError, match=r"no study at .*study\.db"):
        open_store(study_url(tmp_path / "nowhere"), create=False, read_only=read_only)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_without_our_tables_is_refused_unless_it_is_to_be_made_one(tmp_path: Path, read_only: bool) -> None:
    sqlite3.connect(tmp_path / "study.db").execute("CREATE TABLE foreign_table (a)").connection.close()
    with pytest.raises(RequestError, match="holds no unetx-search study"):
        open_store(study_url(tmp_path), create=False, read_only=read_only)
    with create(tmp_path) as store:
        assert "foreign_table" in inspect(store.engine).get_table_names()


@pytest.mark.parametrize("content", [b"just some text, and enough of it", b"{}", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.db").write_bytes(content)
    for make in (True, False):
        with pytest.raises(RequestError, match="no SQLite database"):
            open_store(study_url(tmp_path), create=make)
    with pytest.raises(RequestError, match="no SQLite database"):
        optuna_storage(study_url(tmp_path))
    assert (tmp_path / "study.db").read_bytes() == content


def test_a_damaged_database_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 4000)
    with pytest.raises(RequestError, match=r"study\.db cannot be opened"):
        open_store(study_url(tmp_path), create=False)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").mkdir()
    with pytest.raises(RequestError, match="is a folder"):
        open_store(study_url(tmp_path), create=True)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE unetx_version SET version_num = '99'", "99"),
        ("DROP TABLE unetx_version", "before the first"),  # as before the first release
    ],
)
def test_tables_of_another_version_are_refused_naming_both_versions(tmp_path: Path, change: str, found: str) -> None:
    with create(tmp_path) as store, store.engine.begin() as connection:
        connection.execute(text(change))
    for read_only in (False, True):
        with pytest.raises(RequestError, match=rf"version {found}.*version {LATEST}; open it with .* newer one"):
            open_store(study_url(tmp_path), create=not read_only, read_only=read_only)


NEXT = """
from alembic import op
import sqlalchemy
revision, down_revision = "2", "1"
def upgrade():
    op.add_column("unetx_trials", sqlalchemy.Column("mood", sqlalchemy.Text))
"""


def test_tables_of_an_older_release_are_brought_up_to_date_when_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a release to come, which adds a column."""
    create(tmp_path / "s").close()
    package = Path(unetx_studies.store.__file__).parent
    shutil.copytree(package / "migrations", tmp_path / "migrations")
    (tmp_path / "migrations" / "versions" / "v2.py").write_text(NEXT, encoding="utf-8")
    monkeypatch.setattr("unetx_studies.store.schema_versions.REVISIONS", str(tmp_path / "migrations"))
    with pytest.raises(RequestError, match="has tables of version 1, this unetx-search reads version 2"):
        open_store(study_url(tmp_path / "s"), create=False, read_only=True)
    with open_store(study_url(tmp_path / "s"), create=False) as store:
        assert "mood" in {column["name"] for column in inspect(store.engine).get_columns("unetx_trials")}
    open_store(study_url(tmp_path / "s"), create=False, read_only=True).close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "expected a database URL"),
        ("quantum://x/y", "is SQLite or PostgreSQL, got quantum"),
        ("sqlite://", "names a file"),
        ("sqlite:///:memory:", "names a file"),
        ("sqlite:////tmp/x.db?mode=memory", "names a file"),
    ],
)
def test_urls_that_name_no_file_or_database_are_refused(url: str, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        open_store(url, create=True)


def test_a_message_about_a_server_never_shows_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)  # as where the driver is not installed
    with pytest.raises(RequestError, match="driver") as caught:
        open_store("postgresql+psycopg2://me:secret@localhost/studies", create=False)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_character_may_stand_in_the_path(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    url = study_url(folder)
    with create(folder):
        study = optuna.create_study(storage=optuna_storage(url), study_name="s")
        study.add_trial(optuna.trial.create_trial(value=0.5))
    assert {path.name for path in folder.iterdir()} <= {"study.db", "study.db-wal", "study.db-shm"}
    with open_store(url, create=False, read_only=True):
        assert optuna.load_study(storage=optuna_storage(url, read_only=True), study_name="s").best_value == 0.5
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_reader_creates_no_file_and_changes_none(tmp_path: Path) -> None:
    create(tmp_path).close()
    storage = optuna_storage(study_url(tmp_path))
    optuna.create_study(storage=storage, study_name="s")
    storage.remove_session()
    storage.engine.dispose()
    before = (tmp_path / "study.db").read_bytes()
    assert files(tmp_path) == ["study.db"]
    with open_store(study_url(tmp_path), create=False, read_only=True) as store:
        assert inspect(store.engine).has_table("studies")
        assert len(optuna.get_all_study_names(optuna_storage(study_url(tmp_path), read_only=True))) == 1
        assert files(tmp_path) == ["study.db"]
    assert files(tmp_path) == ["study.db"]
    assert (tmp_path / "study.db").read_bytes() == before


@pytest.mark.parametrize("writer_is_open", [True, False])
def test_a_reader_cannot_write(tmp_path: Path, writer_is_open: bool) -> None:
    writer = create(tmp_path)
    if not writer_is_open:
        writer.close()
    store = open_store(study_url(tmp_path), create=False, read_only=True)
    with pytest.raises(Exception, match="readonly database"), store.engine.begin() as connection:
        connection.execute(text("INSERT INTO unetx_studies VALUES ('a', 'b', NULL)"))
    writer.close()


def test_a_reader_sees_what_a_writer_that_is_still_open_has_committed(tmp_path: Path) -> None:
    with create(tmp_path) as writer, open_store(study_url(tmp_path), create=False, read_only=True) as reader:
        with writer.engine.begin() as connection:
            connection.execute(text("INSERT INTO unetx_studies VALUES ('a', 'b', NULL)"))
        with reader.engine.connect() as connection:
            assert connection.scalar(text("SELECT id FROM unetx_studies WHERE name = 'a'")) == "b"


def _leave_without_closing(url: str) -> None:
    store = open_store(url, create=True)
    with store.engine.begin() as connection:
        connection.execute(text("INSERT INTO unetx_studies VALUES ('a', 'b', NULL)"))
    os._exit(9)


def test_what_was_committed_outlives_a_writer_that_was_killed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_leave_without_closing, args=(study_url(tmp_path),))
    process.start()
    process.join()
    assert (tmp_path / "study.db-wal").exists()  # nothing was folded into the file yet
    for read_only in (True, False):
        with (
            open_store(study_url(tmp_path), create=False, read_only=read_only) as store,
            store.engine.connect() as connection,
        ):
            assert connection.scalar(text("SELECT id FROM unetx_studies WHERE name = 'a'")) == "b"
            assert connection.scalar(text("PRAGMA integrity_check")) == "ok"


def test_a_writer_waits_for_another_writer_instead_of_failing(tmp_path: Path) -> None:
    """Without the busy timeout and the lock taken at the start, sqlite3 raises `database is locked` here."""
    store, other = create(tmp_path), create(tmp_path)
    holds_lock = threading.Event()
    with store.engine.connect() as blocker:
        blocker.execute(text("INSERT INTO unetx_studies VALUES ('first', '1', NULL)"))

        def write() -> None:
            holds_lock.set()
            with other.engine.begin() as connection:
                connection.execute(text("INSERT INTO unetx_studies VALUES ('second', '2', NULL)"))

        thread = threading.Thread(target=write)
        thread.start()
        holds_lock.wait()
        blocker.commit()
        thread.join()
    with store.engine.connect() as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM unetx_studies WHERE name IN ('first', 'second')")) == 2


class Busy:
    """A connection that is busy a few times, as two are that switch one file's journal at the same moment."""

    def __init__(self, code: int) -> None:
        self.n_asked = 0
        self._code = code

    def execute(self, words: str) -> sqlite3.Cursor:
        self.n_asked += 1
        if self.n_asked < 3:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self._code
            raise error
        return sqlite3.connect(":memory:").execute(words)


def test_two_that_switch_the_journal_at_once_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite does not wait there: two that hold a lock each, and wait for the other, would wait forever."""
    monkeypatch.setattr("unetx_studies.store.sqlite.BUSY_PAUSE_S", 0.0)
    busy = Busy(sqlite3.SQLITE_BUSY)
    set_journal_mode(busy, "WAL")  # type: ignore[arg-type]
    assert busy.n_asked == 3
    with pytest.raises(sqlite3.OperationalError):
        set_journal_mode(Busy(sqlite3.SQLITE_READONLY), "WAL")  # type: ignore[arg-type]


def test_another_process_that_comes_and_goes_leaves_the_log_to_those_who_use_it(tmp_path: Path) -> None:
    """Opening the file by anything but SQLite would drop this process's locks, and the other would delete the log."""
    url = study_url(tmp_path)
    visit = f"from unetx_studies.store import open_store; open_store({url!r}, create=True).close()"
    count = f"import sqlite3; print(sqlite3.connect({str(tmp_path / 'study.db')!r}).execute('{{}}').fetchone()[0])"
    with create(tmp_path) as store:
        optuna.create_study(storage=optuna_storage(url), study_name="s")
        with create(tmp_path):
            pass
        open_store(url, create=False, read_only=True).close()
        subprocess.run([sys.executable, "-c", visit], check=True)
        assert {"study.db-wal", "study.db-shm"} <= set(files(tmp_path))
        with store.writing() as session:
            session.execute(text("INSERT INTO unetx_studies VALUES ('mark', 'kept', NULL)"))
        query = count.format("select count(*) from unetx_studies where name = ''mark''".replace("''", '"'))
        seen = subprocess.run([sys.executable, "-c", query], check=True, capture_output=True, text=True)
    assert seen.stdout.strip() == "1"


def test_optunas_tables_and_ours_share_one_file_with_a_write_ahead_log(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        storage = optuna_storage(study_url(tmp_path))
        with storage.engine.connect() as connection:
            assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
            assert connection.scalar(text("PRAGMA busy_timeout")) == 60_000
        study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
        assert {"studies", "trials", "unetx_trials"} <= set(inspect(store.engine).get_table_names())
        assert pragma(store, "integrity_check") == "ok"


def test_optunas_storage_survives_pickling_as_optuna_itself_asks(tmp_path: Path) -> None:
    storage = optuna_storage(study_url(tmp_path))
    optuna.create_study(storage=storage, study_name="s")
    again = pickle.loads(pickle.dumps(storage))
    assert optuna.get_all_study_names(again) == ["s"]


def test_a_read_only_optuna_storage_needs_optunas_tables(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no study at"):
        optuna_storage(study_url(tmp_path), read_only=True)
    create(tmp_path).close()
    with pytest.raises(RequestError, match="no Optuna study"):
        optuna_storage(study_url(tmp_path), read_only=True)


def test_the_documented_dashboard_command_can_open_the_url(tmp_path: Path) -> None:
    folder = tmp_path / "a b#c"
    create(folder).close()
    optuna.create_study(storage=optuna_storage(study_url(folder)), study_name="s")
    code = (
        "import sys; from optuna_dashboard._storage_url import get_storage; "
        "print(get_storage(sys.argv[1]).get_all_studies()[0].study_name)"
    )
    answer = subprocess.run([sys.executable, "-c", code, study_url(folder)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "s"


MOUNTS = """\
/dev/vda1 / ext4 rw 0 0
server:/export /mnt/my\\040data nfs4 rw 0 0
/dev/vdb1 /mnt/my\\040data/local xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "filesystem", "mode"),
    [
        ("/home/me/study.db", "ext4", "WAL"),
        ("/mnt/my data/study.db", "nfs4", "DELETE"),
        ("/mnt/my data/local/study.db", "xfs", "WAL"),
        ("/mnt/my data too/study.db", "ext4", "WAL"),
    ],
)
def test_only_a_network_filesystem_gets_a_rollback_journal_with_a_warning(
    tmp_path: Path, path: str, filesystem: str, mode: str
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert filesystem_of(Path(path), mounts) == filesystem
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert journal_mode(Path(path), mounts) == mode
    assert [mode] * len(caught) == ["DELETE"] * (mode == "DELETE")


def test_where_the_system_lists_no_mounts_a_write_ahead_log_is_used(tmp_path: Path) -> None:
    assert journal_mode(tmp_path, tmp_path / "missing") == "WAL"
