"""Jobs that hold workers: called, kept, lost and replaced. They are processes of this machine, or pretended."""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import pytest
from executor_helpers import LONG, TASK, Recorder, cpu_slots, is_running, job, poll_until, run_all, wait_until

from unetx_evaluators.evaluation import Outcome
from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_space.errors import RequestError, UnetxError

pytest.importorskip("submitit", reason='needs submitit: pip install "unetx-search[slurm]"')

from slurm_helpers import LocalQueue, local_jobs, processes

from unetx_search.executors.slurm import jobs as slurm_jobs
from unetx_search.executors.slurm.connection import CoordinatorAddress, Joined
from unetx_search.executors.slurm.executor import SlurmExecutor
from unetx_search.executors.slurm.jobs import JobTask, SlurmJobs
from unetx_search.executors.slurm.queue import JobState, SlurmQueue

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SlurmJobs, LocalQueue]]:
    """Jobs that the tests of this module share, as far as they leave them alive."""
    with local_jobs(tmp_path_factory.mktemp("slurm")) as made:
        yield made


def test_a_worker_that_dies_and_a_second_executor_need_no_other_job(here: tuple[SlurmJobs, LocalQueue]) -> None:
    jobs, queue = here
    evaluator = FakeEvaluator(acts_by_seed={1: InjectedFault.EXIT}, act_after_step=3)
    with SlurmExecutor(evaluator, TASK, cpu_slots(1), jobs) as executor:
        told = run_all(executor, [job(0), job(1, seed=1), job(2)])
    assert "exited with code 3" in told.lost[1].reason
    with SlurmExecutor(FakeEvaluator(noise=0.0), TASK, cpu_slots(1), jobs) as executor:
        again = run_all(executor, [job(0)])
    assert (sorted(told.finished), sorted(again.finished), len(queue.submitted)) == ([0, 2], [0], 1)
    assert told.started[0] == (0, f"CPU on {socket.gethostname()}")


def test_a_job_that_slurm_ends_preempts_its_trial_and_another_job_goes_on(here: tuple[SlurmJobs, LocalQueue]) -> None:
    jobs, queue = here
    told = Recorder()
    with SlurmExecutor(FakeEvaluator(seconds_per_step=0.01), TASK, cpu_slots(1), jobs) as executor:
        poll_until(executor, told, lambda: executor.n_free() == 1)
        executor.submit(job(0, budget=LONG))
        poll_until(executor, told, lambda: 0 in told.steps)
        [ended] = queue.submitted[-1:]
        queue.cancel([ended])
        poll_until(executor, told, lambda: told.n_ended == 1)
        run_all(executor, [job(1)], told)
    assert f"Slurm job {ended} on {socket.gethostname()} was told to end by SIGTERM" in told.preempted[0]
    assert (told.lost, told.finished[1].outcome) == ({}, Outcome.COMPLETE)
    assert len(queue.submitted) == queue.submitted.index(ended) + 2
    wait_until(lambda: not is_running(told.processes[0]))


@pytest.mark.slow
def test_a_job_whose_process_is_gone_preempts_its_trial(here: tuple[SlurmJobs, LocalQueue]) -> None:
    """As when its node loses power, but for the minute until TCP notices."""
    jobs, queue = here
    told = Recorder()
    with SlurmExecutor(FakeEvaluator(seconds_per_step=0.01), TASK, cpu_slots(1), jobs) as executor:
        poll_until(executor, told, lambda: executor.n_free() == 1)
        executor.submit(job(0, budget=LONG))
        poll_until(executor, told, lambda: 0 in told.steps)
        for process in processes(queue.submitted[-1]):
            process.kill()
        poll_until(executor, told, lambda: told.n_ended == 1)
    assert "ended, or the way to it; its log is" in told.preempted[0]
    assert told.lost == {}


def test_two_workers_share_a_job_where_they_share_a_gpu_and_all_ends_with_the_search(tmp_path: Path) -> None:
    with local_jobs(tmp_path, n_tasks=2) as (jobs, queue):
        told = Recorder()
        with SlurmExecutor(FakeEvaluator(seconds_per_step=0.01), TASK, cpu_slots(2), jobs) as executor:
            poll_until(executor, told, lambda: executor.n_free() == 2)
            for trial in range(2):
                executor.submit(job(trial, budget=LONG))
            poll_until(executor, told, lambda: len(told.steps) == 2)
            assert len(queue.submitted) == 1
        at_work = [process.pid for process in processes(queue.submitted[0])]
        assert len(at_work) >= 2, "a process for each worker"
    wait_until(lambda: not any(map(is_running, [*at_work, *told.processes.values()])))
    assert (queue.cancelled, list(tmp_path.glob("key-*"))) == ([], [])


class PretendedQueue(SlurmQueue):
    """Jobs that nobody runs."""

    def __init__(self, folder: Path, state: str, reason: str = "None") -> None:
        super().__init__(folder, 1, 1, {})
        self.state = JobState(state, reason)
        self.refuses = False
        self.submitted: list[str] = []
        self.cancelled: list[str] = []

    def submit(self, n_jobs: int, coordinator: CoordinatorAddress) -> list[str]:
        if self.refuses:
            raise RequestError("no such partition")
        new = [str(len(self.submitted) + number) for number in range(n_jobs)]
        self.submitted += new
        return new

    def states(self, ids: Sequence[str]) -> Mapping[str, JobState] | None:
        return dict.fromkeys(ids, self.state)

    def cancel(self, ids: Sequence[str]) -> None:
        self.cancelled += ids


@pytest.fixture
def _queries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_jobs, "FIRST_QUERY_S", 0.0)
    monkeypatch.setattr(slurm_jobs, "QUERY_EVERY_S", 0.0)


def see_to(jobs: SlurmJobs, n_times: int = 10) -> None:
    for _ in range(n_times):
        jobs.wait([], 0.02)


@pytest.mark.usefixtures("_queries_at_once")
def test_jobs_that_wait_are_told_once_with_slurms_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue = PretendedQueue(tmp_path, "PENDING", "Resources")
    with SlurmJobs(queue) as jobs:
        jobs.n_workers_wanted = 3
        see_to(jobs)
        assert [record.message for record in caplog.records] == ["3 of 3 jobs wait in Slurm's queue (Resources)"]
        queue.state = JobState("PENDING", "Priority")
        see_to(jobs)
    assert [record.message for record in caplog.records[1:]] == ["3 of 3 jobs wait in Slurm's queue (Priority)"]
    assert queue.submitted == queue.cancelled == ["0", "1", "2"]


@pytest.mark.usefixtures("_queries_at_once")
def test_jobs_that_fail_before_they_call_end_the_run_with_their_last_words(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}_0_log.err").write_text("Traceback ...\nModuleNotFoundError: No module named 'torch'\n")
    queue = PretendedQueue(tmp_path, "FAILED")
    with (
        SlurmJobs(queue) as jobs,
        SlurmExecutor(FakeEvaluator(), TASK, cpu_slots(1), jobs) as executor,
        pytest.raises(UnetxError, match="2 times in a row") as caught,
    ):
        poll_until(executor, Recorder(), lambda: False)
    log = tmp_path / "1_0_log.err"
    assert f"Slurm job 1 ended before it could work (FAILED); its log is {log} and ends with: " in str(caught.value)
    assert "ModuleNotFoundError: No module named 'torch'" in str(caught.value)
    assert queue.submitted == ["0", "1"]


@pytest.mark.usefixtures("_queries_at_once")
@pytest.mark.parametrize("state", ["CANCELLED", "PREEMPTED", "NODE_FAIL"])
def test_a_job_that_is_taken_away_before_it_calls_is_nobodys_fault_and_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    queue = PretendedQueue(tmp_path, state)
    with SlurmJobs(queue) as jobs:
        jobs.n_workers_wanted = 1
        see_to(jobs)
        assert (queue.submitted, jobs.failure()) == (["0"], "")
        assert (
            f"Slurm is asked for another job in 60 s: Slurm job 0 ended before it could work ({state})" in caplog.text
        )
        queue.state = JobState("PENDING", "None")
        monkeypatch.setattr("time.monotonic", lambda now=time.monotonic: now() + 61)
        see_to(jobs)
    assert queue.submitted == ["0", "1"]


def test_a_refusal_ends_a_run_at_its_beginning_and_is_waited_out_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue = PretendedQueue(tmp_path, "PENDING")
    with SlurmJobs(queue) as jobs, caplog.at_level(logging.WARNING):
        jobs.n_workers_wanted, queue.refuses = 1, True
        with pytest.raises(RequestError, match="no such partition"):
            jobs.fill()
        queue.refuses = False
        jobs.fill()
        jobs.n_workers_wanted, queue.refuses = 3, True
        jobs.fill()
    assert "2 jobs are missing, and Slurm is asked again in 60 s: no such partition" in caplog.text


def test_jobs_of_a_run_that_was_killed_are_cancelled_by_the_next(tmp_path: Path) -> None:
    for name in ("17_submission.sh", "17_0_submitted.pkl", "key-1", "17_0_0_log.err"):
        (tmp_path / name).touch()
    queue = PretendedQueue(tmp_path, "PENDING")
    with SlurmJobs(queue):
        assert queue.cancelled == ["17"]
        [key] = tmp_path.glob("key-*")
        assert (key.name != "key-1", stat.S_IMODE(key.stat().st_mode)) == (True, 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["17_0_0_log.err"], "what it printed stays"


def test_strangers_and_unknown_jobs_are_not_let_in(tmp_path: Path) -> None:
    calls: list[CoordinatorAddress] = []

    class Listening(PretendedQueue):
        def submit(self, n_jobs: int, coordinator: CoordinatorAddress) -> list[str]:
            calls.append(coordinator)
            return super().submit(n_jobs, coordinator)

    with SlurmJobs(Listening(tmp_path, "PENDING")) as jobs:
        jobs.n_workers_wanted = 1
        jobs.fill()
        with pytest.raises((AuthenticationError, OSError, EOFError)):
            Client(("127.0.0.1", calls[0].port), authkey=b"not the key")
        unknown, known = (calls[0].connect(Joined(name, 0, "node7")) for name in ("4711", "0"))
        tasks: list[JobTask] = []

        def look() -> bool:
            jobs.wait([], 0.02)
            tasks.extend(filter(None, [jobs.free_task()]))
            return bool(tasks) and unknown.poll()

        wait_until(look)
        with pytest.raises(EOFError):
            unknown.recv()
        assert ([task.name for task in tasks], known.poll()) == (["Slurm job 0 on node7"], False)
        for connection in (known, tasks[0].connection):
            assert connection is not None
            with socket.socket(fileno=os.dup(connection.fileno())) as end:
                kept_alive = end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert (kept_alive, end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)) == (1, 60_000)
    with pytest.raises(OSError, match="no address of the coordinator answers on port"):
        CoordinatorAddress(("127.0.0.1",), calls[0].port, write_key(tmp_path)).connect(Joined("0", 0, "node7"))


def write_key(folder: Path) -> Path:
    (folder / "key").write_bytes(b"key")
    return folder / "key"
