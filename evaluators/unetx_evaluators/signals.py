"""Ctrl-C and a batch system's SIGTERM reach the whole process group; only the process that leads it acts on them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR2") if hasattr(signal, name))
"""SIGUSR2 is Slurm's, as a search asks for it, before the time of a job is up."""


def ignore_signals() -> None:
    """For a worker, as the first thing it does: whoever started it ends it."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # held back by the parent


@contextmanager
def signals_held_back() -> Iterator[None]:
    """A process started meanwhile is deaf to Ctrl-C and SIGTERM until it has its own way to ignore them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # would lift the mask if the first start below had to start the tracker
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
