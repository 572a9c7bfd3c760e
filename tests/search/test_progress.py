"""What a person sees while a search runs."""

import io
import threading

import pytest
from rich.console import Console
from trial_records import record

from unetx_evaluators.evaluation import CurvePoint, Evaluation, Outcome
from unetx_search.progress import (
    LineReporter,
    LiveReporter,
    SearchProgress,
    StageDisplay,
    WorkerState,
    display,
    duration,
    panel,
)
from unetx_studies.evidence import Evidence, Reliability
from unetx_studies.ranking import Ranked
from unetx_studies.spread import SeedSpread


def progress() -> SearchProgress:
    return SearchProgress(study="liver", n_trials=10, n_steps=100, n_slots=2)


BEST = Ranked((record(0, "u", 0.75),), estimate=0.74, standard_error=0.01)


def plain(width: int = 160) -> Console:
    return Console(file=io.StringIO(), width=width)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_each_finished_trial_is_one_line_with_its_score_and_the_count() -> None:
    console = plain()
    lines = LineReporter(progress(), console)
    lines.trial_started(3, 0, "CPU 0", "random")
    lines.trial_finished(3, Evaluation(Outcome.COMPLETE, score=0.8125, seconds=31.4), BEST, is_best=True)
    lines.trial_started(4, 1, "CPU 1", "sampler")
    lines.trial_finished(4, Evaluation(Outcome.OUT_OF_MEMORY, "out of memory on CPU"), BEST, is_best=False)
    first, second, third = text_of(console).splitlines()
    assert " ".join(first.split()) == "[1/10] trial 3 complete Dice 0.8125 31 s random best so far"
    assert second.split()[:4] == ["[2/10]", "trial", "4", "out-of-memory"]
    assert "out of memory on CPU" in third


def test_a_pruned_trial_tells_its_step_and_no_dice_of_a_few_cases() -> None:
    console = plain()
    lines = LineReporter(progress(), console)
    lines.trial_started(3, 0, "CPU 0", "random")
    curve = (CurvePoint(50, 0.9, 0.4, 10.0), CurvePoint(100, 0.94, 0.3, 20.0))
    pruned = Evaluation(Outcome.PRUNED, "behind", score=0.94, curve=curve, seconds=20.0)
    lines.trial_finished(3, pruned, None, is_best=False)
    assert text_of(console).split() == ["[1/10]", "trial", "3", "pruned", "step", "100", "20", "s", "random"]


def test_the_panel_tells_progress_best_time_left_and_every_worker() -> None:
    console = plain()
    live = LiveReporter(progress(), console, clock=lambda: 0.0)
    live.trial_started(0, 0, "GPU 0: H200", "preset u-net")
    live.trial_finished(0, Evaluation(Outcome.COMPLETE, score=0.75, seconds=60.0), BEST, is_best=True)
    live.trial_started(1, 0, "GPU 0: H200", "preset no-skip")
    live.trial_step(1, 25)
    live.trial_started(2, 1, "GPU 1: H200", "random")
    live.trial_rung(2, CurvePoint(50, 0.6, 0.4, 20.0))
    console.print(panel(live.progress, 65.0))
    shown = text_of(console)
    for fact in ("liver", "1/10 trials", "best Dice 0.7400 (trial 0)", "1 min 5 s so far", "trial 1", "25/100",
                 "GPU 1: H200", "50/100", "Dice 0.6000", "random"):  # fmt: skip
        assert fact in shown
    # Nine trials are left, of which three quarters of one have been trained: 8.25 of 60 s each on two workers.
    assert "about 4 min 8 s left" in shown


def test_a_step_that_takes_long_gives_signs_of_life() -> None:
    console, told = plain(), threading.Event()

    class Lines(io.StringIO):
        def write(self, text: str) -> int:
            if "so far" in text:
                told.set()
            return super().write(text)

    console.file = Lines()
    with StageDisplay(console, every_s=0.01) as steps:
        steps.begin("tracing [it]")
        assert told.wait(timeout=60)
    first, second, *_ = text_of(console).splitlines()
    assert (first, second) == ("tracing [it]", "tracing [it]: 0 s so far")


def test_the_time_left_is_not_guessed_before_the_first_result() -> None:
    assert progress().eta_s() is None
    console = plain()
    console.print(panel(progress(), 0.0))
    assert "not known yet" in text_of(console)


def test_an_interrupted_trial_leaves_its_worker() -> None:
    console = plain()
    lines = LineReporter(progress(), console)
    lines.trial_started(3, 0, "CPU 0", "random")
    lines.trial_interrupted(3)
    assert lines.progress.workers == {}
    assert lines.progress.n_done == 0
    assert "run again under the same number" in text_of(console)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_was_measured_is_told_in_plain_lines_on_a_terminal_and_in_a_log(is_terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=is_terminal, color_system=None)
    seeds = SeedSpread(0.0031, 3, 0.0018, 0.0116)
    with display(progress(), console) as screen:
        screen.measured(Evidence(9, 6, 5, seeds, 0.0049, Reliability(0.71, 0.02, 0.93), None))
    told = text_of(console)
    assert "Measured on 9 complete evaluations of 6 designs" in told
    assert "standard deviation 0.0031 between seeds of one design (95 %: 0.0018 to 0.0116)" in told
    assert "reliability 0.71" in told


def test_a_terminal_gets_the_panel_and_a_pipe_gets_lines() -> None:
    assert isinstance(display(progress(), Console(file=io.StringIO(), force_terminal=True)), LiveReporter)
    assert not isinstance(display(progress(), plain()), LiveReporter)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_worker_counts_towards_the_time_left() -> None:
    now = progress()
    now.seconds.append(10.0)
    now.n_done = 8
    now.workers = {0: WorkerState("CPU 0", 8, "random", step=50), 1: WorkerState("CPU 1", 9, "random", step=50)}
    assert now.eta_s() == pytest.approx((2 - 1.0) * 10 / 2)
