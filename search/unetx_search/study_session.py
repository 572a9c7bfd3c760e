"""A study while this process runs it: its lease, its coordinator's run, and the signals that end it in order."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from unetx_search.progress import say
from unetx_studies.store import (
    DATABASE,
    HeldLease,
    Patience,
    RunRecord,
    Store,
    StudyLocation,
    held_lease,
    is_begun,
    open_store,
    save_location,
)

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_search.coordinator import Coordinator
    from unetx_search.executors.base import Executor
    from unetx_search.progress import LineReporter

CLOSE_WITHIN_S = 3.0
"""Seconds in which workers leave by themselves at a run's end, before they are killed."""
WAIT_S = 120.0
"""Seconds to wait for a database server that has gone away; another machine takes the study over after as many."""


@dataclass(slots=True)
class Claim:
    """A study whose lease this process holds."""

    store: Store
    lease: HeldLease
    location: StudyLocation
    is_settled: bool = False
    """The study is there to stay, whatever happens from now on."""


@contextmanager
def claimed(location: StudyLocation, run: RunRecord, console: Console) -> Iterator[Claim]:
    """Hold a study's lease; when this ends in an error before the study was settled, remove the folders that it made.

    Raises RequestError when another process runs the study.
    """
    folder, claim = location.folder, None
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    patience = Patience(WAIT_S, tell=lambda words: say(console, words))
    try:
        with (
            open_store(location.url, create=True, patience=patience) as store,
            held_lease(store, run, study_id=location.id) as lease,
        ):
            claim = Claim(store, lease, location)
            if location.is_new:
                save_location(location)
            if lease.died is not None:
                died = f"continuing after {lease.died.process}, which died: its last heartbeat {lease.died.seen_at:%c}"
                console.print(died)
            yield claim
    except BaseException:
        if made and claim is not None and not claim.is_settled:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # somebody else has put something there meanwhile
                for parent in made[1:]:
                    parent.rmdir()
        raise


def announce_location(location: StudyLocation, name: str, console: Console) -> None:
    """Say where a folder holds a study of another name than ``name``, or an empty database."""
    if location.study != name:
        say(console, f"{location.folder} holds the study {location.study!r}, which goes on under its own name")
    elif not location.is_on_server and (location.folder / DATABASE).exists() and not is_begun(location):
        database = location.folder / DATABASE
        say(console, f"{database} is empty, as a start that was killed leaves it; the study begins in it")


def run_to_end(coordinator: Coordinator, executor: Executor, screen: LineReporter, console: Console) -> None:
    """Run a study's coordinator until it has done its work or a signal ends it, then end the workers."""
    with screen, graceful_shutdown(coordinator, executor, console):
        coordinator.run()
    executor.close(timeout_s=CLOSE_WITHIN_S)


@contextmanager
def graceful_shutdown(coordinator: Coordinator, executor: Executor, console: Console) -> Iterator[None]:
    """Stop the running trials at their next step on Ctrl-C or SIGTERM, and everything at once on a second one."""

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if coordinator.was_stopped:
            executor.close(timeout_s=0.0)
            raise KeyboardInterrupt
        coordinator.stop()
        console.print(f"{signal.Signals(number).name}: stopping the running trials; again to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
