"""Why nothing that breaks between an executor and its workers counts a trial twice, on workers that only pretend."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from executor_helpers import BUDGET, TASK, Recorder, cpu_slots, job

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_search.executors import supervisor
from unetx_search.executors.messages import (
    Answer,
    Begin,
    ConnectionLost,
    DeviceLost,
    Exited,
    Finished,
    Hello,
    Interrupt,
    Interrupted,
    Order,
    ReachedRung,
    Report,
    Setup,
    Started,
    Stepped,
    Unfit,
)
from unetx_search.executors.slots import Slot
from unetx_search.executors.supervisor import Supervisor
from unetx_search.executors.worker_handle import WorkerHandle
from unetx_space.errors import UnetxError
from unetx_studies.processes import this_process

DONE = Evaluation(Outcome.COMPLETE, score=0.5)
POINT = CurvePoint(2, 0.4, 0.6, 1.0)
HASTY = replace(BUDGET, max_seconds=-1.0)
"""Overdue as soon as it has begun."""


class Pretended(WorkerHandle):
    """A worker that reports what a test has put there, and keeps what it was told."""

    def __init__(self, slot: Slot, log_file: Path | None) -> None:
        self.reports: deque[Report] = deque([Hello(f"device {slot.index}")])
        self.orders: list[Order] = []
        self.ends: list[str] = []

    def send(self, order: Order) -> None:
        self.orders.append(order)

    def receive(self) -> Report | None:
        assert "released" not in self.ends, "whoever was dropped is not heard"
        return self.reports.popleft() if self.reports else None

    def hang_up(self) -> None:
        self.ends.append("hung up")
        self.reports.append(Exited("exited with code 0"))

    def kill(self) -> None:
        self.ends.append("killed")

    def is_released(self) -> bool:
        return True

    def release(self) -> None:
        self.ends.append("released")


class Stage:
    """An executor over pretended workers."""

    def __init__(self, n_slots: int = 1, *, starts_at_once: bool = False, slots: Sequence[Slot] | None = None) -> None:
        self.workers: list[Pretended] = []
        """All that were started, in this order."""
        self.told = Recorder()
        self.executor = Supervisor(
            FakeEvaluator(),
            TASK,
            slots or cpu_slots(n_slots),
            self._start,
            self._wait,
            starts_at_once=starts_at_once,
            overtime_s=0.0,
        )

    def _start(self, slot: Slot, log_file: Path | None) -> Pretended:
        self.workers.append(Pretended(slot, log_file))
        return self.workers[-1]

    def _wait(self, workers: Sequence[Pretended], timeout_s: float) -> None: ...

    def poll(self, *reports: Report) -> None:
        """The newest worker reports; then all is told."""
        if self.workers:
            self.workers[-1].reports.extend(reports)
        self.executor.poll(self.told, 1.0)

    def begin(self, trial: int, number: int, *, hasty: bool = False) -> None:
        """A job that its worker has begun."""
        self.executor.submit(job(trial, budget=HASTY if hasty else BUDGET))
        self.poll(Started(number, this_process()))


def test_a_job_goes_from_hand_over_to_its_end() -> None:
    stage = Stage()
    stage.begin(7, 1)
    stage.poll(Stepped(1, 1), ReachedRung(1, POINT), Finished(1, DONE))
    [worker] = stage.workers
    assert [type(order) for order in worker.orders] == [Setup, Begin, Answer]
    assert (worker.orders[1], worker.orders[2]) == (Begin(1, job(7)), Answer(1, False))
    told = stage.told
    assert (told.started, told.steps, told.rungs) == ({7: (0, "device 0")}, {7: [1]}, {7: [2]})
    assert (told.finished, told.n_ended, stage.executor.n_free()) == ({7: DONE}, 1, 1)


def test_a_rung_whose_answer_breaks_the_connection_preempts_the_job_which_ends_once_elsewhere() -> None:
    """It is told by a new worker under a new number; the old one, which may have got the answer, is not heard."""
    stage = Stage()
    stage.begin(7, 1)
    stage.poll(ReachedRung(1, POINT), ConnectionLost("the node is gone"))
    assert stage.told.preempted == {7: "worker 0 on device 0 was lost (the node is gone)"}
    assert (stage.told.lost, stage.told.finished, stage.told.n_ended) == ({}, {}, 1)
    stage.begin(7, 2)
    stage.poll(ReachedRung(2, POINT), Finished(2, DONE))
    assert (stage.told.n_finished_calls, stage.told.n_ended) == (1, 2)
    assert [worker.ends for worker in stage.workers] == [["released"], []]


def test_a_node_that_comes_back_is_heard_by_nobody() -> None:
    """Its handle was dropped when it was lost; what its worker has finished meanwhile is another's to tell."""
    stage = Stage()
    stage.begin(7, 1)
    stage.poll(ConnectionLost("no heartbeat"))
    back = stage.workers[0]
    stage.begin(7, 2)
    back.reports.append(Finished(1, DONE))
    stage.poll()
    assert (stage.told.finished, len(back.reports)) == ({}, 1)
    stage.poll(Finished(2, DONE))
    assert stage.told.n_finished_calls == 1


def test_a_late_message_of_an_earlier_job_concerns_nobody() -> None:
    """Its number is spent: it neither ends nor moves the job that the slot has now."""
    stage = Stage()
    stage.begin(7, 1)
    stage.executor.interrupt()
    stage.poll(Interrupted(1))
    stage.begin(8, 2)
    stage.poll(Stepped(1, 5), ReachedRung(1, POINT), Finished(1, DONE))
    assert (stage.told.interrupted, stage.told.finished, stage.told.steps, stage.told.rungs) == ([7], {}, {}, {})
    stage.poll(Finished(2, DONE), Finished(2, DONE))
    assert (stage.told.finished, stage.told.n_finished_calls) == ({8: DONE}, 1)


@pytest.mark.parametrize("end", [Exited("exited with code 3"), ConnectionLost("the node is gone")])
def test_a_worker_that_ends_after_its_answer_takes_nothing_back(end: Report) -> None:
    stage = Stage()
    stage.begin(7, 1)
    stage.poll(Finished(1, DONE), end)
    assert (stage.told.finished, stage.told.n_ended, stage.executor.n_free()) == ({7: DONE}, 1, 1)


def test_only_an_exit_that_was_told_speaks_against_a_job() -> None:
    stage = Stage(2)
    stage.begin(7, 1)
    stage.poll(Exited("was killed by SIGSEGV"))
    stage.begin(8, 2)
    stage.poll(ConnectionLost("its actor died"))
    assert {trial: (lost.outcome, lost.reason) for trial, lost in stage.told.lost.items()} == {
        7: (Outcome.CRASHED, "worker 0 on device 0 was killed by SIGSEGV")
    }
    assert list(stage.told.preempted) == [8]


def test_an_overdue_job_is_timed_out_when_its_worker_is_known_to_be_dead() -> None:
    stage = Stage()
    stage.begin(7, 1, hasty=True)
    assert (stage.workers[0].ends, stage.told.n_ended) == (["killed"], 0)
    stage.poll(Exited("was killed by SIGKILL"))
    assert stage.told.finished[7].outcome is Outcome.TIMED_OUT


def test_an_overdue_job_that_ends_before_the_kill_arrives_has_its_answer_and_the_slot_waits_for_the_exit() -> None:
    stage = Stage()
    stage.begin(7, 1, hasty=True)
    stage.poll(Finished(1, DONE))
    assert (stage.told.finished, stage.executor.n_free()) == ({7: DONE}, 0)
    stage.poll(Exited("was killed by SIGKILL"))
    assert (stage.told.n_ended, stage.executor.n_free()) == (1, 1)


def test_an_overdue_job_is_preempted_when_nothing_is_known_of_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    stage.begin(7, 1, hasty=True)
    stage.poll(ConnectionLost("the node is gone"))
    stage.begin(8, 2, hasty=True)
    monkeypatch.setattr(supervisor, "SILENT_AFTER_KILL_S", -1.0)
    stage.poll()
    assert sorted(stage.told.preempted) == [7, 8]
    assert "was lost (it was to be killed, and nothing was heard of it)" in stage.told.preempted[8]
    assert stage.workers[1].ends == ["killed", "released"]


@pytest.mark.parametrize("end", [Exited("exited with code 3"), ConnectionLost("the node is gone")])
def test_whatever_ends_an_interrupted_job_leaves_it_to_be_run_again(end: Report) -> None:
    stage = Stage()
    stage.begin(7, 1)
    stage.executor.interrupt()
    stage.poll(end)
    assert (stage.told.interrupted, stage.told.n_ended) == ([7], 1)
    assert stage.workers[0].orders[-1] == Interrupt(1)


def test_a_job_interrupted_on_its_way_is_not_told_to_have_begun() -> None:
    stage = Stage()
    stage.executor.submit(job(7))
    stage.poll()
    stage.executor.interrupt()
    stage.poll(Started(1, this_process()), Stepped(1, 1), Finished(1, DONE))
    assert (stage.told.interrupted, stage.told.started, stage.told.n_ended) == ([7], {}, 1)


def test_a_worker_that_ends_before_it_began_the_job_hands_it_to_the_next_without_a_word() -> None:
    stage = Stage()
    stage.executor.submit(job(7))
    stage.poll(Exited("exited with code 7"))
    stage.poll(Started(1, this_process()), Finished(1, DONE))
    assert len(stage.workers) == 2
    assert (stage.told.finished, stage.told.n_ended) == ({7: DONE}, 1)


def test_where_workers_start_at_once_a_slot_is_free_when_its_worker_is_up_and_comes_back_by_itself() -> None:
    stage = Stage(starts_at_once=True)
    assert stage.executor.n_free() == 0
    stage.poll()
    stage.poll()
    assert stage.executor.n_free() == 1
    stage.poll(ConnectionLost("the node is gone"))
    assert (stage.executor.n_free(), len(stage.workers)) == (0, 2)
    stage.poll()
    assert (stage.executor.n_free(), stage.told.n_ended) == (1, 0)


def test_workers_that_are_lost_again_and_again_before_they_are_up_are_an_error() -> None:
    stage = Stage(starts_at_once=True)
    for _ in range(2):
        stage.poll()
        stage.workers[-1].reports = deque([ConnectionLost("no such module")])
    with pytest.raises(UnetxError, match=r"was lost \(no such module\) while starting, 2 times in a row"):
        stage.poll()


def test_a_slot_whose_worker_is_unfit_is_left_out_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(starts_at_once=True)
    stage.poll()
    stage.workers[0].reports = deque([Unfit("another folder")])
    stage.poll()
    stage.poll()
    assert (len(stage.workers), stage.workers[0].ends) == (1, ["released"])
    assert "worker 0 is tried again in 60 s: another folder" in caplog.text
    monkeypatch.setattr("time.monotonic", lambda: float("inf"))
    stage.poll()
    assert len(stage.workers) == 2


def lose(stage: Stage, number: int, *, may_be_design: bool = True) -> None:
    """The newest worker's device fails under its job, and the worker ends."""
    stage.poll(DeviceLost(number, "CUDA error: an error", may_be_design), Exited("exited with code 0"))


def test_a_device_that_fails_costs_the_job_a_try_and_the_worker_its_life() -> None:
    stage = Stage(2)
    stage.begin(7, 1)
    stage.poll(DeviceLost(1, "CUDA error: device-side assert triggered", may_be_design=True))
    assert stage.told.lost[7].outcome is Outcome.CRASHED
    assert stage.told.lost[7].reason == "worker 0 on device 0 lost its device: CUDA error: device-side assert triggered"
    assert (stage.workers[0].ends, stage.executor.n_free()) == (["killed"], 1), "no job for a worker that ends"
    stage.poll(Exited("was killed by SIGKILL"))
    assert stage.executor.n_free() == 2
    stage.begin(8, 2)
    stage.poll(Finished(2, DONE))
    assert (len(stage.workers), stage.told.finished) == (2, {8: DONE})


def test_a_device_that_has_gone_is_never_held_against_the_job() -> None:
    stage = Stage(2)
    stage.begin(7, 1)
    lose(stage, 1, may_be_design=False)
    assert (list(stage.told.preempted), stage.told.lost) == ([7], {})


def test_a_job_goes_to_another_device_than_the_one_that_failed_under_it() -> None:
    """As long as there is another, even where that one works and the failed one is free."""
    stage = Stage(2)
    stage.begin(7, 1)
    lose(stage, 1)
    assert (stage.executor.takes(7), stage.executor.takes(8)) == (True, True)
    stage.begin(8, 2)
    assert stage.told.started[8] == (0, "device 0")
    stage.begin(7, 3)
    assert stage.told.started[7] == (1, "device 1")
    lose(stage, 3)
    assert stage.executor.takes(7), "both have failed under it, so that either will do"


def test_a_job_waits_while_only_the_device_that_failed_under_it_is_free() -> None:
    stage = Stage(2)
    stage.begin(7, 1)
    other = stage.workers[0]
    stage.begin(8, 2)
    other.reports.extend([DeviceLost(1, "CUDA error", may_be_design=True), Exited("exited with code 0")])
    stage.poll()
    assert (stage.executor.n_free(), stage.executor.takes(7), stage.executor.takes(9)) == (1, False, True)
    stage.poll(Finished(2, DONE))
    assert stage.executor.takes(7)


def test_a_slot_whose_device_fails_under_two_jobs_in_a_row_is_given_up_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(2)
    for number, trial in enumerate((7, 8), 1):
        stage.begin(trial, number)
        lose(stage, number)
    assert "worker 0 is given up, 1 of 2 go on: worker 0 on device 0 lost its device: CUDA error" in caplog.text
    stage.begin(9, 3)
    assert (stage.told.started[9], stage.executor.n_free()) == ((1, "device 1"), 0)


def test_a_job_that_fails_the_same_device_twice_is_no_reason_to_give_it_up() -> None:
    """With one device the job has no other; it may be what does it, and is given up itself after two."""
    stage = Stage()
    for number in (1, 2):
        stage.begin(7, number)
        lose(stage, number)
    stage.begin(8, 3)
    stage.poll(Finished(3, DONE))
    assert stage.told.finished == {8: DONE}


def test_an_answer_in_between_shows_that_a_slot_works() -> None:
    stage = Stage()
    for number in (1, 3, 5):
        stage.begin(number, number)
        lose(stage, number)
        stage.begin(100, number + 1)
        stage.poll(Finished(number + 1, DONE))
    assert stage.executor.n_free() == 1


def test_the_search_ends_when_no_slot_is_left_after_its_last_job_was_told() -> None:
    """A device that has gone fails under the same job again, which is its own fault both times."""
    stage = Stage()
    stage.begin(7, 1)
    lose(stage, 1, may_be_design=False)
    stage.begin(7, 2)
    with pytest.raises(UnetxError, match="the last of 1 slots is given up: worker 0 on device 0 lost its device: CUDA"):
        lose(stage, 2, may_be_design=False)
    assert stage.told.preempted.keys() == {7}


def test_a_slot_that_cannot_start_twice_hands_its_job_to_another() -> None:
    stage = Stage(2)
    stage.executor.submit(job(7))
    stage.poll(Exited("exited with code 7"))
    stage.poll(Exited("exited with code 7"))
    assert stage.told.preempted == {7: "worker 0 on device 0 could not start"}
    stage.begin(7, 2)
    assert stage.told.started[7] == (1, "device 1")


def test_a_worker_that_its_answer_has_spent_is_replaced() -> None:
    """A capture that failed leaves memory taken until the process ends."""
    stage = Stage()
    stage.begin(7, 1)
    spent = replace(DONE, spends_process=True)
    stage.poll(Finished(1, spent))
    assert (stage.told.finished, stage.workers[0].ends, stage.executor.n_free()) == ({7: spent}, ["killed"], 0)
    stage.poll(Exited("was killed by SIGKILL"))
    stage.begin(8, 2)
    assert (len(stage.workers), stage.told.lost) == (2, {})


class Watch:
    """A clock that goes on only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now_s)

    def go_on(self, stage: Stage, seconds: float) -> None:
        """Time passes, and the coordinator polls every half second."""
        for _ in range(round(seconds * 2)):
            self.now_s += 0.5
            stage.poll()


def phases(stage: Stage, watch: Watch, number: int, *waits_s: float) -> None:
    """A job that is silent for so long before each of its words, and then ends well."""
    stage.begin(number, number)
    for wait_s in waits_s:
        watch.go_on(stage, wait_s)
        stage.poll(Stepped(number, 1))
    stage.poll(Finished(number, DONE))


@pytest.mark.parametrize(("slowest_s", "patience_s"), [(30.0, 300.0), (2.0, 180.0)])
def test_a_job_hangs_when_it_is_silent_ten_times_as_long_as_jobs_were_and_three_minutes(
    slowest_s: float, patience_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, stage = Watch(monkeypatch), Stage()
    phases(stage, watch, 1, 1.0, slowest_s, 0.5)
    stage.begin(2, 2)
    watch.go_on(stage, patience_s - 1.0)
    stage.poll(Stepped(2, 1))
    watch.go_on(stage, patience_s)
    assert stage.workers[-1].ends == []
    watch.go_on(stage, 0.5)
    assert stage.workers[-1].ends == ["killed"]
    stage.poll(Exited("was killed by SIGKILL"))
    hung = stage.told.lost[2]
    assert (hung.outcome, hung.reason) == (
        Outcome.TIMED_OUT,
        f"hung: worker 0 on device 0 told nothing for {patience_s:.0f} s and was killed",
    )


def test_a_search_that_was_stopped_for_an_hour_goes_on_with_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-Z stops them all at once, and they have told nothing yet when the coordinator looks again."""
    watch, stage = Watch(monkeypatch), Stage()
    phases(stage, watch, 1, 1.0)
    stage.begin(2, 2)
    watch.now_s += 3000.0
    watch.go_on(stage, 10.0)
    assert stage.workers[0].ends == []
    watch.go_on(stage, 180.0)
    assert stage.workers[0].ends == ["killed"]


def test_before_a_job_has_ended_well_nobody_knows_how_long_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first evaluation may read its data for long; one that was pruned was never scored as a whole."""
    watch, stage = Watch(monkeypatch), Stage()
    stage.begin(1, 1)
    stage.poll(Finished(1, Evaluation(Outcome.PRUNED, score=0.1)))
    stage.begin(2, 2)
    watch.go_on(stage, 1000.0)
    assert stage.workers[0].ends == []


def test_what_the_coordinator_takes_at_a_rung_is_not_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that stays away for long keeps the answer back; the job is not to be killed for it."""
    watch, stage = Watch(monkeypatch), Stage()
    phases(stage, watch, 1, 1.0)
    stage.begin(2, 2)

    def slow(trial: int, point: CurvePoint) -> bool:
        watch.now_s += 900.0
        return False

    monkeypatch.setattr(stage.told, "on_rung", slow)
    stage.poll(ReachedRung(2, POINT))
    assert stage.workers[0].ends == []


def test_close_hangs_up_waits_for_the_exit_and_kills_only_who_does_not_leave() -> None:
    stage = Stage(2)
    stage.begin(7, 1)
    stage.begin(8, 2)
    stage.executor.close(60.0)
    assert [worker.ends for worker in stage.workers] == [["hung up", "released"]] * 2
    assert (stage.told.n_ended, stage.executor.n_free()) == (0, 0)
