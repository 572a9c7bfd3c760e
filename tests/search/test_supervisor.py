"""Why nothing that breaks between an executor and its workers counts a trial twice, on workers that only pretend."""

from __future__ import annotations

from collections import deque

import pytest
from executor_helpers import job
from pretended_workers import DONE, POINT, Stage

from unetx_evaluators.evaluation import Outcome
from unetx_search.executors import supervisor
from unetx_search.executors.messages import (
    Answer,
    Begin,
    ConnectionLost,
    Exited,
    Finished,
    Interrupt,
    Interrupted,
    ReachedRung,
    Report,
    Setup,
    Started,
    Stepped,
    Unfit,
)
from unetx_space.errors import UnetxError
from unetx_studies.processes import this_process


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


def test_close_hangs_up_waits_for_the_exit_and_kills_only_who_does_not_leave() -> None:
    stage = Stage(2)
    stage.begin(7, 1)
    stage.begin(8, 2)
    stage.executor.close(60.0)
    assert [worker.ends for worker in stage.workers] == [["hung up", "released"]] * 2
    assert (stage.told.n_ended, stage.executor.n_free()) == (0, 0)
