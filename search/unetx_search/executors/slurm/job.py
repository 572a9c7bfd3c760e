"""What a job of Slurm runs: it connects to the coordinator and holds one worker after another for it.

It ends when the coordinator does, or when Slurm ends it.
"""

from __future__ import annotations

import signal
import socket
import threading
from queue import SimpleQueue
from typing import Any

import submitit

from unetx_search.executors.messages import ConnectionLost, Exited, Report
from unetx_search.executors.slurm.connection import CoordinatorAddress, JobConnection, Joined
from unetx_search.executors.worker_holder import WorkerHolder, WorkerSpec

END_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""Slurm's signals to a job that is cancelled or preempted, and to one whose time is nearly up."""


def hold_workers(coordinator: CoordinatorAddress) -> None:
    """Hold workers as a task of a job; returns when the coordinator ends the connection or Slurm the job."""
    job = submitit.JobEnvironment()
    connection = coordinator.connect(Joined(job.job_id, job.global_rank, socket.gethostname()))
    _JobTask(connection, f"Slurm job {job.job_id} on {socket.gethostname()}").run()


class _JobTask:
    """A task of a job: its main thread starts workers and reports, another one reads the coordinator's messages.

    Every message about a worker carries its number, so that what comes late concerns nobody.
    """

    def __init__(self, connection: JobConnection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._waiting: SimpleQueue[tuple[int, WorkerHolder] | None] = SimpleQueue()
        self._newest: tuple[int, WorkerHolder] | None = None
        self._end_reason = ""
        """Why the job ends; empty while it goes on."""
        for number in END_SIGNALS:  # in place of submitit's own handlers
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._listen, name="messages", daemon=True).start()

    def run(self) -> None:
        """Hold workers until the job is to end."""
        while (newest := self._waiting.get()) is not None and not self._end_reason:
            number, holder = newest
            for report in holder.reports():
                if isinstance(report, Exited) and self._end_reason:  # its end says nothing about its trial
                    self._report(number, ConnectionLost(self._end_reason))
                    return
                self._report(number, report)
            self._report(number, ConnectionLost("what it held is free again"))

    def _report(self, number: int, report: Report) -> None:
        try:
            self._connection.send((number, report))
        except OSError:
            self._end("the coordinator has gone")

    def _listen(self) -> None:
        try:
            while True:
                number, method, *given = self._connection.recv()
                self._on_message(number, method, given)
        except (EOFError, OSError):
            self._end("the coordinator has gone")

    def _on_message(self, number: int, method: str, given: list[Any]) -> None:
        if method == "start":
            [spec] = given
            assert isinstance(spec, WorkerSpec)
            self._newest = number, WorkerHolder(spec)
            self._waiting.put(self._newest)
        elif self._newest is not None and self._newest[0] == number:
            self._newest[1].request(method, *given)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._end(f"{self._name} was told to end by {signal.Signals(number).name}")

    def _end(self, reason: str) -> None:
        """End the job soon; any thread may ask for it."""
        self._end_reason = self._end_reason or reason
        if self._newest is not None:
            self._newest[1].request("kill")
        self._waiting.put(None)
