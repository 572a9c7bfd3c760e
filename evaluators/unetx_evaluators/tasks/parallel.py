"""One function over many cases, in several processes, answers in order.

Memory does not grow with the number of cases: no worker runs further ahead of the answers than a few cases, and large
results belong on disk. A worker that dies (out of memory, most often) costs its case and is replaced; when this
process ends, however it ends, its workers end within the moment.

Workers come from a fork server where the system has one: it imports the readers once, so that four workers are up in
2.8 s where spawned ones take 5.6 s and five times the memory (two cores), and unlike a plain fork it is safe beside
threads.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar

from unetx_evaluators.evaluation import DataError, DataErrors
from unetx_evaluators.host_cores import usable_cores
from unetx_evaluators.signals import ignore_signals, signals_held_back

T = TypeVar("T")

PRELOADED = ("monai.data",)
"""Imported once for all workers: it takes seconds, and every reader needs it."""

BYTES_PER_WORKER = 16 * 2**20
"""Of files. Reading, surveying and preparing that much takes one process about as long as a worker takes to start."""

AHEAD = 4
"""Cases per worker that may be done before the one whose turn it is."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A case that could not be done, and why."""

    errors: tuple[DataError, ...]


@dataclass(frozen=True, slots=True)
class _Crashed:
    """A bug of ours in a worker."""

    error: str


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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(self._workers)

    def map(self, function: Callable[[str], T], names: Sequence[str]) -> Iterator[tuple[str, T | Failed]]:
        """What ``function`` gives for every name, in the order of the names; what it raises as DataError is Failed.

        ``function`` is picklable. Anything else it raises is a bug and is raised here, as RuntimeError with the
        worker's traceback.
        """
        if self._n == 1:
            yield from ((name, _attempt(function, name)) for name in names)
            return
        run: _Run[T] = _Run(pickle.dumps(function), names, limit=AHEAD * self._n)
        try:
            while run.unfinished:
                self._hand_out(run)
                self._collect(run)
                yield from run.in_order()
        finally:
            self._end([worker for worker in self._workers if worker.case is not None])

    def _end(self, workers: Sequence[_Worker]) -> None:
        self._workers = [worker for worker in self._workers if worker not in workers]
        for worker in workers:
            worker.end()

    def _hand_out(self, run: _Run[Any]) -> None:
        n_free = sum(worker.case is None for worker in self._workers)
        n_more = min(run.n_ready - n_free, self._n - len(self._workers))
        self._workers += [_Worker() for _ in range(n_more)]
        for worker in self._workers:
            if worker.case is None and run.n_ready > 0:
                worker.take(run.next(), run)

    def _collect(self, run: _Run[Any]) -> None:
        busy = [worker for worker in self._workers if worker.case is not None]
        ready = set(wait([source for worker in busy for source in worker.sources]))
        for worker in busy:
            if ready.isdisjoint(worker.sources):
                continue
            name = worker.case
            assert name is not None
            try:
                run.done[name] = worker.answer()
            except (EOFError, OSError):
                run.done[name] = Failed((worker.obituary(),))
                self._workers.remove(worker)


class _Run(Generic[T]):
    """One function over one list of names: what waits, what is out, what is done."""

    def __init__(self, function: bytes, names: Sequence[str], limit: int) -> None:
        self.function = function
        self.done: dict[str, T | Failed | _Crashed] = {}
        self._waiting = deque(names)
        self._out: deque[str] = deque()
        self._limit = limit

    @property
    def unfinished(self) -> bool:
        return bool(self._waiting or self._out)

    @property
    def n_ready(self) -> int:
        """Cases that may begin."""
        return min(len(self._waiting), self._limit - len(self._out))

    def next(self) -> str:
        self._out.append(self._waiting.popleft())
        return self._out[-1]

    def in_order(self) -> Iterator[tuple[str, T | Failed]]:
        """The answers whose turn has come."""
        while self._out and self._out[0] in self.done:
            name = self._out.popleft()
            answer = self.done.pop(name)
            if isinstance(answer, _Crashed):
                raise RuntimeError(f"case {name}: a worker process failed:\n{answer.error}")
            yield name, answer


@dataclass(eq=False)
class _Worker:
    """A process and the case it has; None while it waits."""

    case: str | None = None
    process: BaseProcess = field(init=False)
    connection: Connection[Any, Any] = field(init=False)
    _told: bytes = b""

    def __post_init__(self) -> None:
        context = _context()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)  # type: ignore[attr-defined]
        with signals_held_back():  # also for the fork server, which imports for seconds
            self.process.start()
        theirs.close()

    @property
    def sources(self) -> list[Any]:
        return [self.connection, self.process.sentinel]

    def take(self, name: str, run: _Run[Any]) -> None:
        self.case = name
        with contextlib.suppress(OSError):  # it died between two cases: ``answer`` finds that out
            self.connection.send((run.function if self._told is not run.function else None, name))
        self._told = run.function

    def answer(self) -> Any:
        """Of the case it has. Raises EOFError or OSError when it died instead."""
        if not self.connection.poll():
            raise EOFError
        answer = self.connection.recv()
        self.case = None
        return answer

    def obituary(self) -> DataError:
        self.process.join()
        code = self.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        self.connection.close()
        return DataError(
            f"case {self.case}: the process that read it died ({how}); most often the memory was full: use fewer "
            "workers, free memory, or remove the case"
        )

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


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


def _work(connection: Connection[Any, Any]) -> None:
    """A worker's life: it ends when the parent hangs up, or dies."""
    ignore_signals()  # the parent ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    function: Any = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            payload, name = connection.recv()
            try:
                function = function if payload is None else pickle.loads(payload)
                answer: Any = _attempt(function, name)
            except Exception:  # noqa: BLE001 - whatever it is, the parent raises it
                answer = _Crashed(traceback.format_exc())
            connection.send(answer)


def _end_with(sentinel: int) -> NoReturn:
    """Even in the middle of a case: nobody waits for the answer any more."""
    wait([sentinel])
    os._exit(1)
