"""A seat on another node: what runs there, and the words that go back and forth. Nothing here knows how they travel.

On the node a keeper holds one seat of the same kind as on this machine: a spawned worker process, pinned to its
device, replaced when it dies, killed when it hangs. So an exit code, a log and a limit mean the same everywhere, and
the death of the keeper itself, which runs nobody's code, means that something is wrong with the node.

Orders go there and events come back, both numbered. Each side keeps what it has said until the other has confirmed
it, and says it again with the next exchange; what comes twice is heard once. So a connection that breaks in between
loses nothing and doubles nothing.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType

from unetx_evaluators.evaluation import CurvePoint, Evaluation
from unetx_search.executors.base import Handler, Job
from unetx_search.executors.local import Seat
from unetx_search.executors.memory import MemoryWatch
from unetx_search.executors.process import end_all
from unetx_search.executors.ray.reach import Reach
from unetx_search.executors.slots import THREAD_VARIABLES, Device, GpuProbe, Slot, nvidia_smi_probe
from unetx_search.executors.worker import DiskFull, Finished, Left, ReachedRung, Setup, Started, Stepped
from unetx_space.errors import UnetxError
from unetx_studies.disk_full import StorageFull
from unetx_studies.processes import ProcessIdentity

LOOK_EVERY_S = 0.5
"""At a seat at work: for what no pipe tells, such as a limit that is reached."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What a keeper is sent with."""

    worker: int
    device: Device
    n_threads: int
    workers_per_gpu: int
    setup: Setup
    reach: Reach
    log_folder: Path | None
    overtime_s: float
    version: str
    """Of the coordinator's unetx-search."""


@dataclass(frozen=True, slots=True)
class Answer:
    """To the keeper: what to do at the rung that the job has reported."""

    prune: bool


@dataclass(frozen=True, slots=True)
class Interrupt:
    """To the keeper: the job under way is to be left at its next step."""


@dataclass(frozen=True, slots=True)
class Close:
    """To the keeper: end the worker process, and answer with Closed."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Up:
    """From the keeper, first of all: where it is, and what it cannot reach."""

    node: str
    """The cluster's name for the node."""
    host: str
    label: str
    """Of the device, for people."""
    problem: str
    """Why it can do no work; empty when it can."""


@dataclass(frozen=True, slots=True)
class Lost:
    """From the keeper: the worker process died under the job."""

    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Failed:
    """From the keeper, which gives up: worker processes cannot be started."""

    message: str


@dataclass(frozen=True, slots=True)
class Broke:
    """From the keeper: a bug of ours."""

    traceback: str


@dataclass(frozen=True, slots=True)
class Closed:
    """From the keeper: no process is left."""


Order = Job | Answer | Interrupt | Close
Event = Up | Started | Stepped | ReachedRung | Finished | Left | DiskFull | Lost | Failed | Broke | Closed


@dataclass(frozen=True, slots=True)
class Reply:
    """What an exchange answers."""

    n_orders: int
    """Orders heard so far."""
    first: int
    """Number of the first event below."""
    events: tuple[Event, ...]


class Closing(BaseException):
    """Leads out of whatever the keeper is doing."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.timeout_s = timeout_s


class Mail:
    """The keeper's end of the line. Everything may be called from any thread; orders are taken by one."""

    def __init__(self) -> None:
        self.bell, self._rope = multiprocessing.Pipe(duplex=False)
        """The first is readable while there are orders."""
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._n_confirmed = 0
        self._n_orders = 0
        self._orders: SimpleQueue[Order] = SimpleQueue()

    def exchange(self, n_events: int, orders: Sequence[tuple[int, Order]], wait_s: float) -> Reply:
        """Hear orders, each with its number counted from 0; answer with the events after the first ``n_events``.

        Waits up to ``wait_s`` for an event.
        """
        with self._changed:
            for number, order in orders:
                if number == self._n_orders:
                    self._n_orders += 1
                    self._orders.put(order)
                    self._rope.send_bytes(b".")
            while self._events and self._n_confirmed < n_events:
                self._events.popleft()
                self._n_confirmed += 1
            self._changed.wait_for(lambda: bool(self._events), wait_s)
            return Reply(self._n_orders, self._n_confirmed, tuple(self._events))

    def tell(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def next_order(self) -> Order:
        """Waits for one."""
        self.bell.recv_bytes()
        return self._orders.get()


class Keeper(Handler):
    """Holds one seat on this node, in a thread of its own."""

    def __init__(self, errand: Errand, mail: Mail, node: str) -> None:
        self._errand = errand
        self._mail = mail
        self._node = node
        self._host = socket.gethostname()
        slot = slot_here(errand, self._host)
        self._label = slot.label
        watch = MemoryWatch([slot] * errand.workers_per_gpu)
        self._seat = Seat(slot, errand.setup, itertools.count(1), errand.log_folder, errand.overtime_s, watch)
        self._job: Job | None = None
        """One that waits for the seat to be fit again."""
        threading.Thread(target=self._keep, name="keeper", daemon=True).start()

    def _keep(self) -> None:
        try:
            self._serve()
        except Closing:
            self._mail.tell(Closed())
        except UnetxError as error:
            self._mail.tell(Failed(str(error)))
        except BaseException:  # noqa: BLE001  nobody hears a thread die; the coordinator raises it as the bug it is
            self._mail.tell(Broke(traceback.format_exc()))

    def _serve(self) -> None:
        """Say hello, then keep the seat until told to close."""
        errand = self._errand
        problem = _other_version(errand.version, self._host) or errand.reach.problem(errand.worker, self._host)
        _forget_main_module()
        self._mail.tell(Up(self._node, self._host, self._label, problem))
        timeout_s = 0.0
        try:
            while True:
                self._look()
        except Closing as closing:
            timeout_s = closing.timeout_s
            raise
        finally:
            process = self._seat.vacate()
            end_all([] if process is None else [process], timeout_s)

    def _look(self) -> None:
        """Wait until something happens at the seat or an order comes, and see to it."""
        wait([self._mail.bell, *self._seat.sources()], LOOK_EVERY_S)
        while self._mail.bell.poll():
            self._obey(self._mail.next_order())
        try:
            self._seat.attend(self)
        except StorageFull as error:
            self._mail.tell(DiskFull(str(error)))
        if self._job is not None and self._seat.free:
            self._seat.take(self._job)
            self._job = None

    def _obey(self, order: Order) -> None:
        match order:
            case Job():
                self._job = order
            case Interrupt() if self._job is not None:
                self._job = None
                self._mail.tell(Left())
            case Interrupt():
                self._seat.interrupt()
            case Close():
                raise Closing(order.timeout_s)
            case Answer():
                pass  # its job was interrupted before it came

    # The seat's events, told on.

    def on_started(self, trial: int, worker: int, device: str, process: ProcessIdentity) -> None:
        self._mail.tell(Started(process))

    def on_step(self, trial: int, step: int) -> None:
        self._mail.tell(Stepped(step))

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        self._mail.tell(ReachedRung(point))
        while True:
            order = self._mail.next_order()
            if isinstance(order, Answer):
                return order.prune
            self._obey(order)
            if isinstance(order, Interrupt):
                return False

    def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self._mail.tell(Finished(evaluation))

    def on_lost(self, trial: int, worker: int, evaluation: Evaluation) -> None:
        self._mail.tell(Lost(evaluation))

    def on_displaced(self, trial: int, reason: str) -> None:
        raise AssertionError("a seat's worker is on the keeper's own node")

    def on_interrupted(self, trial: int) -> None:
        self._mail.tell(Left())


def slot_here(errand: Errand, host: str, probe: GpuProbe = nvidia_smi_probe) -> Slot:
    """The seat's slot on this node, on the device in CUDA_VISIBLE_DEVICES, which the cluster gave to the keeper."""
    threads = dict.fromkeys(THREAD_VARIABLES, str(errand.n_threads))
    if errand.device == "cpu":
        hidden = {"CUDA_VISIBLE_DEVICES": "", **threads}
        return Slot(errand.worker, "cpu", f"CPU on {host}", hidden, errand.n_threads)
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpu = next(iter(probe()), None)
    name, uuid = (gpu.label, gpu.uuid) if gpu is not None else (f"GPU {given}", given)
    pinned = {"CUDA_VISIBLE_DEVICES": uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", **threads}
    return Slot(errand.worker, "cuda", f"{name} on {host}", pinned, errand.n_threads)


def _other_version(expected: str, host: str) -> str:
    found = version("unetx-search")
    if found == expected:
        return ""
    return (
        f"coordinator and workers run the same unetx-search; the coordinator has {expected}, {host} has {found}: "
        "install one version on all nodes"
    )


def _forget_main_module() -> None:
    """Spawned workers run their parent's main module anew; here that would be the cluster's own program."""
    sys.modules["__main__"] = ModuleType("__main__")
