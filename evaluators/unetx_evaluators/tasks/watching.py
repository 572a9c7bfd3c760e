"""Whoever watches a preparation: a progress bar, a test, nobody."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Phase(StrEnum):
    """What is being done to every case."""

    SURVEY = "reading"  # every case once, to learn what the data are like
    WRITE = "preparing"  # every case again, into the cache
    CHECK = "checking"  # arrays that an earlier run left, by their checksums


class Watcher(Protocol):
    """Told how a preparation gets on, in this process. Any call may raise to end it."""

    def on_wait(self, folder: Path) -> None:
        """Another process prepares the same data in ``folder``; it is waited for."""
        return

    def on_phase(self, phase: Phase, n_cases: int) -> None:
        """A phase begins."""
        return

    def on_case(self) -> None:
        """One more case of the phase is done."""
        return

    def on_size(self, n_bytes: int, free_bytes: int) -> None:
        """Before anything is written: what the arrays still to be written take, and what the disk has."""
        return


class NullWatcher(Watcher):
    """Watches nothing."""
