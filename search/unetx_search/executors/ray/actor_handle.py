"""A worker on a node of a Ray cluster: an actor holds the worker's process there, and streams what it reports.

So an exit code, a log and a limit mean the same as on this machine, and no code of an evaluator runs in the actor. Its
stream is read once: whatever breaks it, the actor, the node or the network, loses the worker, and another is started.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from unetx_search.executors.gpu_memory_wait import MemoryWatch
from unetx_search.executors.gpus import GpuProbe, usable_gpus
from unetx_search.executors.messages import ConnectionLost, Exited, Hello, Order, Report, Unfit
from unetx_search.executors.ray.shared_files_check import SharedFilesCheck
from unetx_search.executors.slots import Slot
from unetx_search.executors.worker_handle import WorkerHandle, WorkerProcess
from unetx_space.errors import UnetxError

LOOK_EVERY_S = 0.5
"""For what no pipe tells, such as memory that is free again."""
RESOLUTION = 10_000
"""Ray counts fractions of a GPU in ten-thousandths."""


@dataclass(frozen=True, slots=True)
class Start:
    """What an actor is to start a worker with."""

    slot: Slot
    """As the cluster has it; the device is for Ray to say."""
    log_file: Path | None
    workers_per_gpu: int
    files: SharedFilesCheck
    version: str
    """Of the coordinator's unetx-search."""


class WorkerActor:
    """The actor. One thread reports and does with the worker what others ask for."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._requests: SimpleQueue[tuple[str, tuple[Order, ...]]] = SimpleQueue()
        self._bell, self._bell_rope = multiprocessing.Pipe(duplex=False)

    def request(self, method: str, *orders: Order) -> None:
        """Call a method of the worker's handle."""
        self._requests.put((method, orders))
        self._bell_rope.send_bytes(b".")

    def reports(self) -> Iterator[Report]:
        """Start the worker; everything it reports, and nothing more once what it held is free again."""
        start, host, found = self._start, socket.gethostname(), version("unetx-search")
        if found != start.version:
            rule = f"coordinator and workers run the same unetx-search; the coordinator has {start.version}"
            yield Unfit(f"{rule}, {host} has {found}: install one version on all nodes")
            return
        if problem := start.files.problem(start.slot.index, host):
            yield Unfit(problem)
            return
        sys.modules["__main__"] = ModuleType("__main__")  # spawned workers run it anew; here it is Ray's own program
        slot = slot_here(start.slot, host, start.workers_per_gpu)
        worker = WorkerProcess(slot, start.log_file, MemoryWatch([slot] * start.workers_per_gpu).wait_for)
        report: Report | None = None
        while not isinstance(report, Exited):
            wait([self._bell, *worker.sources], LOOK_EVERY_S)
            while self._bell.poll():
                self._bell.recv_bytes()
                method, orders = self._requests.get()
                getattr(worker, method)(*orders)
            while not isinstance(report, Exited) and (report := worker.receive()) is not None:
                yield report
        while not worker.is_released():
            time.sleep(LOOK_EVERY_S)


def slot_here(slot: Slot, host: str, workers_per_gpu: int = 1, probe: GpuProbe = usable_gpus) -> Slot:
    """The slot on this node, on the device in CUDA_VISIBLE_DEVICES, which the cluster gave to the actor."""
    if slot.device == "cpu":
        return Slot.on_cpu(slot.index, f"CPU on {host}", slot.n_threads)
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpu = next(iter(probe()), None)
    label, uuid = (f"GPU {given}", given) if gpu is None else (gpu.label, gpu.uuid)
    return Slot.on_gpu(slot.index, f"{label} on {host}", uuid, slot.n_threads, workers_per_gpu)


class WorkerOnRay(WorkerHandle):
    """The handle of a worker on a cluster. The constructor asks Ray for its actor, which comes when there is room."""

    def __init__(self, start: Start) -> None:
        share = RESOLUTION // start.workers_per_gpu / RESOLUTION
        needs = {"num_cpus": 0, "num_gpus": share} if start.slot.device == "cuda" else {"num_cpus": 1, "num_gpus": 0}
        options = {**needs, "max_restarts": 0, "max_concurrency": 2, "scheduling_strategy": "SPREAD"}
        self._start = start
        self._actor = ray.remote(WorkerActor).options(**options).remote(start)
        self._stream = self._actor.reports.options(num_returns="streaming").remote()
        self._requests: list[Any] = []
        """Those of which it is not known whether they have arrived."""
        self._is_up = False

    @property
    def sources(self) -> list[Any]:
        """What Ray can wait for: the next report, or news of a request."""
        return [self._stream, *self._requests]

    def send(self, order: Order) -> None:
        self._request("send", order)

    def _request(self, method: str, *orders: Order) -> None:
        self._requests.append(self._actor.request.remote(method, *orders))

    def receive(self) -> Report | None:
        if self._actor is None:
            return ConnectionLost("it was given up")
        try:
            for request in self._requests.copy():
                if ray.wait([request], timeout=0)[0]:
                    ray.get(request)
                    self._requests.remove(request)
            if not ray.wait([self._stream], timeout=0)[0]:
                return None
            report: Report = ray.get(next(self._stream))
            if isinstance(report, Hello):
                self._is_up = True
                self._start.files.confirm(self._start.slot.index, report.label)
        except RayTaskError:
            raise  # a bug of ours
        except RayError as error:
            return ConnectionLost(_account(error))
        except StopIteration:
            return ConnectionLost("its stream of reports ended")
        except UnetxError as error:
            return Unfit(str(error))
        return report

    def hang_up(self) -> None:
        if self._is_up:
            self._request("hang_up")
        else:  # it may not have a place yet, and has nothing to lose
            self.release()

    def kill(self) -> None:
        if self._actor is not None:
            self._request("kill")

    def is_released(self) -> bool:
        return isinstance(self.receive(), ConnectionLost)

    def release(self) -> None:
        if self._actor is not None and ray.is_initialized():
            with suppress(RayError):
                ray.kill(self._actor, no_restart=True)
        self._actor = None


def wait_for_reports(workers: Sequence[WorkerOnRay], timeout_s: float) -> None:
    """Wait until one of the workers has something to tell."""
    sources = [source for worker in workers for source in worker.sources]
    if sources:
        ray.wait(sources, num_returns=1, timeout=timeout_s)
    else:
        time.sleep(min(timeout_s, LOOK_EVERY_S))


def _account(error: RayError) -> str:
    """Ray's account of a death in one line, without colours, the names of our own class and its guesses."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()]
    own = ("class_name:", "actor_id:", "pid:", "namespace:", "ip:", "name:", "The actor died unexpectedly")
    account = " ".join(line for line in lines if line and not line.startswith(own))
    return re.split(r"(?:Some common causes|There are some potential root causes)", account)[0].strip()[:1000]
