"""Connections between the coordinator and its jobs: TCP, with a secret key, kept alive so that a lost node is noticed.

When it is submitted, a job gets the coordinator's addresses and the name of a file with the key; it connects when it
begins. The key keeps strangers out on both sides; messages are pickled and not encrypted.
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
"""Seconds for an address of the coordinator to answer."""
KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000, "TCP_NODELAY": 1}
"""Options of TCP by which either side misses a node without power after a minute (in s, the last timeout in ms)."""

JobConnection: TypeAlias = "Connection[Any, Any]"


@dataclass(frozen=True, slots=True)
class Joined:
    """The first message of a job."""

    job: str
    """The job's id."""
    rank: int
    """The rank of the sender among the job's tasks, each of which holds workers."""
    host: str


@dataclass(frozen=True, slots=True)
class CoordinatorAddress:
    """The coordinator's address, to which jobs connect, and the file with the key."""

    hosts: tuple[str, ...]
    port: int
    key_file: Path

    def connect(self, joined: Joined) -> JobConnection:
        """Connect and send the first message. Raises OSError where the coordinator is gone or cannot be reached."""
        key, reasons = self.key_file.read_bytes(), []
        for host in self.hosts:
            try:
                connection = _connected(socket.create_connection((host, self.port), CALL_TIMEOUT_S))
                answer_challenge(connection, key)
                deliver_challenge(connection, key)
            except (OSError, EOFError, AuthenticationError) as error:
                reasons.append(f"{host}: {error or type(error).__name__}")
                continue
            connection.send(joined)
            return connection
        raise OSError(f"no address of the coordinator answers on port {self.port} ({'; '.join(reasons)})")


def admit(client: socket.socket, key: bytes) -> tuple[Joined, JobConnection] | None:
    """Return the first message of a job that connects, and its connection; None for a stranger without the key."""
    connection = _connected(client)
    with suppress(OSError, EOFError, AuthenticationError):
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        joined = connection.recv()
        assert isinstance(joined, Joined)
        return joined, connection
    connection.close()
    return None


def own_hosts() -> tuple[str, ...]:
    """Return names and addresses under which other machines may find this one, the likeliest first."""
    addresses = [
        address.address
        for several in psutil.net_if_addrs().values()
        for address in several
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    return tuple(dict.fromkeys((socket.gethostname(), socket.getfqdn(), *addresses)))


def _connected(end: socket.socket) -> JobConnection:
    end.settimeout(None)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Connection(end.detach())
