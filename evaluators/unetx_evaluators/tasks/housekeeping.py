"""Listing and removing the folders of a cache.

Only folders with our tag are ever listed or removed, and none is removed that a living process prepares or uses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.cache import FORMAT, MANIFEST, CacheFolder, discard, is_in_use, is_ours, read_json


class CacheState(StrEnum):
    """The state of a folder in a cache."""

    CURRENT = "current"  # complete, and the dataset's files are unchanged
    STALE = "stale"  # complete, but the dataset was changed, moved or deleted since
    UNFINISHED = "unfinished"  # a preparation was interrupted; the next one resumes it
    DAMAGED = "damaged"  # its manifest cannot be read, or is of another version of this program
    IN_USE = "in use"  # a living process prepares it or trains on it


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A folder of prepared arrays."""

    folder: Path
    state: CacheState
    n_bytes: int
    """Size of its files."""
    origin: str
    """Origin of its data; empty where that cannot be read."""
    last_used: datetime
    """Time of the last use, in UTC."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name


def cache_entries(cache: Path | str) -> tuple[CacheEntry, ...]:
    """All folders of ours in a cache, by name; none where there is no such folder. Files are not checked."""
    root = Path(cache)
    folders = sorted(root.iterdir()) if root.is_dir() else []
    entries = []
    for folder in folders:
        if is_ours(folder) and not folder.is_symlink():
            manifest = read_json(folder / MANIFEST) or {}
            last_used = datetime.fromtimestamp((folder / MANIFEST if manifest else folder).stat().st_mtime, UTC)
            origin = str(manifest.get("origin", ""))
            entries.append(CacheEntry(folder, _state(folder, manifest), _size(folder), origin, last_used))
    return tuple(entries)


def remove_entry(entry: CacheEntry) -> int:
    """Remove a folder, and return the number of bytes freed. Raises DataError while a process prepares or uses it."""
    place = _place(entry.folder)
    with place.locked():
        if is_in_use(entry.folder):
            raise DataError(f"{entry.folder}: is used by a search that is running; wait for it, or stop it")
        n_bytes = _size(entry.folder)
        discard(entry.folder)
    return n_bytes


def _state(folder: Path, manifest: dict[str, Any]) -> CacheState:
    try:
        with _place(folder).locked():  # nobody prepares it
            is_used = is_in_use(folder)
    except DataError:
        is_used = True
    if is_used:
        return CacheState.IN_USE
    if folder != _place(folder).folder:
        return CacheState.UNFINISHED
    if manifest.get("format") != FORMAT:
        return CacheState.DAMAGED
    return CacheState.STALE if _has_changed(str(manifest.get("identity", ""))) else CacheState.CURRENT


def _place(folder: Path) -> CacheFolder:
    return CacheFolder(folder.with_name(folder.name.removesuffix(".part")))


def _has_changed(identity: str) -> bool:
    """Whether a file that a source lists in its identity (``identity_of``) is gone, or of another size or date."""
    try:
        parts = json.loads(identity)
    except ValueError:
        return False
    match parts:
        case ["pseudonyms", str(inner)]:
            return _has_changed(inner)
        case [str(), str(folder), dict(), list(files)]:
            try:
                stats = {path: (Path(folder) / path).stat() for path, _, _ in files}
            except OSError:
                return True
            return any((stats[path].st_size, stats[path].st_mtime_ns) != (size, ns) for path, size, ns in files)
    return False


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
