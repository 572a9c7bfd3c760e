"""One function over many cases, in several processes, answers in order.

Memory does not grow with the number of cases: no worker runs further ahead of the answers than a few cases, and large
results belong on disk. Each worker is an executor of one process, so that one that dies (out of memory, most often)
costs its case and is replaced; when this process ends, however it ends, its workers end within the moment.

Workers come from a fork server where the system has one: it imports the readers once, so that four workers are up in
2.8 s where spawned ones take 5.6 s and five times the memory (two cores), and unlike a plain fork it is safe beside
threads.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import connection
from typing import Any, Self, TypeVar

from unetx_evaluators.evaluation import DataError, DataErrors
from unetx_evaluators.host_cores import usable_cores
from unetx_evaluators.signals import ignore_signals, signals_held_back

T = TypeVar("T")

PRELOADED = ("monai.data",)
"""Imported once for all workers: it takes seconds, and every reader needs it."""

BYTES_PER_WORKER = 16 * 2**20
"""Of files. Reading, surveying and preparing that much takes one process about as long as a worker takes to start."""

LOOK_EVERY_S = 1.0
"""A Ctrl-C that comes as a wait begins would only be noticed at its end."""

AHEAD = 4
"""Cases per worker that may be done before the one whose turn it is."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A case that could not be done, and why."""

    errors: tuple[DataError, ...]


def n_workers_for(n_bytes: int, n_cases: int) -> int:
    """How many processes that much reading deserves; 1 is this one alone."""
    return max(1, min(usable_cores(), n_cases, n_bytes // BYTES_PER_WORKER))


class Workers:
    """``n`` processes, started with the first work; with one, everything is done in this process.

    A context manager: at its end all processes have ended.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(self._workers)

    def map(self, function: Callable[[str], T], names: Sequence[str]) -> Iterator[tuple[str, T | Failed]]:
        """What ``function`` gives for every name, in the order of the names; what it raises as DataError is Failed.

        ``function`` is picklable. Anything else it raises is a bug and is raised here, as RuntimeError with the
        worker's traceback.
        """
        if self._n == 1:
            yield from ((name, _attempt(function, name)) for name in names)
            return
        pickled, waiting = pickle.dumps(function), deque(names)
        out: deque[tuple[str, _Worker, Future[T | Failed]]] = deque()
        try:
            while waiting or out:
                while waiting and len(out) < AHEAD * self._n and (worker := self._free()) is not None:
                    name = waiting.popleft()
                    out.append((name, worker, worker.take(pickled, name)))
                undone = [out[0][2], *(future for *_, future in out if not future.done())]
                wait(undone, LOOK_EVERY_S, return_when=FIRST_COMPLETED)
                while out and out[0][2].done():
                    yield out[0][0], self._answer(*out.popleft())
        finally:
            self._end([worker for worker in self._workers if worker.is_busy])

    def _free(self) -> _Worker | None:
        """A worker without work, which may be a new one."""
        for worker in self._workers:
            if not worker.is_busy and not worker.has_died:
                return worker
        self._workers = [worker for worker in self._workers if not worker.has_died]
        if len(self._workers) == self._n:
            return None
        self._workers.append(_Worker())
        return self._workers[-1]

    def _answer(self, name: str, worker: _Worker, future: Future[T | Failed]) -> T | Failed:
        try:
            return future.result()
        except BrokenProcessPool:
            how = worker.end()
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            raise RuntimeError(f"case {name}: a worker process failed:\n{trace}") from error
        return Failed(
            (
                DataError(
                    f"case {name}: the process that read it died ({how}); most often the memory was full: use fewer "
                    "workers, free memory, or remove the case"
                ),
            )
        )

    def _end(self, workers: Sequence[_Worker]) -> None:
        self._workers = [worker for worker in self._workers if worker not in workers]
        for worker in workers:
            worker.end()


class _Worker:
    """A process and what it is doing."""

    def __init__(self) -> None:
        context = multiprocessing.get_context(
            "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        )
        context.set_forkserver_preload(list(PRELOADED))  # of no effect on a process that is spawned
        self._executor = ProcessPoolExecutor(1, context, _begin)
        before = multiprocessing.active_children()
        with signals_held_back():  # also for the fork server, which imports for seconds
            self._future: Future[Any] = self._executor.submit(os.getpid)
        (self.process,) = (child for child in multiprocessing.active_children() if child not in before)

    def take(self, pickled: bytes, name: str) -> Future[Any]:
        """Do a case; the answer, or what came instead."""
        try:
            self._future = self._executor.submit(_call, pickled, name)
        except BrokenProcessPool as error:  # it died between two cases
            self._future = Future()
            self._future.set_exception(error)
        return self._future

    @property
    def is_busy(self) -> bool:
        """Whether the answer to the last case is still to come; starting is no work."""
        return not self._future.done()

    @property
    def has_died(self) -> bool:
        """Whether its process ended in the middle of its last case."""
        return self._future.done() and isinstance(self._future.exception(), BrokenProcessPool)

    def end(self) -> str:
        """End the process, if it lives; how it ended, in words."""
        if not self.has_died:
            self.process.kill()
        self._executor.shutdown(cancel_futures=True)
        code = self.process.exitcode
        return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def _begin() -> None:
    """A worker leaves signals to its parent, and ends with it even in the middle of a case: nobody waits any more."""
    ignore_signals()
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def end() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


@lru_cache(maxsize=1)  # a source with all its files is not unpacked again for every case
def _unpickled(pickled: bytes) -> Any:
    return pickle.loads(pickled)


def _call(pickled: bytes, name: str) -> Any:
    return _attempt(_unpickled(pickled), name)


def _attempt(function: Callable[[str], T], name: str) -> T | Failed:
    try:
        return function(name)
    except DataErrors as several:
        return Failed(several.errors)
    except DataError as error:
        return Failed((error,))
    except MemoryError as error:
        return Failed(
            (
                DataError(
                    f"case {name}: there is not enough memory for it ({error or 'it broke off'}); free memory, cut the "
                    "case into pieces, or remove it"
                ),
            )
        )
