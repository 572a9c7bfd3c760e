"""The way between the coordinator and its jobs: TCP, with a word that both know, watched for an end that nobody tells.

A job gets the coordinator's addresses and the name of a file with the word when it is submitted, and calls when it
begins. The word keeps strangers out on both sides; what is said afterwards is pickled and not encrypted.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any, TypeAlias

import psutil

CALL_TIMEOUT_S = 10.0
"""For an address of the coordinator to answer."""
KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000, "TCP_NODELAY": 1}
"""A node without power is missed after a minute, by either side (in ms where Linux counts so)."""

Line: TypeAlias = "Connection[Any, Any]"


@dataclass(frozen=True, slots=True)
class Joined:
    """The first words of a job."""

    job: str
    """Its id."""
    task: int
    """Which of its workers' holders this is."""
    host: str


@dataclass(frozen=True, slots=True)
class Coordinator:
    """Where a job calls."""

    hosts: tuple[str, ...]
    port: int
    word_file: Path

    def call(self, joined: Joined) -> Line:
        """The line to the coordinator. Raises OSError where it is not there any more, or not to be reached."""
        word, reasons = self.word_file.read_bytes(), []
        for host in self.hosts:
            try:
                line = _line(socket.create_connection((host, self.port), CALL_TIMEOUT_S))
                answer_challenge(line, word)
                deliver_challenge(line, word)
            except (OSError, EOFError, AuthenticationError) as error:
                reasons.append(f"{host}: {error or type(error).__name__}")
                continue
            line.send(joined)
            return line
        raise OSError(f"no address of the coordinator answers on port {self.port} ({'; '.join(reasons)})")


def admit(caller: socket.socket, word: bytes) -> tuple[Joined, Line] | None:
    """A job that has called, with its line; None for somebody who does not know the word."""
    line = _line(caller)
    with suppress(OSError, EOFError, AuthenticationError):
        deliver_challenge(line, word)
        answer_challenge(line, word)
        joined = line.recv()
        assert isinstance(joined, Joined)
        return joined, line
    line.close()
    return None


def own_hosts() -> tuple[str, ...]:
    """Names and addresses under which other machines may find this one, the likeliest first."""
    addresses = [
        address.address
        for several in psutil.net_if_addrs().values()
        for address in several
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    return tuple(dict.fromkeys((socket.gethostname(), socket.getfqdn(), *addresses)))


def _line(end: socket.socket) -> Line:
    end.settimeout(None)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Connection(end.detach())
