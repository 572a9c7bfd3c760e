"""The jobs of a search and the lines to them, from its first worker to its end.

A job holds one worker after the other, so that a worker that crashed is replaced without waiting in the queue again. A
job that ends is replaced by a new one as long as its worker is wanted. Slurm's own requeueing is switched off: it would
be a second way of the same.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from unetx_search.executors.slurm.link import Coordinator, Joined, Line, admit, own_hosts
from unetx_search.executors.slurm.queue import FAILED, TAKEN, JobState, SlurmQueue
from unetx_space.errors import RequestError

logger = logging.getLogger(__name__)

FIRST_LOOK_S, LOOK_EVERY_S = 5.0, 15.0
"""At the queue, after a submission and later, while jobs have not begun."""
AGAIN_S = 60.0
"""Until Slurm is asked again for a job that it refused or took away before it had begun."""


@dataclass(eq=False, slots=True)
class Place:
    """Room for a worker in a job, from the job's submission on."""

    job: str
    task: int
    host: str = ""
    line: Line | None = None
    """None before the job has called."""
    is_taken: bool = False
    n_workers: int = 0
    """Those it has held, which numbers them."""

    @property
    def name(self) -> str:
        return f"Slurm job {self.job} on {self.host}" if self.host else f"Slurm job {self.job}"


class SlurmJobs:
    """Has as many places as workers are wanted, and hears the jobs call. To be used from one thread, as a context."""

    def __init__(self, queue: SlurmQueue) -> None:
        self.n_wanted = 0
        self._queue = queue
        self._places: list[Place] = []
        self._failures: list[str] = []
        """Of jobs that ended before they called, until somebody was told."""
        self._called: SimpleQueue[tuple[Joined, Line]] = SimpleQueue()
        self._bell, self._bell_rope = Pipe(duplex=False)
        self._asking = ThreadPoolExecutor(1, "slurm")
        """What may take long."""
        self._look: Future[Any] | None = None
        self._look_at_s = self._submit_at_s = 0.0
        self._has_submitted = False
        self._told: set[str] = set()
        """Reasons for waiting of which the user knows."""
        folder = queue.folder
        folder.mkdir(parents=True, exist_ok=True)
        self._end_those_left()
        self._word = secrets.token_bytes(32)
        word_file = folder / f"word-{secrets.token_hex(8)}"
        word_file.touch(0o600, exist_ok=False)
        word_file.write_bytes(self._word)
        self._server = socket.create_server(("", 0), backlog=1024)
        self._coordinator = Coordinator(own_hosts(), self._server.getsockname()[1], word_file)
        threading.Thread(target=self._listen, name="calls", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Jobs that have called end when their line does; the others are cancelled."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # ends the thread that accepts
        self._server.close()
        self._take_calls()
        for place in self._places:
            if place.line is not None:
                place.line.close()
        self._asking.submit(self._queue.cancel, sorted({place.job for place in self._places if place.line is None}))
        self._asking.shutdown()
        self._forget_files()

    def _end_those_left(self) -> None:
        """Jobs of a run that was killed, which may still wait in the queue."""
        scripts = self._queue.folder.glob("*_submission.sh")
        self._queue.cancel(sorted(script.name.partition("_")[0] for script in scripts))
        self._forget_files()

    def _forget_files(self) -> None:
        """What jobs begin with; what they have printed stays."""
        for pattern in ("*_submission.sh", ".submission_file_*", "*.pkl", "word-*"):
            for path in self._queue.folder.glob(pattern):
                path.unlink(missing_ok=True)

    # Calls come in threads of their own, and wait for the coordinator's.

    def _listen(self) -> None:
        with suppress(OSError):  # closed
            while True:
                caller, _ = self._server.accept()
                threading.Thread(target=self._admit, args=(caller,), name="call", daemon=True).start()

    def _admit(self, caller: socket.socket) -> None:
        admitted = admit(caller, self._word)
        if admitted is not None:
            self._called.put(admitted)
            self._bell_rope.send_bytes(b".")

    def _take_calls(self) -> None:
        while self._bell.poll():
            self._bell.recv_bytes()
            joined, line = self._called.get()
            place = next((one for one in self._places if (one.job, one.task) == (joined.job, joined.task)), None)
            if place is None or place.line is not None:
                line.close()
            else:
                place.host, place.line = joined.host, line

    # What executors ask.

    def free_place(self) -> Place | None:
        """A place whose job has called, and no worker is in."""
        place = next((one for one in self._places if one.line is not None and not one.is_taken), None)
        if place is not None:
            place.is_taken = True
        return place

    def failure(self) -> str:
        """Why a job could not do its work, each once; empty where none failed."""
        return self._failures.pop(0) if self._failures else ""

    def drop(self, place: Place) -> str:
        """Have nothing more to do with a place, and end its job; what is known of its end."""
        for one in [one for one in self._places if one.job == place.job]:
            self._places.remove(one)
            if one.line is not None:
                one.line.close()
        self._asking.submit(self._queue.cancel, [place.job])
        return self._queue.last_words(place.job, place.task)

    def wait(self, lines: Sequence[Line], timeout_s: float) -> None:
        """Wait until a job calls or one of the lines has something to tell, and see to the jobs."""
        idle = [place.line for place in self._places if place.line is not None and not place.is_taken]
        wait([self._bell, *idle, *lines], timeout_s)
        self._take_calls()
        for place in self._places.copy():
            if place.line is not None and not place.is_taken:
                self._hear_idle(place, place.line)
        self._look_at_queue()
        self.fill()

    def _hear_idle(self, place: Place, line: Line) -> None:
        """Words of a worker that has ended, or the end of the job."""
        try:
            while line.poll():
                line.recv()
        except (EOFError, OSError):
            self.drop(place)

    def fill(self) -> None:
        """Submit the jobs that are missing. Raises RequestError when Slurm refuses the first of a run."""
        n_there = len(self._places) + len(self._failures)  # a failure is told to a worker that waits
        n_missing = -((n_there - self.n_wanted) // self._queue.n_tasks)
        if n_missing <= 0 or time.monotonic() < self._submit_at_s:
            return
        try:
            jobs = self._queue.submit(n_missing, self._coordinator)
        except RequestError as error:
            if not self._has_submitted:
                raise
            logger.warning("%d jobs are missing, and Slurm is asked again in %g s: %s", n_missing, AGAIN_S, error)
            self._submit_at_s = time.monotonic() + AGAIN_S
        else:
            self._has_submitted = True
            self._places += [Place(job, task) for job in jobs for task in range(self._queue.n_tasks)]
            self._look_at_s = time.monotonic() + FIRST_LOOK_S

    # Jobs that have not begun.

    def _look_at_queue(self) -> None:
        waiting = sorted({place.job for place in self._places if place.line is None})
        if self._look is not None and self._look.done():
            states, self._look = self._look.result(), None
            self._heed_states({job: state for job, state in (states or {}).items() if job in waiting})
        elif self._look is None and waiting and time.monotonic() >= self._look_at_s:
            self._look_at_s = time.monotonic() + LOOK_EVERY_S
            self._look = self._asking.submit(self._queue.states, waiting)

    def _heed_states(self, states: dict[str, JobState]) -> None:
        for job, state in states.items():
            if state.state in FAILED + TAKEN:
                place = next(one for one in self._places if one.job == job)
                words = f"{place.name} ended before it could work ({state.state}); {self.drop(place)}"
                if state.state in FAILED:
                    self._failures.append(words)
                else:
                    logger.warning("Slurm is asked for another job in %g s: %s", AGAIN_S, words)
                    self._submit_at_s = time.monotonic() + AGAIN_S
        pending = [state.reason for state in states.values() if state.state == "PENDING"]
        reasons = sorted(set(pending) - {"None"})
        if new := ", ".join(reason for reason in reasons if reason not in self._told):
            self._told.update(reasons)
            n_jobs = len({place.job for place in self._places})
            logger.warning("%d of %d jobs wait in Slurm's queue (%s)", len(pending), n_jobs, new)
