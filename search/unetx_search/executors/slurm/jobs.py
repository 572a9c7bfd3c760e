"""The jobs of a search and the connections to them, from its first worker to its end.

A job holds one worker after the other, so that a worker that crashed is replaced without waiting in the queue again. A
job that ends is replaced by a new one as long as its worker is wanted. Slurm's own requeueing is switched off, as it
would do the same a second time.
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

from unetx_search.executors.slurm.connection import CoordinatorAddress, JobConnection, Joined, admit, own_hosts
from unetx_search.executors.slurm.queue import ENDED_BY_OTHERS, FAILED, JobState, SlurmQueue
from unetx_space.errors import RequestError

logger = logging.getLogger(__name__)

FIRST_QUERY_S, QUERY_EVERY_S = 5.0, 15.0
"""Seconds from a submission to the first query of its states, and between later ones, while jobs have not begun."""
RETRY_S = 60.0
"""Seconds until Slurm is asked again for a job that it refused, or took away before it had begun."""


@dataclass(eq=False, slots=True)
class JobTask:
    """A task of a job, which holds one worker after another; known from the job's submission on."""

    job: str
    rank: int
    """Among the tasks of its job."""
    host: str = ""
    connection: JobConnection | None = None
    """None before the job has connected."""
    is_taken: bool = False
    n_workers: int = 0
    """How many it has held, which numbers them."""

    @property
    def name(self) -> str:
        return f"Slurm job {self.job} on {self.host}" if self.host else f"Slurm job {self.job}"


class SlurmJobs:
    """Keeps as many job tasks as workers are wanted, and admits jobs that connect.

    To be used from one thread, as a context manager.
    """

    def __init__(self, queue: SlurmQueue) -> None:
        self.n_workers_wanted = 0
        self._queue = queue
        self._tasks: list[JobTask] = []
        self._failures: list[str] = []
        """Why jobs ended before they connected, until a worker that waits is told."""
        self._joined: SimpleQueue[tuple[Joined, JobConnection]] = SimpleQueue()
        self._wakeup, self._wakeup_sender = Pipe(duplex=False)
        self._commands = ThreadPoolExecutor(1, "slurm")
        """Runs commands of Slurm, which may take long."""
        self._states_query: Future[Any] | None = None
        self._next_query_s = self._next_submission_s = 0.0
        self._has_submitted = False
        self._announced: set[str] = set()
        """Slurm's reasons for waiting that the user has been told."""
        folder = queue.folder
        folder.mkdir(parents=True, exist_ok=True)
        self._cancel_stale_jobs()
        self._key = secrets.token_bytes(32)
        key_file = folder / f"key-{secrets.token_hex(8)}"
        key_file.touch(0o600, exist_ok=False)
        key_file.write_bytes(self._key)
        self._server = socket.create_server(("", 0), backlog=1024)
        self._address = CoordinatorAddress(own_hosts(), self._server.getsockname()[1], key_file)
        threading.Thread(target=self._listen, name="admission", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections, which ends their jobs, and cancel the jobs that have not connected."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # ends the thread that accepts
        self._server.close()
        self._register_joined()
        for task in self._tasks:
            if task.connection is not None:
                task.connection.close()
        self._commands.submit(self._queue.cancel, sorted({task.job for task in self._tasks if task.connection is None}))
        self._commands.shutdown()
        self._remove_files()

    def _cancel_stale_jobs(self) -> None:
        """Cancel jobs of a run that was killed, which may still wait in the queue."""
        scripts = self._queue.folder.glob("*_submission.sh")
        self._queue.cancel(sorted(script.name.partition("_")[0] for script in scripts))
        self._remove_files()

    def _remove_files(self) -> None:
        """Remove what jobs are started with; what they have printed stays."""
        for pattern in ("*_submission.sh", ".submission_file_*", "*.pkl", "key-*"):
            for path in self._queue.folder.glob(pattern):
                path.unlink(missing_ok=True)

    # Jobs connect in threads of their own, and wait for the coordinator's thread.

    def _listen(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._admit, args=(client,), name="handshake", daemon=True).start()

    def _admit(self, client: socket.socket) -> None:
        admitted = admit(client, self._key)
        if admitted is not None:
            self._joined.put(admitted)
            self._wakeup_sender.send_bytes(b".")

    def _register_joined(self) -> None:
        while self._wakeup.poll():
            self._wakeup.recv_bytes()
            joined, connection = self._joined.get()
            task = next((one for one in self._tasks if (one.job, one.rank) == (joined.job, joined.rank)), None)
            if task is None or task.connection is not None:
                connection.close()
            else:
                task.host, task.connection = joined.host, connection

    # What executors ask.

    def free_task(self) -> JobTask | None:
        """Take a job task that has connected and holds no worker; None where there is none."""
        task = next((one for one in self._tasks if one.connection is not None and not one.is_taken), None)
        if task is not None:
            task.is_taken = True
        return task

    def failure(self) -> str:
        """Return why a job could not do its work, each reason once; empty where there is none."""
        return self._failures.pop(0) if self._failures else ""

    def drop(self, task: JobTask) -> str:
        """Give up a task with all others of its job, end the job, and say what its log says."""
        for one in [one for one in self._tasks if one.job == task.job]:
            self._tasks.remove(one)
            if one.connection is not None:
                one.connection.close()
        self._commands.submit(self._queue.cancel, [task.job])
        return self._queue.log_tail(task.job, task.rank)

    def wait(self, connections: Sequence[JobConnection], timeout_s: float) -> None:
        """Wait until a job connects or a connection has a message, then admit, check and submit jobs."""
        idle = [task.connection for task in self._tasks if task.connection is not None and not task.is_taken]
        wait([self._wakeup, *idle, *connections], timeout_s)
        self._register_joined()
        for task in self._tasks.copy():
            if task.connection is not None and not task.is_taken:
                self._check_idle(task, task.connection)
        self._query_states()
        self.fill()

    def _check_idle(self, task: JobTask, connection: JobConnection) -> None:
        """Skip messages of a worker that has ended; drop the task where its job has ended."""
        try:
            while connection.poll():
                connection.recv()
        except (EOFError, OSError):
            self.drop(task)

    def fill(self) -> None:
        """Submit the jobs that are missing. Raises RequestError when Slurm refuses the first ones of a run."""
        n_there = len(self._tasks) + len(self._failures)  # a failure is told to a worker that waits
        n_missing = -((n_there - self.n_workers_wanted) // self._queue.n_tasks)
        if n_missing <= 0 or time.monotonic() < self._next_submission_s:
            return
        try:
            jobs = self._queue.submit(n_missing, self._address)
        except RequestError as error:
            if not self._has_submitted:
                raise
            logger.warning("%d jobs are missing, and Slurm is asked again in %g s: %s", n_missing, RETRY_S, error)
            self._next_submission_s = time.monotonic() + RETRY_S
        else:
            self._has_submitted = True
            self._tasks += [JobTask(job, rank) for job in jobs for rank in range(self._queue.n_tasks)]
            self._next_query_s = time.monotonic() + FIRST_QUERY_S

    # Jobs that have not begun.

    def _query_states(self) -> None:
        waiting = sorted({task.job for task in self._tasks if task.connection is None})
        if self._states_query is not None and self._states_query.done():
            states, self._states_query = self._states_query.result(), None
            self._on_states({job: state for job, state in (states or {}).items() if job in waiting})
        elif self._states_query is None and waiting and time.monotonic() >= self._next_query_s:
            self._next_query_s = time.monotonic() + QUERY_EVERY_S
            self._states_query = self._commands.submit(self._queue.states, waiting)

    def _on_states(self, states: dict[str, JobState]) -> None:
        for job, state in states.items():
            if state.state in FAILED + ENDED_BY_OTHERS:
                task = next(one for one in self._tasks if one.job == job)
                words = f"{task.name} ended before it could work ({state.state}); {self.drop(task)}"
                if state.state in FAILED:
                    self._failures.append(words)
                else:
                    logger.warning("Slurm is asked for another job in %g s: %s", RETRY_S, words)
                    self._next_submission_s = time.monotonic() + RETRY_S
        pending = [state.reason for state in states.values() if state.state == "PENDING"]
        reasons = sorted(set(pending) - {"None"})
        if new := ", ".join(reason for reason in reasons if reason not in self._announced):
            self._announced.update(reasons)
            n_jobs = len({task.job for task in self._tasks})
            logger.warning("%d of %d jobs wait in Slurm's queue (%s)", len(pending), n_jobs, new)
