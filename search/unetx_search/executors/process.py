"""A worker process, seen from its parent: started with its environment pinned, heard, ended for certain."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path

from unetx_evaluators.signals import signals_held_back
from unetx_search.executors import worker
from unetx_search.executors.slots import Slot

KILL_TIMEOUT_S = 5.0
"""For the kernel to take away a killed process; longer only when a driver holds it."""

_SPAWN = multiprocessing.get_context("spawn")
_start_lock = threading.Lock()
"""Starting a process changes this process's environment for a moment."""


class WorkerProcess:
    """A worker process, seen from its parent. The constructor starts it."""

    def __init__(self, slot: Slot, log_file: Path | None) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self.up = False
        """It has said hello: from now on it reads everything at once, and sending never blocks for long."""
        self.silent = False
        """Its end of the pipe is closed."""
        self.trouble = ""
        """Traceback of what kept it from starting."""
        self._process: SpawnProcess = _SPAWN.Process(
            target=worker.main, args=(theirs, slot.environment, log_file), name=f"unetx-worker-{slot.index}"
        )
        with theirs, _start_lock, _environment(slot.environment), signals_held_back():
            self._process.start()

    @property
    def sentinel(self) -> int:
        return self._process.sentinel

    def send(self, order: worker.Order) -> None:
        with contextlib.suppress(OSError):  # it died; attend sees that and knows what to do
            self.connection.send(order)

    def receive(self) -> worker.Report | None:
        """The next report; None when there is none now, or when there will be none (``silent``)."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            self.silent = True
            return None

    def died(self) -> bool:
        return self._process.exitcode is not None

    def bury(self) -> str:
        """Free what belongs to a process that ended by itself; says how it ended."""
        self._process.join(KILL_TIMEOUT_S)
        cause = "closed its pipe" if self._process.exitcode is None else describe_exit(self._process.exitcode)
        self.kill()
        return cause

    def hang_up(self) -> None:
        """A worker that is up leaves at once by itself; one still on its way up has nothing to lose."""
        self.connection.close()
        if not self.up:
            self._process.kill()

    def join(self, timeout_s: float) -> None:
        self._process.join(timeout_s)

    def kill(self) -> None:
        """End it for certain and free what belongs to it."""
        self.connection.close()
        self._process.kill()
        self._process.join(KILL_TIMEOUT_S)
        if self.died():
            self._process.close()


def end_all(processes: Sequence[WorkerProcess], timeout_s: float) -> None:
    """Hang up on all, wait for all together, kill those that stay; a second Ctrl-C goes straight to the killing."""
    deadline_s = time.monotonic() + timeout_s
    try:
        for process in processes:
            process.hang_up()
        for process in processes:
            process.join(max(0.0, deadline_s - time.monotonic()))
    finally:
        for process in processes:
            process.kill()


def describe_exit(code: int) -> str:
    """An exit code in words: "exited with code 3", "was killed by SIGSEGV"."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"  # a real-time signal
    hint = " (by hand, or by the kernel when memory ran out)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """``os.environ`` with the changes, which a process started meanwhile inherits; restored afterwards."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
