"""A seat elsewhere without a cluster: words that get lost and come twice, and what a keeper makes of its orders."""

from __future__ import annotations

import pickle
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from types import ModuleType

import pytest
from executor_helpers import DEADLINE_S, LONG, TASK, job

from unetx_evaluators.evaluation import Outcome
from unetx_evaluators.fake import FakeEvaluator, Misdeed
from unetx_search.executors.ray import remote
from unetx_search.executors.ray.reach import Reach
from unetx_search.executors.ray.remote import (
    Answer,
    Broke,
    Close,
    Closed,
    Errand,
    Event,
    Interrupt,
    Keeper,
    Mail,
    Order,
    Up,
    slot_here,
)
from unetx_search.executors.slots import Gpu
from unetx_search.executors.worker import Finished, Left, ReachedRung, Setup, Started, Stepped

pytestmark = pytest.mark.timeout(120)

ERRAND = Errand(
    worker=3,
    device="cpu",
    n_threads=1,
    workers_per_gpu=1,
    setup=Setup(pickle.dumps((FakeEvaluator(), TASK))),
    reach=Reach.of(TASK, None),
    log_folder=None,
    overtime_s=60.0,
    version=version("unetx-search"),
)


@pytest.fixture(autouse=True)
def _main_module_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper forgets its process's main module, which here is pytest's."""
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))


class Caller:
    """The coordinator's end, on a line that works."""

    def __init__(self, mail: Mail) -> None:
        self._mail = mail
        self._n_orders = 0
        self.events: list[Event] = []

    def send(self, order: Order) -> None:
        self._mail.exchange(len(self.events), [(self._n_orders, order)], 0.0)
        self._n_orders += 1

    def hear_until(self, done: Callable[[Event], bool]) -> Event:
        """The first new event of that kind."""
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            reply = self._mail.exchange(len(self.events), [], 0.2)
            for event in reply.events:
                self.events.append(event)
                if done(event):
                    return event
        raise AssertionError(f"nothing more came after {self.events}")

    def hear(self, kind: type[Event]) -> Event:
        return self.hear_until(lambda event: isinstance(event, kind))


@contextmanager
def keeper(evaluator: FakeEvaluator | None = None, errand: Errand = ERRAND) -> Iterator[Caller]:
    """A keeper of a seat for the evaluator, closed at the end."""
    caller = kept(evaluator or FakeEvaluator(), errand)
    yield caller
    assert is_closed(caller)


def kept(evaluator: FakeEvaluator, errand: Errand = ERRAND) -> Caller:
    mail = Mail()
    Keeper(replace(errand, setup=Setup(pickle.dumps((evaluator, TASK)))), mail, "node")
    return Caller(mail)


def is_closed(caller: Caller) -> bool:
    caller.send(Close(5.0))
    return isinstance(caller.hear(Closed), Closed)


@pytest.mark.parametrize("seed", range(20))
def test_on_a_line_that_loses_and_repeats_every_word_is_heard_once_and_in_order(seed: int) -> None:
    rng = random.Random(seed)
    mail, unconfirmed = Mail(), deque[tuple[int, Order]]()
    heard: list[Event] = []
    obeyed: list[Order] = []
    n_sent = n_told = 0
    orders = [Answer(prune=bool(rng.getrandbits(1))) for _ in range(30)]
    while len(heard) < 30 or len(obeyed) < 30:
        if n_sent < 30 and rng.random() < 0.5:
            unconfirmed.append((n_sent, orders[n_sent]))
            n_sent += 1
        if n_told < 30 and rng.random() < 0.5:
            mail.tell(Stepped(n_told))
            n_told += 1
        if rng.random() < 0.3:
            continue  # the question was lost on its way
        stale = len(heard) if rng.random() < 0.7 else rng.randrange(len(heard) + 1)
        reply = mail.exchange(stale, list(unconfirmed), 0.0)
        while mail.bell.poll():
            obeyed.append(mail.next_order())
        if rng.random() < 0.3:
            continue  # the answer was lost
        while unconfirmed and unconfirmed[0][0] < reply.n_orders:
            unconfirmed.popleft()
        heard.extend(event for n, event in enumerate(reply.events, reply.first) if n >= len(heard))
    assert heard == [Stepped(n) for n in range(30)]
    assert obeyed == orders


def test_a_keeper_says_where_it_is_and_runs_a_job_with_its_rungs_answered() -> None:
    with keeper() as caller:
        up = caller.hear(Up)
        assert isinstance(up, Up)
        assert (up.node, up.problem, up.label) == ("node", "", f"CPU on {up.host}")
        caller.send(job(7))
        for prune in (False, True):
            caller.hear(ReachedRung)
            caller.send(Answer(prune))
        finished = caller.hear(Finished)
        assert isinstance(finished, Finished)
        assert finished.evaluation.outcome is Outcome.PRUNED
    assert [type(event) for event in caller.events if not isinstance(event, Stepped)] == [
        Up,
        Started,
        ReachedRung,
        ReachedRung,
        Finished,
        Closed,
    ]


def test_an_interrupt_in_place_of_an_answer_leaves_the_job_and_a_late_answer_reaches_no_other() -> None:
    with keeper() as caller:
        caller.send(job(0))
        caller.hear(ReachedRung)
        caller.send(Interrupt())
        caller.send(Answer(prune=True))
        caller.hear(Left)
        caller.send(job(1))
        for _ in range(2):
            caller.hear(ReachedRung)
            caller.send(Answer(prune=False))
        finished = caller.hear(Finished)
        assert isinstance(finished, Finished)
        assert finished.evaluation.outcome is Outcome.COMPLETE


def test_a_keeper_that_waits_at_a_rung_or_at_work_can_be_closed() -> None:
    at_a_rung = kept(FakeEvaluator())
    at_a_rung.send(job(0))
    assert isinstance(at_a_rung.hear(ReachedRung), ReachedRung)
    assert is_closed(at_a_rung)
    at_work = kept(FakeEvaluator(acts_by_seed={0: Misdeed.HANG}))
    at_work.send(job(0, budget=LONG))
    assert isinstance(at_work.hear(Started), Started)
    assert is_closed(at_work)


def test_another_version_is_told_and_not_tried() -> None:
    with keeper(errand=replace(ERRAND, version="0.0.1")) as caller:
        up = caller.hear(Up)
    assert isinstance(up, Up)
    assert "the coordinator has 0.0.1" in up.problem
    assert "install one version on all nodes" in up.problem


def test_a_bug_in_the_keeper_is_told_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(remote, "_other_version", fail)
    mail = Mail()
    Keeper(ERRAND, mail, "node")
    broke = Caller(mail).hear(Broke)
    assert isinstance(broke, Broke)
    assert "ZeroDivisionError: a bug" in broke.traceback


def test_a_gpu_seat_is_on_the_device_that_the_cluster_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    errand = replace(ERRAND, device="cuda", n_threads=4)
    pretended = slot_here(errand, "node7", probe=tuple)
    assert (pretended.index, pretended.label, pretended.n_threads) == (3, "GPU 1 on node7", 4)
    assert pretended.environment["CUDA_VISIBLE_DEVICES"] == "1"
    real = slot_here(errand, "node7", probe=lambda: (Gpu(1, "GPU-abc", "NVIDIA H200"),))
    assert real.label == "GPU 1: NVIDIA H200 on node7"
    assert real.environment == {
        "CUDA_VISIBLE_DEVICES": "GPU-abc",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OMP_NUM_THREADS": "4",
        "MKL_NUM_THREADS": "4",
        "OPENBLAS_NUM_THREADS": "4",
    }


def test_a_cpu_seat_hides_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    slot = slot_here(ERRAND, "node7", probe=lambda: (Gpu(0, "GPU-abc", "NVIDIA H200"),))
    assert (slot.device, slot.label, slot.environment["CUDA_VISIBLE_DEVICES"]) == ("cpu", "CPU on node7", "")
