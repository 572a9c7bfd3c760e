"""What worker processes on this machine see, survive and leave behind, beside what test_executors.py asks of all."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_helpers import (
    DEADLINE_S,
    LONG,
    TASK,
    Recorder,
    cpu_slots,
    is_running,
    job,
    poll_until,
    run_all,
    wait_until,
)

from unetx_evaluators.evaluation import Outcome
from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_search.executors.gpus import Gpu
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.slots import make_slots
from unetx_search.executors.worker_handle import describe_exit

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform == "win32", reason="process groups and signals are POSIX"),
]

FOUR_GPUS = tuple(Gpu(index, f"GPU-{index}{index}", "Pretended") for index in range(4))


class SlowToUnpickle(FakeEvaluator):
    """Stands for an evaluator whose libraries take long to load, as torch does."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return time.sleep, (3600.0,)


def worker_pids() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


@contextlib.contextmanager
def running_script(script: str) -> Iterator[subprocess.Popen[str]]:
    """A coordinator of its own, in a process group of its own, that can import the helpers; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_each_of_four_workers_sees_its_own_gpu_and_no_other_before_torch_can_be_imported() -> None:
    slots = make_slots("all", probe=lambda: FOUR_GPUS, n_cores=8)
    shown = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    with LocalExecutor(FakeEvaluator(shown_variables=shown), TASK, slots) as executor:
        told = run_all(executor, [job(trial) for trial in range(4)])
    seen = {told.workers[trial]: evaluation.versions for trial, evaluation in told.finished.items()}
    assert {index: facts["CUDA_VISIBLE_DEVICES"] for index, facts in seen.items()} == {
        gpu.index: gpu.uuid for gpu in FOUR_GPUS
    }
    assert [told.started[trial][1] for trial in range(4)] == [f"GPU {index}: Pretended" for index in range(4)]
    for facts in seen.values():
        assert (facts["CUDA_DEVICE_ORDER"], facts["OMP_NUM_THREADS"], facts["MKL_NUM_THREADS"]) == (
            "PCI_BUS_ID",
            "2",
            "2",
        )
        assert facts["torch"] == "absent"
    assert len({facts["pid"] for facts in seen.values()}) == 4


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads the environment a process began with")
def test_a_worker_is_born_with_its_device_so_that_no_import_can_come_too_early() -> None:
    slots = make_slots("all", probe=lambda: FOUR_GPUS[:2], n_cores=8)
    with LocalExecutor(FakeEvaluator(), TASK, slots) as executor:
        told = run_all(executor, [job(trial) for trial in range(2)])
        for trial, gpu in enumerate(FOUR_GPUS[:2]):
            born_with = (
                Path(f"/proc/{told.finished[trial].versions['pid']}/environ").read_text(encoding="utf-8").split("\0")
            )
            assert f"CUDA_VISIBLE_DEVICES={gpu.uuid}" in born_with
            assert "OMP_NUM_THREADS=4" in born_with


def test_the_parents_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "13")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with LocalExecutor(FakeEvaluator(shown_variables=("OMP_NUM_THREADS",)), TASK, cpu_slots(1)) as executor:
        told = run_all(executor, [job(0)])
        assert dict(os.environ) == before
    assert told.finished[0].versions["OMP_NUM_THREADS"] == "1"


def test_a_worker_is_used_again_and_none_is_started_without_work() -> None:
    with LocalExecutor(FakeEvaluator(), TASK, cpu_slots(3)) as executor:
        told = run_all(executor, [job(0)])
        run_all(executor, [job(1)], told)
        assert len(worker_pids()) == 1
    assert told.finished[0].versions["pid"] == told.finished[1].versions["pid"] != str(os.getpid())


def test_jobs_on_several_workers_are_evaluated_exactly_once(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(calls_folder=tmp_path, acts_by_call={4: InjectedFault.KILL, 9: InjectedFault.EXIT})
    with LocalExecutor(evaluator, TASK, cpu_slots(2)) as executor:
        told = run_all(executor, [job(trial, seed=trial) for trial in range(20)])
    calls = [json.loads(file.read_text(encoding="utf-8"))["seed"] for file in tmp_path.iterdir()]
    assert sorted(calls) == sorted([*told.finished, *told.lost]) == list(range(20))
    assert len(told.lost) == 2
    assert {evaluation.outcome for evaluation in told.lost.values()} == {Outcome.CRASHED}
    assert {evaluation.outcome for evaluation in told.finished.values()} == {Outcome.COMPLETE}


def test_kill_nine_from_outside_in_the_middle_of_a_job_loses_it_and_the_slot_works_again() -> None:
    with LocalExecutor(FakeEvaluator(seconds_per_step=0.001), TASK, cpu_slots(1)) as executor:
        told = Recorder()
        executor.submit(job(0, budget=LONG))
        poll_until(executor, told, lambda: 0 in told.steps)
        [pid] = worker_pids()
        os.kill(pid, signal.SIGKILL)
        poll_until(executor, told, lambda: told.n_ended == 1)
        run_all(executor, [job(1)], told)
    assert told.lost[0].outcome is Outcome.CRASHED
    assert "SIGKILL" in told.lost[0].reason
    assert told.finished[1].outcome is Outcome.COMPLETE


def test_a_worker_that_dies_without_a_job_is_replaced_without_a_word() -> None:
    with LocalExecutor(FakeEvaluator(), TASK, cpu_slots(1)) as executor:
        told = run_all(executor, [job(0)])
        [pid] = worker_pids()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid))
        run_all(executor, [job(1)], told)
    assert [told.finished[trial].outcome for trial in (0, 1)] == [Outcome.COMPLETE] * 2


def test_a_worker_that_dies_after_an_interrupt_leaves_its_job_to_be_run_again() -> None:
    with LocalExecutor(FakeEvaluator(acts_by_seed={0: InjectedFault.HANG}), TASK, cpu_slots(1)) as executor:
        told = Recorder()
        executor.submit(job(0))
        poll_until(executor, told, lambda: 0 in told.started)
        executor.interrupt()
        os.kill(worker_pids()[0], signal.SIGKILL)
        poll_until(executor, told, lambda: told.n_ended == 1)
    assert (told.interrupted, told.finished) == ([0], {})


@pytest.mark.parametrize(
    "evaluator",
    [
        FakeEvaluator(seconds_per_step=0.001),
        FakeEvaluator(acts_by_seed={0: InjectedFault.HANG}),
        SlowToUnpickle(),
    ],
    ids=["training", "hanging", "importing"],
)
def test_close_hangs_up_and_every_worker_leaves_by_itself(evaluator: FakeEvaluator) -> None:
    told = Recorder()
    with LocalExecutor(evaluator, TASK, cpu_slots(2)) as executor:
        for trial in range(2):
            executor.submit(job(trial, budget=LONG))
        pids = worker_pids()
        if not isinstance(evaluator, SlowToUnpickle):
            poll_until(executor, told, lambda: len(told.started) == 2)
        executor.poll(told, 1.0)
        executor.close(timeout_s=3600.0)  # would be waited for if they did not
    assert len(pids) == 2
    assert not any(map(is_running, pids))
    assert told.n_ended == 0


def test_close_is_quick_while_workers_are_only_being_started() -> None:
    executor = LocalExecutor(FakeEvaluator(), TASK, cpu_slots(2))
    executor.submit(job(0))
    executor.submit(job(1))
    pids = worker_pids()
    executor.close(timeout_s=3600.0)
    assert len(pids) == 2
    assert not any(map(is_running, pids))


SIGNALS_TO_THE_GROUP = """
import json, multiprocessing, os, signal
from executor_helpers import TASK, Recorder, cpu_slots, job, run_all
from unetx_evaluators.fake import FakeEvaluator
from unetx_search.executors.local import LocalExecutor

def shout():
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(0, number)

class Shouting(Recorder):
    def on_started(self, *facts):
        shout()
        super().on_started(*facts)

n_heard = 0
def hear(number, frame):
    global n_heard
    n_heard += 1

signal.signal(signal.SIGINT, hear)
signal.signal(signal.SIGTERM, hear)
with LocalExecutor(FakeEvaluator(seconds_per_step=0.01), TASK, cpu_slots(2)) as executor:
    told = Shouting()
    for trial in range(2):
        executor.submit(job(trial))
    shout()
    pids = [process.pid for process in multiprocessing.active_children()]
    while told.n_ended < 2:
        executor.poll(told, 1.0)
    run_all(executor, [job(2), job(3)], told)
print(json.dumps({
    "heard": n_heard,
    "started": pids,
    "answered": [int(told.finished[trial].versions["pid"]) for trial in range(4)],
}))
"""


def test_ctrl_c_and_sigterm_to_the_whole_group_leave_workers_alive_even_while_they_start() -> None:
    with running_script(SIGNALS_TO_THE_GROUP) as script:
        output, _ = script.communicate(timeout=DEADLINE_S)
    facts = json.loads(output)
    assert script.returncode == 0
    assert facts["heard"] > 0
    assert sorted(facts["answered"][:2]) == sorted(facts["answered"][2:]) == sorted(facts["started"])


KILLED = """
import json, multiprocessing, time
from executor_helpers import LONG, TASK, Recorder, cpu_slots, job, poll_until, run_all
from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_search.executors.local import LocalExecutor

evaluator = FakeEvaluator(seconds_per_step=0.001, acts_by_seed={1: InjectedFault.HANG})
executor = LocalExecutor(evaluator, TASK, cpu_slots(3))
told = Recorder()
for trial in range(3):
    executor.submit(job(trial, budget=LONG if trial == 2 else job(0).budget, seed=trial))
if BUSY:
    poll_until(executor, told, lambda: len(told.started) == 3 and 0 in told.finished)
print(json.dumps([process.pid for process in multiprocessing.active_children()]), flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("busy", [True, False], ids=["one idle, one hanging, one training", "all starting"])
def test_workers_are_gone_soon_after_their_parent_was_killed(busy: bool) -> None:
    with running_script(KILLED.replace("BUSY", str(busy))) as script:
        assert script.stdout is not None
        pids = json.loads(script.stdout.readline())
        script.kill()
        assert len(pids) == 3
        wait_until(lambda: not any(map(is_running, pids)))


FORGETS_TO_CLOSE = """
from executor_helpers import TASK, cpu_slots, job, run_all
from unetx_evaluators.fake import FakeEvaluator
from unetx_search.executors.local import LocalExecutor

executor = LocalExecutor(FakeEvaluator(), TASK, cpu_slots(1))
print(run_all(executor, [job(0)]).finished[0].versions["pid"])
"""


def test_a_program_that_forgets_to_close_ends_and_leaves_nothing() -> None:
    with running_script(FORGETS_TO_CLOSE) as script:
        output, _ = script.communicate(timeout=DEADLINE_S)
    assert script.returncode == 0
    assert not is_running(int(output))


STOPPED_WHILE_A_WORKER_STARTS = """
import contextlib, multiprocessing
from executor_helpers import TASK, cpu_slots, job
from unetx_evaluators.fake import FakeEvaluator
from unetx_search.executors import worker_handle
from unetx_search.executors.local import LocalExecutor

@contextlib.contextmanager
def a_second_ctrl_c_meanwhile():
    yield
    executor.close(timeout_s=0.0)
    raise KeyboardInterrupt

worker_handle.signals_blocked = a_second_ctrl_c_meanwhile
executor = LocalExecutor(FakeEvaluator(), TASK, cpu_slots(1))
try:
    executor.submit(job(0))
except KeyboardInterrupt as error:
    kept = error  # as that which ends a program is kept, with all that its frames hold
(worker,) = multiprocessing.active_children()
print(worker.pid)
"""


def test_a_program_that_is_stopped_while_a_worker_starts_ends_and_leaves_nothing() -> None:
    with running_script(STOPPED_WHILE_A_WORKER_STARTS) as script:
        output, _ = script.communicate(timeout=DEADLINE_S)
    assert script.returncode == 0
    assert not is_running(int(output))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-11, "was killed by SIGSEGV"),
        (-9, "was killed by SIGKILL (by hand, or by the kernel when memory ran out)"),
    ],
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
