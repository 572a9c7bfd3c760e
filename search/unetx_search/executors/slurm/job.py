"""What a job of Slurm runs: it calls the coordinator and holds workers for it, one after the other, until one of them
goes or Slurm ends the job."""

from __future__ import annotations

import signal
import socket
import threading
from queue import SimpleQueue
from typing import Any

import submitit

from unetx_search.executors.messages import ConnectionLost, Exited, Report
from unetx_search.executors.slurm.link import Coordinator, Joined, Line
from unetx_search.executors.worker_holder import Start, WorkerHolder

ENDING = (signal.SIGTERM, signal.SIGUSR2)
"""From Slurm: the job is cancelled or preempted; its time is nearly up."""


def hold_workers(coordinator: Coordinator) -> None:
    """The job. Ends when the coordinator hangs up, or has gone, and when Slurm says so."""
    job = submitit.JobEnvironment()
    line = coordinator.call(Joined(job.job_id, job.global_rank, socket.gethostname()))
    _Holding(line, f"Slurm job {job.job_id} on {socket.gethostname()}").go_on()


class _Holding:
    """The job's end of the line: the main thread starts workers and reports, another one listens.

    Everything that is said about a worker carries its number, so that what comes late concerns nobody.
    """

    def __init__(self, line: Line, name: str) -> None:
        self._line = line
        self._name = name
        self._waiting: SimpleQueue[tuple[int, WorkerHolder] | None] = SimpleQueue()
        self._newest: tuple[int, WorkerHolder] | None = None
        self._leaving = ""
        """Why the job ends."""
        for number in ENDING:  # in place of submitit's own handlers
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._listen, name="line", daemon=True).start()

    def go_on(self) -> None:
        """Hold workers until the job is to end."""
        while (begun := self._waiting.get()) is not None and not self._leaving:
            number, holder = begun
            for report in holder.reports():
                if isinstance(report, Exited) and self._leaving:  # its end says nothing about its trial
                    self._tell(number, ConnectionLost(self._leaving))
                    return
                self._tell(number, report)
            self._tell(number, ConnectionLost("what it held is free again"))

    def _tell(self, number: int, report: Report) -> None:
        try:
            self._line.send((number, report))
        except OSError:
            self._leave("the coordinator has gone")

    def _listen(self) -> None:
        try:
            while True:
                number, method, *given = self._line.recv()
                self._heed(number, method, given)
        except (EOFError, OSError):
            self._leave("the coordinator has gone")

    def _heed(self, number: int, method: str, given: list[Any]) -> None:
        if method == "start":
            [start] = given
            assert isinstance(start, Start)
            self._newest = number, WorkerHolder(start)
            self._waiting.put(self._newest)
        elif self._newest is not None and self._newest[0] == number:
            self._newest[1].request(method, *given)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._leave(f"{self._name} was told to end by {signal.Signals(number).name}")

    def _leave(self, reason: str) -> None:
        """End the job soon, from any thread."""
        self._leaving = self._leaving or reason
        if self._newest is not None:
            self._newest[1].request("kill")
        self._waiting.put(None)
