from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unetx_evaluators.evaluation import DataError, DataErrors
from unetx_evaluators.host_cores import usable_cores
from unetx_evaluators.tasks import parallel
from unetx_evaluators.tasks.parallel import AHEAD, BYTES_PER_WORKER, FailedCase, Workers, n_workers_for

NAMES = [f"case{number}" for number in range(20)]


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Workers]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "PRELOADED", ())  # nothing is read here
        with Workers(2) as workers:
            yield workers


def shout(name: str) -> str:
    return name.upper()


def refuse_some(name: str) -> str:
    if name == "case3":
        raise DataError("case3 is bad")
    if name == "case5":
        raise DataErrors([DataError("one"), DataError("other")])
    return name


def stumble(name: str) -> str:
    raise ZeroDivisionError("a bug")


def die(worker_only: bool, name: str) -> int:
    if name == "case4" and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def note(folder: Path, name: str) -> str:
    (folder / name).touch()
    return name


def test_answers_come_in_the_order_of_the_names(two_workers: Workers) -> None:
    expected = [(name, name.upper()) for name in NAMES]
    assert list(two_workers.map(shout, NAMES)) == expected
    assert list(Workers(1).map(shout, NAMES)) == expected


def test_a_second_function_takes_the_place_of_the_first(two_workers: Workers) -> None:
    assert list(two_workers.map(shout, NAMES[:3])) == [("case0", "CASE0"), ("case1", "CASE1"), ("case2", "CASE2")]
    assert list(two_workers.map(refuse_some, NAMES[:2])) == [("case0", "case0"), ("case1", "case1")]


@pytest.mark.parametrize("n", [1, 2])
def test_what_is_wrong_with_the_data_is_an_answer(two_workers: Workers, n: int) -> None:
    answers = dict((two_workers if n == 2 else Workers(1)).map(refuse_some, NAMES))
    failed = {
        name: [str(e) for e in answer.errors] for name, answer in answers.items() if isinstance(answer, FailedCase)
    }
    assert failed == {"case3": ["case3 is bad"], "case5": ["one", "other"]}
    assert len(answers) == len(NAMES)


def test_a_bug_flies_with_its_traceback(two_workers: Workers) -> None:
    with pytest.raises(RuntimeError, match=r"case0: a worker process failed:\n(.*\n)*ZeroDivisionError: a bug"):
        list(two_workers.map(stumble, NAMES))
    with pytest.raises(ZeroDivisionError):
        list(Workers(1).map(stumble, NAMES))


def test_a_worker_that_dies_costs_its_case_alone_and_is_replaced() -> None:
    with Workers(2) as workers:
        answers = dict(workers.map(functools.partial(die, True), NAMES))
    failed = {name: answer for name, answer in answers.items() if isinstance(answer, FailedCase)}
    assert list(failed) == ["case4"]
    assert "case case4: the process that read it died (signal SIGKILL); most often the memory was full" in str(
        failed["case4"].errors[0]
    )
    assert len({answer for answer in answers.values() if isinstance(answer, int)}) in (2, 3)


def test_no_worker_runs_far_ahead_of_the_answers(two_workers: Workers, tmp_path: Path) -> None:
    answers = two_workers.map(functools.partial(note, tmp_path), NAMES)
    next(answers)
    assert len(list(tmp_path.iterdir())) <= AHEAD * 2
    assert len(list(answers)) == len(NAMES) - 1


def test_answers_that_nobody_wants_any_more_do_not_reach_the_next(two_workers: Workers) -> None:
    answers = two_workers.map(shout, NAMES)
    next(answers)
    del answers
    assert list(two_workers.map(refuse_some, NAMES[:2])) == [("case0", "case0"), ("case1", "case1")]


def test_workers_end_with_their_context() -> None:
    with Workers(2) as workers:
        list(workers.map(shout, NAMES))
        pids = [worker.process.pid for worker in workers._workers]
    assert len(pids) == 2
    for pid in pids:
        assert pid is not None
        assert not Path(f"/proc/{pid}").exists()


def test_little_work_stays_in_this_process() -> None:
    assert n_workers_for(0, 1000) == 1
    assert n_workers_for(BYTES_PER_WORKER, 1000) == 1
    assert n_workers_for(1000 * BYTES_PER_WORKER, 1000) == min(usable_cores(), 1000)
    assert n_workers_for(1000 * BYTES_PER_WORKER, 1) == 1


ORPHANS = """
import os, signal, sys, time
from unetx_evaluators.tasks import parallel
from unetx_evaluators.tasks.parallel import Workers

parallel.PRELOADED = ()  # nothing is read here

def hang(name):
    print(os.getpid(), flush=True)
    signal.pause()

if __name__ == "__main__":
    with Workers(2) as workers:
        list(workers.map(hang, ["a", "b"]))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent_however_it_ends(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        for _ in range(2):
            assert int(parent.stdout.readline())
        if how is signal.SIGINT:
            os.killpg(parent.pid, how)  # as a terminal does
        else:
            parent.send_signal(how)
        # The pipe ends when the last process that holds it has ended: workers and fork server alike.
        assert parent.stdout.read() == b""
    assert parent.returncode != 0


UNNOTICED = """
import signal, threading, time
from unetx_evaluators.tasks import parallel

parallel.PRELOADED = ()

def hang(name):
    print(name, flush=True)
    signal.pause()

def stop_from_another_thread():
    time.sleep(1)  # by then the main thread waits, and is not woken
    signal.raise_signal(signal.SIGINT)

if __name__ == "__main__":
    with parallel.Workers(2) as workers:
        threading.Thread(target=stop_from_another_thread).start()
        list(workers.map(hang, ["a", "b"]))
"""


def test_a_stop_that_does_not_wake_the_wait_is_noticed_all_the_same(tmp_path: Path) -> None:
    script = tmp_path / "unnoticed.py"
    script.write_text(UNNOTICED, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert "KeyboardInterrupt" in done.stderr
