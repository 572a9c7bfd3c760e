"""The contract of all executors, and what those with worker processes promise beside it, here and elsewhere alike."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from executor_helpers import (
    BUDGET,
    LONG,
    TASK,
    Forgetful,
    Recorder,
    cpu_slots,
    is_running,
    job,
    poll_until,
    run_all,
    u_net,
    wait_until,
)
from extending_page import module_of
from ray_helpers import actors, cluster

from unetx_evaluators.evaluation import (
    Budget,
    CurvePoint,
    Evaluation,
    EvaluationInterrupted,
    Evaluator,
    NullObserver,
    Outcome,
)
from unetx_evaluators.fake import FakeEvaluator, InjectedFault
from unetx_search.executors import worker
from unetx_search.executors.base import Executor, Job
from unetx_search.executors.inline import InlineExecutor
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.ray.cluster import connected
from unetx_space.errors import UnetxError
from unetx_studies.disk_full import StorageFull

pytestmark = pytest.mark.timeout(120)

Make = Callable[..., Executor]
"""Called with an evaluator, a number of workers where it is more than one, and options of executors with processes."""


def make_inline(evaluator: Evaluator) -> Executor:
    return InlineExecutor(evaluator, TASK)


def make_in_turn(evaluator: Evaluator) -> Executor:
    """The executor that the page on extending adds."""
    made: Executor = module_of("search/unetx_search/executors/in_turn.py").InTurnExecutor(evaluator, TASK)
    return made


def make_local(evaluator: Evaluator, n_workers: int = 1, **options: Any) -> Executor:
    return LocalExecutor(evaluator, TASK, cpu_slots(n_workers), **options)


def make_ray(evaluator: Evaluator, n_workers: int = 1, **options: Any) -> Executor:
    from unetx_search.executors.ray.executor import RayExecutor

    return RayExecutor(evaluator, TASK, cpu_slots(n_workers), **options)


def make_in_jobs(evaluator: Evaluator, n_workers: int = 1, *, jobs: Any, **options: Any) -> Executor:
    from unetx_search.executors.slurm.executor import SlurmExecutor

    executor = SlurmExecutor(evaluator, TASK, cpu_slots(n_workers), jobs, **options)
    poll_until(executor, Recorder(), lambda: executor.n_free() == n_workers)
    return executor


ON_RAY = pytest.param(make_ray, id="ray", marks=pytest.mark.slow)
IN_JOBS = pytest.param(make_in_jobs, id="slurm", marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def ray_node() -> Iterator[None]:
    """A cluster of one node that this process is connected to."""
    with cluster({"num_cpus": 2}) as made, connected(made.address):
        yield


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Jobs that are processes of this machine."""
    pytest.importorskip("submitit", reason='needs submitit: pip install "unetx-search[slurm]"')
    from slurm_helpers import local_jobs

    with local_jobs(tmp_path_factory.mktemp("slurm")) as (made, _):
        yield made


def closed_at_the_end(request: pytest.FixtureRequest) -> Iterator[Make]:
    """The maker that a test is run with; what it made is closed at the end of the test."""
    if request.param is make_ray:
        request.getfixturevalue("ray_node")
    more = {"jobs": request.getfixturevalue("jobs")} if request.param is make_in_jobs else {}
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(request.param(*arguments, **more, **options))


make = pytest.fixture(params=[make_inline, make_in_turn, make_local, ON_RAY, IN_JOBS], name="make")(closed_at_the_end)
"""Makes an executor of each kind."""
make_workers = pytest.fixture(params=[make_local, ON_RAY, IN_JOBS], name="make_workers")(closed_at_the_end)
"""Makes an executor of each kind that has worker processes."""


class DiesWhenUnpickled(FakeEvaluator):
    """Stands for an evaluator whose libraries crash when they are loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os._exit, (7,)


class FailsWhenUnpickled(FakeEvaluator):
    """Stands for an evaluator whose libraries are missing."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return importlib.import_module, ("no_such_module_anywhere",)


class Interrupter(Recorder):
    """Interrupts everything when it is told of a step or a rung, as a Ctrl-C between two lines would."""

    executor: Executor
    at_step = False
    at_rung = False

    def on_step(self, trial: int, step: int) -> None:
        super().on_step(trial, step)
        if self.at_step:
            self.executor.interrupt()

    def on_rung(self, trial: int, point: CurvePoint) -> bool:
        prune = super().on_rung(trial, point)
        if self.at_rung:
            self.executor.interrupt()
        return prune


def test_the_answer_is_the_evaluators_own(make: Make) -> None:
    evaluator = FakeEvaluator()
    told = run_all(make(evaluator), [job(7, seed=3)])
    expected = evaluator.evaluate(u_net(), TASK, BUDGET, 3, NullObserver())
    answer = told.finished[7]
    assert (answer.outcome, answer.score, answer.case_scores) == (
        Outcome.COMPLETE,
        expected.score,
        expected.case_scores,
    )
    assert [(point.step, point.score) for point in answer.curve] == [(p.step, p.score) for p in expected.curve]


def test_start_steps_and_rungs_are_told_and_the_slot_is_named(make: Make) -> None:
    told = run_all(make(FakeEvaluator()), [job(7)])
    assert told.started[7][0] == told.workers[7] == 0
    assert told.started[7][1]
    assert told.steps[7][0] == 1
    assert told.rungs[7] == [2, 4]


def test_a_handler_that_says_so_prunes(make: Make) -> None:
    told = run_all(make(FakeEvaluator()), [job(0)], Recorder(prune_at=(4,)))
    assert told.finished[0].outcome is Outcome.PRUNED
    assert told.rungs[0] == [2, 4]
    assert [point.step for point in told.finished[0].curve] == [2, 4]


def test_every_outcome_comes_through(make: Make) -> None:
    outcomes = dict(enumerate(Outcome))
    told = run_all(make(FakeEvaluator(acts_by_seed=outcomes)), [job(seed, seed=seed) for seed in outcomes])
    assert {trial: evaluation.outcome for trial, evaluation in told.finished.items()} == outcomes


@pytest.mark.parametrize(
    ("misdeed", "words"),
    [
        (InjectedFault.RAISE, ("ArithmeticError: an error on request", "in _perform")),
        (InjectedFault.RAISE_UNPICKLABLE, ("UnpicklableError: an error on request", "in _perform")),
    ],
)
def test_an_error_of_the_evaluator_is_a_crash_with_its_traceback(
    make: Make, misdeed: InjectedFault, words: tuple[str, str]
) -> None:
    told = run_all(make(FakeEvaluator(acts_by_seed={1: misdeed})), [job(0, seed=1), job(1)])
    assert told.finished[0].outcome is Outcome.CRASHED
    assert words[0] in told.finished[0].reason
    assert words[1] in told.finished[0].traceback
    assert told.finished[1].outcome is Outcome.COMPLETE


def test_a_crash_keeps_the_rungs_it_reached(make: Make) -> None:
    told = run_all(make(FakeEvaluator(acts_by_seed={0: InjectedFault.RAISE}, act_after_step=3)), [job(0)])
    crash = told.finished[0]
    assert [point.step for point in crash.curve] == told.rungs[0] == [2]
    assert crash.score == crash.curve[0].score


def test_an_evaluator_that_returns_nothing_is_a_crash(make: Make) -> None:
    told = run_all(make(Forgetful()), [job(0)])
    assert told.finished[0].outcome is Outcome.CRASHED
    assert "Forgetful.evaluate returns an Evaluation, got NoneType" in told.finished[0].reason


def test_a_taken_slot_refuses_a_second_job(make: Make) -> None:
    executor = make(FakeEvaluator())
    assert executor.n_free() == executor.n_slots == 1
    executor.submit(job(0))
    assert executor.n_free() == 0
    with pytest.raises(RuntimeError, match="trial 1 came when"):
        executor.submit(job(1))


def test_a_closed_executor_refuses_jobs_and_closes_twice(make: Make) -> None:
    executor = make(FakeEvaluator())
    executor.close()
    executor.close()
    with pytest.raises(RuntimeError, match="it is closed"):
        executor.submit(job(0))


def test_the_slot_is_free_when_the_end_is_told(make: Make) -> None:
    executor = make(FakeEvaluator())

    class Chaining(Recorder):
        def on_finished(self, trial: int, worker: int, evaluation: Evaluation) -> None:
            super().on_finished(trial, worker, evaluation)
            if trial < 3:
                executor.submit(job(trial + 1))

    told = Chaining()
    executor.submit(job(0))
    poll_until(executor, told, lambda: told.n_finished_calls == 4)
    assert sorted(told.finished) == [0, 1, 2, 3]


def test_a_job_interrupted_before_it_began_is_only_told_as_interrupted(make: Make) -> None:
    executor, told = make(FakeEvaluator()), Recorder()
    executor.submit(job(0))
    executor.interrupt()
    poll_until(executor, told, lambda: told.n_ended == 1)
    assert (told.interrupted, told.started, executor.n_free()) == ([0], {}, 1)


def test_a_running_job_is_left_at_its_next_step_and_the_slot_goes_on(make: Make) -> None:
    told = Interrupter()
    told.executor, told.at_step = make(FakeEvaluator(seconds_per_step=0.001)), True
    run_all(told.executor, [job(0, budget=LONG)], told)
    assert told.interrupted == [0]
    told.at_step = False
    run_all(told.executor, [job(0)], told)
    assert told.finished[0].outcome is Outcome.COMPLETE


def test_an_interrupt_at_a_rung_counts_more_than_its_answer_which_no_later_job_gets(make: Make) -> None:
    told = Interrupter(prune_at=(2,))
    told.executor, told.at_rung = make(FakeEvaluator()), True
    run_all(told.executor, [job(0)], told)
    assert (told.interrupted, told.finished) == ([0], {})
    told.at_rung, told.prune_at = False, ()
    run_all(told.executor, [job(1)], told)
    assert told.finished[1].outcome is Outcome.COMPLETE


def test_an_interrupt_without_jobs_concerns_nobody(make: Make) -> None:
    executor = make(FakeEvaluator())
    executor.interrupt()
    told = run_all(executor, [job(0)])
    assert (told.finished[0].outcome, told.interrupted) == (Outcome.COMPLETE, [])


def test_an_error_of_the_handler_flies_out_of_poll(make: Make) -> None:
    class Broken(Recorder):
        def on_rung(self, trial: int, point: CurvePoint) -> bool:
            raise LookupError("the database is gone")

    executor, told = make(FakeEvaluator()), Broken()
    executor.submit(job(0))
    with pytest.raises(LookupError, match="the database is gone"):
        poll_until(executor, told, lambda: False)
    assert told.finished == {}


def test_jobs_and_answers_larger_than_any_pipe_come_through(make: Make) -> None:
    size = 4 * 2**20
    large = replace(u_net(), provenance={"notes": "y" * size})
    told = run_all(make(FakeEvaluator(ballast_bytes=size)), [Job(trial, large, BUDGET, 0) for trial in range(2)])
    assert [len(told.finished[trial].versions["ballast"]) for trial in range(2)] == [size, size]


def test_many_jobs_end_exactly_once_each(make: Make) -> None:
    told = run_all(make(FakeEvaluator()), [job(trial, seed=trial) for trial in range(40)])
    assert sorted(told.finished) == list(range(40))
    assert told.n_finished_calls == 40


@pytest.mark.parametrize(
    ("misdeed", "words"),
    [
        (InjectedFault.EXIT, "exited with code 3"),
        (InjectedFault.SEGFAULT, "was killed by SIGSEGV"),
        (InjectedFault.KILL, "was killed by SIGKILL"),
    ],
)
def test_a_worker_that_dies_under_a_job_loses_it_and_another_takes_its_slot(
    make_workers: Make, tmp_path: Path, misdeed: InjectedFault, words: str
) -> None:
    evaluator = FakeEvaluator(acts_by_seed={1: misdeed}, act_after_step=3)
    told = run_all(make_workers(evaluator, log_folder=tmp_path / "logs"), [job(0), job(1, seed=1), job(2)])
    crash, log = told.lost[1], tmp_path / "logs" / "worker-0.log"
    assert (crash.outcome, sorted(told.finished)) == (Outcome.CRASHED, [0, 2])
    assert crash.reason.startswith(f"worker 0 on {told.started[1][1]} {words}")
    assert crash.reason.endswith(f"; its log is {log}")
    assert ([point.step for point in crash.curve], crash.score) == ([2], crash.curve[0].score)
    assert told.finished[2].outcome is Outcome.COMPLETE
    assert told.finished[2].versions["pid"] != told.finished[0].versions["pid"]
    if misdeed is InjectedFault.SEGFAULT:
        assert "Segmentation fault" in log.read_text(encoding="utf-8")
        assert "in evaluate" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("misdeed", [InjectedFault.HANG, InjectedFault.HANG_IN_C])
def test_a_worker_that_hangs_past_its_limit_is_timed_out_and_replaced(
    make_workers: Make, misdeed: InjectedFault
) -> None:
    impatient = Budget(steps=1, batch_size=1, width_factor=1.0, rungs=(1,), validation_cases=1, max_seconds=0.05)
    executor = make_workers(FakeEvaluator(acts_by_seed={1: misdeed}), overtime_s=0.1)
    told = run_all(executor, [job(0, budget=impatient, seed=1), job(1)])
    assert told.finished[0].outcome is Outcome.TIMED_OUT
    assert "hung: still running after its 0.05 s and 0.1 s more" in told.finished[0].reason
    assert told.finished[1].outcome is Outcome.COMPLETE


def test_a_full_disk_is_no_failure_of_the_design(make_workers: Make) -> None:
    executor, told = make_workers(FakeEvaluator(acts_by_seed={0: InjectedFault.FULL_DISK})), Recorder()
    executor.submit(job(0))
    with pytest.raises(StorageFull):
        poll_until(executor, told, lambda: False)
    assert (told.interrupted, told.finished, executor.n_free()) == ([0], {}, 1)


def test_an_answer_that_cannot_be_pickled_is_a_crash(make_workers: Make) -> None:
    evaluator = FakeEvaluator(acts_by_seed={0: InjectedFault.RETURN_UNPICKLABLE}, act_after_step=3)
    told = run_all(make_workers(evaluator), [job(0), job(1, seed=1)])
    assert told.finished[0].outcome is Outcome.CRASHED
    assert "cannot be pickled" in told.finished[0].reason
    assert [point.step for point in told.finished[0].curve] == [2]
    assert told.finished[1].outcome is Outcome.COMPLETE


@pytest.mark.parametrize(
    ("evaluator", "words"),
    [(DiesWhenUnpickled(), "exited with code 7"), (FailsWhenUnpickled(), "No module named 'no_such_module_anywhere'")],
)
def test_workers_that_never_come_up_are_a_clear_error_and_no_loop(
    make_workers: Make, evaluator: FakeEvaluator, words: str
) -> None:
    told = Recorder()
    with pytest.raises(UnetxError, match="2 times in a row") as caught:
        run_all(make_workers(evaluator), [job(0)], told)
    assert words in str(caught.value)
    assert told.n_ended == 0


def test_close_leaves_no_process_even_of_workers_that_cannot_hear(make_workers: Make) -> None:
    executor, told = make_workers(FakeEvaluator(acts_by_seed={0: InjectedFault.HANG_IN_C}), 2), Recorder()
    for trial in range(2):
        executor.submit(job(trial, budget=LONG))
    poll_until(executor, told, lambda: len(told.started) == 2)
    at_work = [*told.processes.values(), *actors()]
    executor.close(timeout_s=0.1)
    executor.close()
    wait_until(lambda: not any(map(is_running, at_work)))
    assert told.n_ended == 0


def test_a_relay_tells_the_first_step_and_then_two_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    relay = worker.Relay(lambda: False, told.append, lambda _: False)
    for step in range(1, 17):
        # An eighth of a second a step, exact in binary: four steps to the half second.
        monkeypatch.setattr("time.monotonic", lambda step=step: 100.0 + step / 8)
        relay.on_step(step)
    assert told == [1, 5, 9, 13]


def test_a_relay_leaves_even_when_the_interrupt_comes_with_the_rungs_answer() -> None:
    asked: list[int] = []

    def ask(point: CurvePoint) -> bool:
        asked.append(point.step)
        return True

    relay = worker.Relay(lambda: bool(asked), lambda _: None, ask)
    with pytest.raises(EvaluationInterrupted):
        relay.on_rung(CurvePoint(2, 0.5, 0.5, 0.0))
    assert asked == [2]
