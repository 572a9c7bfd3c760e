"""A parallel map over cases, in several processes, with results in order.

Memory does not grow with the number of cases: workers are no more than a few cases ahead of the results that were read,
and large results belong on disk. Each worker is an executor of one process, so that one that dies (mostly out of
memory) costs its case and is replaced; when this process ends, for whatever reason, its workers end at once.

Workers come from a fork server where the system has one: it imports the readers once, so that four workers start in
2.8 s where spawned ones take 5.6 s and five times the memory (two cores), and unlike a plain fork it is safe with
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
from unetx_evaluators.signals import ignore_signals, signals_blocked

T = TypeVar("T")

PRELOADED = ("monai.data",)
"""Modules that the fork server imports for all workers: it takes seconds, and every reader needs them."""

BYTES_PER_WORKER = 16 * 2**20
"""Size of the files whose reading, survey and preparation takes one process about as long as a worker's start."""

POLL_S = 1.0
"""Longest wait in seconds: a Ctrl-C that comes as a wait begins is only noticed at its end."""

AHEAD = 4
"""Largest number of cases per worker that are submitted before the oldest result is read."""


@dataclass(frozen=True, slots=True)
class FailedCase:
    """The errors on a case for which the function failed."""

    errors: tuple[DataError, ...]


def n_workers_for(n_bytes: int, n_cases: int) -> int:
    """The number of processes that pay for this much reading; 1 is this process alone."""
    return max(1, min(usable_cores(), n_cases, n_bytes // BYTES_PER_WORKER))


class Workers:
    """``n`` worker processes, started at the first ``map``; a single one means this process.

    It is a context manager, at whose end all processes have ended.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(self._workers)

    def map(self, function: Callable[[str], T], names: Sequence[str]) -> Iterator[tuple[str, T | FailedCase]]:
        """Yield every name with ``function(name)``, in order; where that raises DataError, with a FailedCase.

        ``function`` must be picklable. Any other error is a bug and is raised here, as RuntimeError with the worker's
        traceback.
        """
        if self._n == 1:
            yield from ((name, _attempt(function, name)) for name in names)
            return
        pickled, waiting = pickle.dumps(function), deque(names)
        submitted: deque[tuple[str, _Worker, Future[T | FailedCase]]] = deque()
        try:
            while waiting or submitted:
                while waiting and len(submitted) < AHEAD * self._n and (worker := self._free()) is not None:
                    name = waiting.popleft()
                    submitted.append((name, worker, worker.submit(pickled, name)))
                unfinished = [submitted[0][2], *(future for *_, future in submitted if not future.done())]
                wait(unfinished, POLL_S, return_when=FIRST_COMPLETED)
                while submitted and submitted[0][2].done():
                    yield submitted[0][0], self._result(*submitted.popleft())
        finally:
            self._end([worker for worker in self._workers if worker.is_busy])

    def _free(self) -> _Worker | None:
        """An idle worker, which may be a new one; None where all are busy."""
        for worker in self._workers:
            if not worker.is_busy and not worker.has_died:
                return worker
        self._workers = [worker for worker in self._workers if not worker.has_died]
        if len(self._workers) == self._n:
            return None
        self._workers.append(_Worker())
        return self._workers[-1]

    def _result(self, name: str, worker: _Worker, future: Future[T | FailedCase]) -> T | FailedCase:
        try:
            return future.result()
        except BrokenProcessPool:
            how = worker.end()
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            raise RuntimeError(f"case {name}: a worker process failed:\n{trace}") from error
        return FailedCase(
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
    """A worker process and its last task."""

    def __init__(self) -> None:
        context = multiprocessing.get_context(
            "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        )
        context.set_forkserver_preload(list(PRELOADED))  # of no effect on a process that is spawned
        self._executor = ProcessPoolExecutor(1, context, _init_worker)
        before = multiprocessing.active_children()
        with signals_blocked():  # also for the fork server, which imports for seconds
            self._future: Future[Any] = self._executor.submit(os.getpid)
        (self.process,) = (child for child in multiprocessing.active_children() if child not in before)

    def submit(self, pickled: bytes, name: str) -> Future[Any]:
        """Start on a case."""
        try:
            self._future = self._executor.submit(_call, pickled, name)
        except BrokenProcessPool as error:  # it died between two cases
            self._future = Future()
            self._future.set_exception(error)
        return self._future

    @property
    def is_busy(self) -> bool:
        """Whether the result of the last case is pending; starting does not count."""
        return not self._future.done()

    @property
    def has_died(self) -> bool:
        """Whether the process ended during its last case."""
        return self._future.done() and isinstance(self._future.exception(), BrokenProcessPool)

    def end(self) -> str:
        """End the process, if it lives, and return a text on how it ended."""
        if not self.has_died:
            self.process.kill()
        self._executor.shutdown(cancel_futures=True)
        code = self.process.exitcode
        return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def _init_worker() -> None:
    """Leave signals to the parent, and end with it even during a case."""
    ignore_signals()
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def end() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


@lru_cache(maxsize=1)  # so that a source with all its files is not unpickled again for every case
def _unpickled(pickled: bytes) -> Any:
    return pickle.loads(pickled)


def _call(pickled: bytes, name: str) -> Any:
    return _attempt(_unpickled(pickled), name)


def _attempt(function: Callable[[str], T], name: str) -> T | FailedCase:
    try:
        return function(name)
    except DataErrors as several:
        return FailedCase(several.errors)
    except DataError as error:
        return FailedCase((error,))
    except MemoryError as error:
        return FailedCase(
            (
                DataError(
                    f"case {name}: there is not enough memory for it ({error or 'it broke off'}); free memory, cut the "
                    "case into pieces, or remove it"
                ),
            )
        )
