"""SQLite connections as every part of the project wants them, Optuna's storage included.

Writers use a write-ahead log, so that readers never wait for them, and wait themselves up to a minute for a lock.
Readers leave no trace: they never create a file, not even the log's.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, NullPool

from unetx_space.errors import RequestError

BUSY_TIMEOUT_S = 60.0
BUSY_PAUSE_S = 0.05
MAGIC = b"SQLite format 3\x00"
WAL_MODE = b"\x02\x02"
"""Bytes 18 and 19 of a database in WAL mode (https://sqlite.org/fileformat.html, section 1.3)."""
NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "9p", "fuse.sshfs"}
)
MOUNTS = Path("/proc/self/mounts")

_modes: dict[tuple[int, int], str] = {}
"""Journal modes of the files that this process has opened or looked at, by device and inode.

Such a file is never opened by anything but SQLite again: closing any descriptor of a file drops all locks that the
process has on it (POSIX), and then another process takes itself for the last one and deletes the log that is in use
(https://sqlite.org/howtocorrupt.html, section 2.2).
"""
_modes_lock = threading.Lock()
"""Held while a file is open by other means than SQLite; no connection to it can have been made before."""


def engine_options(path: Path, *, read_only: bool) -> dict[str, Any]:
    """Keywords for ``create_engine``; picklable, because Optuna's storage is pickled with them."""
    if read_only:  # each connection must look anew whether someone is writing
        return {"creator": partial(connect_to_read, path), "poolclass": NullPool}
    return {"creator": partial(connect_to_write, path)}


def connect_to_write(path: Path) -> sqlite3.Connection:
    """A connection that may create the file.

    Transactions take the write lock at their start (IMMEDIATE): a lock taken in the middle could fail at once instead
    of waiting, when another writer came first.
    """
    mode = journal_mode(path)
    if path.exists():  # other threads may be reading it: from before the first lock on they are not to touch it
        _remember(path, mode)
    connection = _connect(path, "rwc")
    connection.isolation_level = "IMMEDIATE"
    set_journal_mode(connection, mode)
    connection.execute("PRAGMA synchronous = NORMAL").close()
    _remember(path, mode)
    return connection


def set_journal_mode(connection: sqlite3.Connection, mode: str) -> None:
    """Set the journal mode, waiting while another connection does: SQLite itself would not, for all its timeout."""
    until_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute(f"PRAGMA journal_mode = {mode}").close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                raise
            time.sleep(BUSY_PAUSE_S)
        else:
            return


def _remember(path: Path, mode: str) -> None:
    with _modes_lock:
        _modes[_identity(path)] = mode


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing and creates no file.

    SQLite would create a log beside a database in WAL mode even for a reader. Where none lies there, nobody is
    writing, and the file is read as it is.
    """
    return _connect(path, "ro", immutable=_is_wal(path) and not path.with_name(path.name + "-wal").exists())


def _connect(path: Path, mode: str, *, immutable: bool = False) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}" + ("&immutable=1" if immutable else "")
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    connection.execute("PRAGMA foreign_keys = ON").close()
    return connection


def _is_wal(path: Path) -> bool:
    with _modes_lock:
        if not path.exists():
            return False
        identity = _identity(path)
        if identity not in _modes:
            with path.open("rb") as file:
                start = file.read(20)
            if len(start) < 20:  # still empty: its mode is not settled
                return False
            _modes[identity] = "WAL" if start[18:] == WAL_MODE else "DELETE"
        return _modes[identity] == "WAL"


def journal_mode(path: Path, mounts: Path = MOUNTS) -> str:
    """The journal mode for a file: a write-ahead log (WAL), on a network filesystem a rollback journal (DELETE).

    The clients of such a filesystem share no memory, which WAL needs; a warning says what that costs.
    """
    filesystem = filesystem_of(path, mounts)
    if filesystem not in NETWORK_FILESYSTEMS:
        return "WAL"
    warnings.warn(
        f"{path} lies on a network filesystem ({filesystem}): using a rollback journal, so readers and the writer "
        "may wait for each other; keep the study on a local disk to avoid that",
        stacklevel=2,
    )
    return "DELETE"


def filesystem_of(path: Path, mounts: Path = MOUNTS) -> str:
    """The type of the filesystem that holds ``path``; empty where the system does not say (it says so on Linux)."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    target = os.path.realpath(path)
    best, filesystem = "", ""
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)  # a space is written \040
        if len(point) >= len(best) and os.path.commonpath([target, point]) == point:
            best, filesystem = point, kind
    return filesystem


def database_path(url: URL) -> Path:
    """The file that a SQLite URL names. Raises RequestError when it names none, or adds options."""
    if url.query or not url.database or url.database == ":memory:":
        raise RequestError(
            f"a SQLite URL names a file and nothing more, like sqlite:///runs/demo/study.db, got {url}; "
            "locking and journal are settled here"
        )
    return Path(url.database).absolute()


def check_file(path: Path) -> None:
    """Check that ``path`` is a SQLite database, or is not there. Raises RequestError otherwise."""
    if path.is_dir():
        raise RequestError(f"expected a database file, {path} is a folder; name the file in it, such as study.db")
    with _modes_lock:
        if not path.exists() or _identity(path) in _modes:
            return
        try:
            with path.open("rb") as file:
                start = file.read(len(MAGIC))
        except OSError as error:
            raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    if start and start != MAGIC:
        raise RequestError(f"{path} is no SQLite database: it begins with {start!r}; name another file or folder")
