"""Devices that fail, slots that are given up, and jobs that hang, on workers that only pretend."""

from __future__ import annotations

from dataclasses import replace

import pytest
from executor_helpers import job
from pretended_workers import DONE, POINT, Stage

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Outcome
from unetx_search.executors.messages import DeviceLost, Exited, Finished, ReachedRung, Stepped
from unetx_space.errors import UnetxError


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
    spent = replace(DONE, needs_new_process=True)
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
