"""Recognises a full disk and says so: every part of the project that writes files uses this."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unetx_space.errors import UnetxError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The system's error numbers for a full disk and a full quota."""
FULL_IN_SQLITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
"""SQLite's error codes; the second where the index of the write-ahead log cannot grow."""
FULL_ON_SERVER = "53100"
"""PostgreSQL's code of disk_full (appendix A of its manual)."""


class StorageFull(UnetxError):
    """The disk is full and nothing more can be written; what was committed before is safe. CLI exit code 1."""


@contextmanager
def full_disk_explained(place: str | Path) -> Iterator[None]:
    """Raise an error that a full disk caused inside, however it is wrapped, as StorageFull; others are left alone."""
    try:
        yield
    except StorageFull:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise StorageFull(
            f"the disk that holds {place} is full, so the run has stopped; every trial that had finished is safe. "
            "Make room there and run the same command again"
        ) from error


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it wraps or followed from, says that a disk or a quota is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) in FULL_IN_SQLITE:
            return True
        if getattr(error, "sqlstate", None) == FULL_ON_SERVER:
            return True
        error = error.__cause__ or error.__context__
    return False
