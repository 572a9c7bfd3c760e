"""A slot whose worker died on a GPU takes no job before the memory is free again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping

import pytest
from executor_helpers import TASK, Recorder, job, poll_until

from unetx_evaluators.evaluation import Budget
from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_search.executors.gpu_memory_wait import TIMEOUT_S, MemoryWatch
from unetx_search.executors.gpus import Gpu
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.slots import Slot, make_slots

GPU = Gpu(0, "GPU-0", "Pretended")


class Clock:
    """Goes on only when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def slots(workers_per_gpu: int = 1) -> tuple[Slot, ...]:
    return make_slots("all", workers_per_gpu=workers_per_gpu, probe=lambda: (GPU,), n_cores=4)


class Probe:
    """Answers what it is given, one after another, the last for ever."""

    def __init__(self, *free_mib: int | None) -> None:
        self._answers: Iterator[int | None] = iter(free_mib)
        self._last: int | None = None
        self.n_asked = 0

    def __call__(self) -> Mapping[str, int]:
        self.n_asked += 1
        self._last = next(self._answers, self._last)
        return {} if self._last is None else {"GPU-0": self._last}


def looks(probe: Probe, clock: Clock, slots: tuple[Slot, ...], n_looks: int) -> list[bool]:
    """What a slot is told at looks half a second apart."""
    is_free = MemoryWatch(slots, probe=probe, clock=clock).wait_for(slots[0])
    answers = []
    for _ in range(n_looks):
        answers.append(is_free())
        clock.now_s += 0.5
    return answers


def test_alone_on_a_gpu_a_slot_waits_for_what_was_free_at_first() -> None:
    probe = Probe(900, 200, 200, 640, 650)
    assert looks(probe, Clock(), slots(), 4) == [False, False, False, True]


def test_on_a_shared_gpu_a_slot_waits_until_no_more_is_coming() -> None:
    probe = Probe(900, 200, 300, 400, 380)
    assert looks(probe, Clock(), slots(2), 4) == [False, False, False, True]


def test_the_wait_ends_after_a_minute_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    is_free = MemoryWatch(slots(), probe=Probe(900, 100), clock=clock).wait_for(slots()[0])
    assert not is_free()
    clock.now_s = TIMEOUT_S
    with caplog.at_level(logging.WARNING):
        assert is_free()
    assert "GPU-0 has 100 MiB free a minute after its worker died" in caplog.text


def test_looks_are_at_most_two_a_second() -> None:
    probe, clock = Probe(900, 100), Clock()
    is_free = MemoryWatch(slots(), probe=probe, clock=clock).wait_for(slots()[0])
    for _ in range(10):
        is_free()
    assert probe.n_asked == 2, "once at the start, once now"


def test_where_the_driver_does_not_answer_nobody_waits() -> None:
    assert MemoryWatch(slots(), probe=Probe(None), clock=Clock()).wait_for(slots()[0])()
    assert MemoryWatch(slots(), probe=Probe(900), clock=Clock()).wait_for(slots()[0])(), "what was free is free"


def test_a_driver_that_hangs_keeps_nobody_and_a_minute_later_the_slot_is_used_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody answers before the test lets it; the coordinator, whose thread this is, goes on."""
    clock, freed, n_asked = Clock(), threading.Event(), 0

    def hung() -> Mapping[str, int]:
        nonlocal n_asked
        n_asked += 1
        if n_asked > 1:
            freed.wait(60.0)
        return {"GPU-0": 900}

    is_free = MemoryWatch(slots(), probe=hung, clock=clock).wait_for(slots()[0])
    for _ in range(3):
        assert not is_free()
        clock.now_s += 1.0
    assert n_asked == 2, "one question at a time"
    clock.now_s = TIMEOUT_S
    assert is_free()
    assert "has not answered for a minute" in caplog.text
    freed.set()


def test_a_cpu_slot_never_waits_and_asks_no_driver() -> None:
    probe = Probe(900)
    cpu = make_slots(0, cpu_workers=2, n_cores=2)
    assert MemoryWatch(cpu, probe=probe, clock=Clock()).wait_for(cpu[0])()
    assert probe.n_asked == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("misdeed", [InjectedFault.KILL, InjectedFault.HANG])
def test_a_slot_is_free_again_only_when_its_memory_is(misdeed: InjectedFault) -> None:
    free = {"GPU-0": 900}

    def probe() -> Mapping[str, int]:
        return free

    evaluator = FakeEvaluator(acts_by_seed={1: misdeed})
    told = Recorder()
    hasty = Budget(steps=1, batch_size=1, width_factor=1.0, rungs=(1,), validation_cases=1, max_seconds=0.05)
    with LocalExecutor(evaluator, TASK, slots(), overtime_s=0.1, free_memory=probe) as executor:
        executor.submit(job(0, seed=1, budget=hasty))
        free = {"GPU-0": 100}
        poll_until(executor, told, lambda: told.n_ended == 1)
        executor.poll(told, 0.0)
        assert executor.n_free() == 0
        with pytest.raises(RuntimeError, match="none of 1 slots is free"):
            executor.submit(job(1))
        free = {"GPU-0": 890}
        poll_until(executor, told, lambda: executor.n_free() == 1)
        executor.submit(job(1))
        poll_until(executor, told, lambda: 1 in told.finished)
