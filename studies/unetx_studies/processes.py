"""Identities of processes, and whether they still live: an id alone would name another process after a while.

The kernel's boot id, the namespace of process ids and the time at which the process began make the id unique. Where
the system does not tell them (it does on Linux), nothing is claimed: the answer is then UNKNOWN.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import psutil

PROC = Path("/proc")


class Presence(Enum):
    """What is known about a process from here."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"  # on another machine, in another container, or the system does not say


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """What tells a process from all others, on whatever machine and since whenever."""

    host: str
    boot: str
    """The kernel's boot id; empty where the system has none."""
    namespace: str
    """The namespace of process ids: containers on one machine count from 1 each."""
    pid: int
    began: int
    """When it began, in hundredths of a second after boot."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process() -> ProcessIdentity:
    """The identity of the process that asks."""
    pid = os.getpid()
    return ProcessIdentity(socket.gethostname(), _boot(), _namespace(), pid, _began(pid) or 0)


def presence(process: ProcessIdentity) -> Presence:
    """Whether the process lives, as far as can be told from here.

    On this very system it is known exactly. A process of an earlier boot of this host is gone. A process that ended
    and only waits for its exit code to be read is gone, too.
    """
    if process.host != socket.gethostname() or "" in (process.boot, _boot()):
        return Presence.UNKNOWN
    if process.boot != _boot():
        return Presence.GONE
    if process.namespace != _namespace():
        return Presence.UNKNOWN
    return Presence.ALIVE if _began(process.pid) == process.began else Presence.GONE


def _boot() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str((PROC / "self/ns/pid").readlink())
    except OSError:
        return ""


def _began(pid: int) -> int | None:
    """When a process began; None when there is no such process, or only its remains."""
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        # Both go by the system's clock, which may be set anew; their difference does not.
        began: int = round((process.create_time() - psutil.boot_time()) * 100)
    except psutil.NoSuchProcess:
        return None
    return began
