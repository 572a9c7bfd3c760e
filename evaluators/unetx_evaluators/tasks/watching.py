"""Callbacks that report the progress of a preparation, to a progress bar for example."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Phase(StrEnum):
    """A phase of a preparation, in which all cases are processed."""

    SURVEY = "reading"  # every case is read for its facts
    WRITE = "preparing"  # every case is prepared and written into the cache
    CHECK = "checking"  # arrays of an earlier run are checked by their checksums


class Watcher(Protocol):
    """Callbacks of a preparation, called in its main process. Any of them may raise to end it."""

    def on_wait(self, folder: Path) -> None:
        """Called before waiting for another process that prepares the same data in ``folder``."""
        return

    def on_phase(self, phase: Phase, n_cases: int) -> None:
        """Called when a phase begins."""
        return

    def on_case(self) -> None:
        """Called when a case of the phase is done."""
        return

    def on_size(self, n_bytes: int, free_bytes: int) -> None:
        """Called before arrays are written, with the size of those to be written, and the free space of the disk."""
        return


class NullWatcher(Watcher):
    """A watcher that does nothing."""
