"""A worker as its executor sees it, wherever it runs, and the handle of a spawned process on this machine."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from unetx_evaluators.signals import signals_blocked
from unetx_search.executors import worker
from unetx_search.executors.messages import Exited, Hello, Order, Report
from unetx_search.executors.slots import Slot

KILL_TIMEOUT_S = 5.0
"""Seconds for the kernel to take away a killed process; it takes longer only when a driver holds the process."""

_SPAWN = multiprocessing.get_context("spawn")
_start_lock = threading.Lock()
"""Held while a process starts, which changes this process's environment for a moment."""
_alive: set[BaseProcess] = set()
"""Worker processes that were started and not released, also those whose handle a Ctrl-C has lost."""


@atexit.register  # runs before multiprocessing's own exit hook, which would wait for them forever
def _kill_those_left() -> None:
    for process in _alive:
        process.kill()


class WorkerHandle(Protocol):
    """One worker process from its start to its end. Nothing here waits for long, or raises because the worker died."""

    def send(self, order: Order) -> None:
        """Send an order to a worker that is up; nothing happens where it has died."""

    def receive(self) -> Report | None:
        """Return the next report, None when there is none now. Exited, ConnectionLost or Unfit is the last."""

    def hang_up(self) -> None:
        """Ask the worker to exit, which it does at once unless it hangs; Exited follows."""

    def kill(self) -> None:
        """Kill the worker; Exited follows."""

    def is_released(self) -> bool:
        """Return, after Exited, whether the worker's memory on its device is free again."""

    def release(self) -> None:
        """Free what belongs to this handle, and kill a worker that still lives."""


class WorkerProcess(WorkerHandle):
    """A worker process on this machine. The constructor starts it."""

    def __init__(
        self, slot: Slot, log_file: Path | None, wait_for_memory: Callable[[Slot], Callable[[], bool]]
    ) -> None:
        self._slot = slot
        self._wait_for_memory = wait_for_memory
        self._is_memory_free: Callable[[], bool] = lambda: False
        self._connection: Connection[Order, Report]
        self._connection, theirs = _SPAWN.Pipe()
        self._is_up = False
        """Whether the worker is up: from then on it reads at once, and sending never blocks for long."""
        self._kill_by_s = float("inf")
        """When a process that was killed counts as ended, whatever still holds it."""
        self._process = _SPAWN.Process(
            target=worker.main, args=(theirs, slot, log_file), name=f"unetx-worker-{slot.index}"
        )
        with theirs, _start_lock, _environment(slot.environment), signals_blocked():
            self._process.start()
            _alive.add(self._process)

    @property
    def sources(self) -> list[Connection[Order, Report] | int]:
        """The handles to wait for: the worker's pipe and its end."""
        return [self._process.sentinel] if self._connection.closed else [self._connection, self._process.sentinel]

    def send(self, order: Order) -> None:
        with contextlib.suppress(OSError):  # it died; receive tells how
            self._connection.send(order)

    def receive(self) -> Report | None:
        has_ended = self._process.exitcode is not None  # asked first: its last words are in the pipe by now
        try:
            if not self._connection.closed and self._connection.poll():
                report = self._connection.recv()
                self._is_up = self._is_up or isinstance(report, Hello)
                return report
        except (EOFError, OSError):  # it ends, or has closed its pipe and is of no more use
            self._process.join(KILL_TIMEOUT_S)
            has_ended = True
        if not has_ended and time.monotonic() < self._kill_by_s:
            return None
        code = self._process.exitcode
        self.release()
        self._is_memory_free = self._wait_for_memory(self._slot)
        return Exited("closed its pipe" if code is None else describe_exit(code))

    def hang_up(self) -> None:
        self._connection.close()
        if not self._is_up:  # on its way up it does not listen yet, and has nothing to lose
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._kill_by_s = time.monotonic() + KILL_TIMEOUT_S

    def is_released(self) -> bool:
        return self._is_memory_free()

    def release(self) -> None:
        self._connection.close()
        with contextlib.suppress(ValueError):  # closed before
            self._process.kill()
            self._process.join(KILL_TIMEOUT_S)
            if self._process.exitcode is not None:
                _alive.discard(self._process)
                self._process.close()


def wait_for_reports(workers: Sequence[WorkerProcess], timeout_s: float) -> None:
    """Wait until one of the workers has a report, at most ``timeout_s`` seconds."""
    wait([source for worker in workers for source in worker.sources], timeout_s)


def describe_exit(code: int) -> str:
    """Put an exit code into words, such as "exited with code 3" or "was killed by SIGSEGV"."""
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
