"""Waits for a database server that is away, though not for ever, and repeats what a broken connection interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.exc import OperationalError

from unetx_space.errors import UnetxError
from unetx_studies.store.server import reason

T = TypeVar("T")

LOOK_EVERY_S = 0.5
MAX_TRIES = 12
"""How often a change is tried that a broken connection interrupts."""
HURRY_S = 5.0
"""Seconds to wait for a server, at most, once the user wants to end."""


class ServerGone(UnetxError):
    """The server did not come back in time; what was committed is safe. CLI exit code 1."""


class ConnectionLost(UnetxError):
    """The connection broke inside a transaction. Unless that was at its very end, nothing of it was written."""


@dataclass(slots=True)
class Patience:
    """How long to wait for a server that has gone away, and who is told about it."""

    seconds: float = 0.0
    tell: Callable[[str], None] = lambda words: None

    def hurry(self) -> None:
        """Wait next to no time from now on; safe to call from a signal handler."""
        self.seconds = min(self.seconds, HURRY_S)

    def connect(self, connect: Callable[[], T], place: str) -> T:
        """A connection, as soon as the server at ``place`` answers. Raises ServerGone when it does not in time."""
        began = time.monotonic()
        try:
            return connect()
        except OperationalError as error:
            latest = error
        if self.seconds:
            self.tell(f"{place} does not answer ({reason(latest)}); waiting up to {self.seconds:g} s for it")
        while time.monotonic() - began < self.seconds:
            time.sleep(LOOK_EVERY_S)
            try:
                found = connect()
            except OperationalError as error:
                latest = error
            else:
                self.tell(f"{place} answers again after {time.monotonic() - began:.0f} s")
                return found
        raise ServerGone(
            f"{place} does not answer ({reason(latest)}), and waiting for {time.monotonic() - began:.0f} s did not "
            "help; every trial that had finished is safe. See to the server and run the same command again"
        ) from latest


def retry(change: Callable[[], T]) -> T:
    """Call ``change``, which may be done any number of times, again when the connection broke in it.

    Raises ConnectionLost when that does not help.
    """
    for _ in range(MAX_TRIES - 1):
        try:
            return change()
        except ConnectionLost:
            continue
    return change()
