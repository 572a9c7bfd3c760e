"""On a node of a cluster: what holds a worker there for a coordinator elsewhere, and streams what it reports.

So an exit code, a log and a limit mean the same as on the coordinator's machine, and no code of an evaluator runs in
what the cluster started.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType

from unetx_search.executors.gpu_memory_wait import MemoryWatch
from unetx_search.executors.gpus import GpuProbe, usable_gpus
from unetx_search.executors.messages import Exited, Order, Report, Unfit
from unetx_search.executors.shared_files_check import SharedFilesCheck
from unetx_search.executors.slots import Slot
from unetx_search.executors.worker_handle import WorkerProcess

LOOK_EVERY_S = 0.5
"""Seconds between looks for what no pipe tells, such as memory that is free again."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker on a node is started with."""

    slot: Slot
    """The slot, whose device the cluster decides."""
    log_file: Path | None
    workers_per_gpu: int
    files: SharedFilesCheck
    version: str
    """The version of the coordinator's unetx-search."""


class WorkerHolder:
    """Holds one worker on a node. One thread reads its reports and does what others request."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._requests: SimpleQueue[tuple[str, tuple[Order, ...]]] = SimpleQueue()
        self._wakeup, self._wakeup_sender = multiprocessing.Pipe(duplex=False)

    def request(self, method: str, *orders: Order) -> None:
        """Have a method of the worker's handle called, from any thread."""
        self._requests.put((method, orders))
        self._wakeup_sender.send_bytes(b".")

    def reports(self) -> Iterator[Report]:
        """Start the worker and yield its reports; ends when the worker has exited and its memory is free again."""
        spec, host, found = self._spec, socket.gethostname(), version("unetx-search")
        if found != spec.version:
            rule = f"coordinator and workers run the same unetx-search; the coordinator has {spec.version}"
            yield Unfit(f"{rule}, {host} has {found}: install one version on all nodes")
            return
        if problem := spec.files.problem(spec.slot.index, host):
            yield Unfit(problem)
            return
        sys.modules["__main__"] = ModuleType("__main__")  # spawned workers run it anew; here it is the cluster's own
        slot = slot_on_node(spec.slot, host, spec.workers_per_gpu)
        worker = WorkerProcess(slot, spec.log_file, MemoryWatch([slot] * spec.workers_per_gpu).wait_for)
        report: Report | None = None
        while not isinstance(report, Exited):
            wait([self._wakeup, *worker.sources], LOOK_EVERY_S)
            while self._wakeup.poll():
                self._wakeup.recv_bytes()
                method, orders = self._requests.get()
                getattr(worker, method)(*orders)
            while not isinstance(report, Exited) and (report := worker.receive()) is not None:
                yield report
        while not worker.is_released():
            time.sleep(LOOK_EVERY_S)


def slot_on_node(slot: Slot, host: str, workers_per_gpu: int = 1, probe: GpuProbe = usable_gpus) -> Slot:
    """Return the slot on this node, on the device that the cluster gave in CUDA_VISIBLE_DEVICES."""
    if slot.device == "cpu":
        return Slot.on_cpu(slot.index, f"CPU on {host}", slot.n_threads)
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpu = next(iter(probe()), None)
    label, uuid = (f"GPU {given}", given) if gpu is None else (gpu.label, gpu.uuid)
    return Slot.on_gpu(slot.index, f"{label} on {host}", uuid, slot.n_threads, workers_per_gpu)
