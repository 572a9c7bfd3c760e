"""Signals that stop a program reach its whole process group; only the main process acts on them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR2") if hasattr(signal, name))
"""Signals of Ctrl-C and of batch systems; Slurm sends SIGUSR2, as a search asks it to, before a job's time is up."""


def ignore_signals() -> None:
    """Ignore signals that stop a program: the first call of a worker, which its parent ends."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # held back by the parent


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block stopping signals inside, also for processes started there, until they call ``ignore_signals``."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # would lift the mask if the first start below had to start the tracker
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
