"""Prepared datasets in a cache: listed, and removed when they are of no more use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.housekeeping import CacheEntry, CacheState, cache_entries, remove_entry
from unetx_space.files import json_text
from unetx_studies.sheet import size_words

Which = Literal["stale", "all"]

KEPT_OF_STALE = frozenset({CacheState.CURRENT, CacheState.IN_USE})
"""The states of what ``--clean stale`` keeps."""


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """A prepared dataset in a cache, or what is left of one."""

    name: str
    state: str
    """One of current, stale (the dataset has changed or gone since), unfinished, damaged, in use."""
    n_bytes: int
    origin: str
    last_used: str
    """Time of the last use, in UTC, to the minute."""


@dataclass(frozen=True, slots=True)
class Cleaning:
    """The result of a cleaning."""

    cache: str
    removed: tuple[CacheFacts, ...]
    kept: tuple[CacheFacts, ...]

    @property
    def freed_bytes(self) -> int:
        return sum(entry.n_bytes for entry in self.removed)


def cache_facts(cache: Path) -> tuple[CacheFacts, ...]:
    """Return the facts of every prepared dataset in a cache; nothing where there is no cache."""
    return tuple(map(_facts, cache_entries(cache)))


def clean_caches(cache: Path, which: Which) -> Cleaning:
    """Remove prepared datasets that are stale, unfinished or damaged, or all; those in use are kept."""
    removed, kept = [], []
    for entry in cache_entries(cache):
        if entry.state is CacheState.IN_USE or (which == "stale" and entry.state in KEPT_OF_STALE):
            kept.append(_facts(entry))
            continue
        try:
            removed.append(replace(_facts(entry), n_bytes=remove_entry(entry)))
        except DataError:  # somebody began to use it a moment ago
            kept.append(replace(_facts(entry), state=str(CacheState.IN_USE)))
    return Cleaning(str(cache), tuple(removed), tuple(kept))


def _facts(entry: CacheEntry) -> CacheFacts:
    last_used = entry.last_used.strftime("%Y-%m-%d %H:%M")
    return CacheFacts(entry.name, str(entry.state), entry.n_bytes, entry.origin, last_used)


def caches_text(entries: Sequence[CacheFacts]) -> str:
    """Return a table with a line for each prepared dataset."""
    rows = [("prepared", "state", "size", "last used (UTC)", "from")]
    rows += [(e.name, e.state, size_words(e.n_bytes), e.last_used, e.origin) for e in entries]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[4]]).rstrip() for row in rows)


def cleaning_text(cleaning: Cleaning) -> str:
    """Say what was removed, what was kept, and how much space that freed."""
    lines = [f"removed {entry.name} ({entry.state}, {size_words(entry.n_bytes)})" for entry in cleaning.removed]
    lines += [f"kept    {entry.name} ({entry.state}, {size_words(entry.n_bytes)})" for entry in cleaning.kept]
    if not lines:
        return f"nothing is prepared in {cleaning.cache}"
    return "\n".join([*lines, f"freed {size_words(cleaning.freed_bytes)} in {cleaning.cache}"])


def cleaning_json(cleaning: Cleaning) -> str:
    """Return the facts of ``cleaning_text`` as JSON."""
    return json_text({**asdict(cleaning), "freed_bytes": cleaning.freed_bytes})
