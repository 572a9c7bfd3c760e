"""A study as who looks on sees it: a screen on a terminal, lines elsewhere, until the run ends."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
from command_line import Run
from coordinator_helpers import BACKBONE, Bench
from rich.console import Console
from sqlalchemy import text

from unetx_evaluators.evaluation import CurvePoint
from unetx_evaluators.fake import FakeEvaluator
from unetx_search.progress import WORKERS, WorkersFile, WorkerState
from unetx_search.status import Status, read_status
from unetx_search.watching import BARS, screen, spark_line, watch
from unetx_space.architecture import Architecture
from unetx_space.errors import RequestError
from unetx_space.presets import PRESETS
from unetx_studies.store import open_store
from unetx_studies.study_folders import BEST


@pytest.fixture
def running(tmp_path: Path) -> Bench:
    """A study of six trials in the midst of its fifth, as its own process shows it."""
    bench = Bench(tmp_path / "s[red]")
    bench.pruner = optuna.pruners.NopPruner

    class Stop(BaseException):
        pass

    def look(trial: int, point: CurvePoint) -> None:
        if (trial, point.step) == (4, 4):
            WorkersFile(bench.folder / WORKERS).write({0: WorkerState("CPU 0", 4, "random", 4, point.score)})
            raise Stop

    bench.notes.trial_rung = look  # type: ignore[method-assign]
    with suppress(Stop):
        bench.run(FakeEvaluator(), 6, reseed=0.0)
    set_ended(bench, "null")
    return bench


def set_ended(bench: Bench, when: str) -> None:
    with open_store(bench.url, create=False) as store, store.writing() as session:
        session.execute(text(f"update unetx_runs set ended_at = {when}, ending = 'ended'"))
        if when == "null":
            session.execute(text("update unetx_studies set holder = (select id from unetx_runs)"))


def terminal(*, is_terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=120, height=80, color_system=None)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def drawn(status: Status, *, ascii: bool = False) -> str:
    console = terminal()
    console.print(screen(status, ascii=ascii))
    return printed(console)


def test_the_screen_tells_progress_workers_scores_what_they_can_carry_and_the_best_design(running: Bench) -> None:
    genome = PRESETS["u-net"].genome(BACKBONE.n_levels)
    Architecture(BACKBONE, genome).save(running.folder / BEST)
    status = read_status(running.folder)
    assert status.is_running
    told = drawn(status)
    assert "4/6 trials" in told
    assert status.best is not None
    assert f"best Dice {status.best.estimate:.4f} (trial {status.best.number})" in told
    assert "CPU 0" in told
    assert "4/6  Dice 0." in told
    assert "Measured on 4 complete evaluations of 4 designs:" in told
    assert "The best design, trial" in told
    assert "upsampler" in told, "the table below the drawing"
    scores = [trial.score or 0.0 for trial in status.evaluations]
    assert f"{spark_line(scores)}  {min(scores):.4f} to {max(scores):.4f}" in told


def test_a_terminal_without_box_characters_gets_a_screen_too(running: Bench) -> None:
    status = read_status(running.folder)
    line = next(line for line in drawn(status, ascii=True).splitlines() if line.startswith("Dice of complete"))
    assert line.isascii()


def test_the_screen_is_drawn_until_the_run_ends_and_the_last_state_comes_back(running: Bench) -> None:
    console = terminal()
    status = watch(running.folder, console, sleep=lambda seconds: set_ended(running, "'2026-01-01 00:00:00.0'"))
    assert not status.is_running
    assert "4/6 trials" in printed(console)


def test_without_a_terminal_a_line_is_printed_for_every_change_and_none_for_no_change(running: Bench) -> None:
    console, looks = terminal(is_terminal=False), iter(range(3))

    def wait(seconds: float) -> None:
        if next(looks) == 2:
            set_ended(running, "'2026-01-01 00:00:00.0'")

    watch(running.folder, console, sleep=wait)
    [line] = printed(console).splitlines()
    assert line.startswith("4 of 6 trials, best trial ")
    assert line.endswith(", in work 4 (step 4)")


def test_ctrl_c_ends_the_look_and_not_the_study(running: Bench) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    before = (running.folder / "study.db").read_bytes()
    assert watch(running.folder, terminal(), sleep=interrupt).is_running
    assert (running.folder / "study.db").read_bytes() == before


def test_watching_a_study_that_has_ended_shows_nothing_and_one_that_is_none_is_refused(
    running: Bench, tmp_path: Path
) -> None:
    set_ended(running, "'2026-01-01 00:00:00.0'")
    console = terminal(is_terminal=False)
    assert len(watch(running.folder, console).evaluations) == 4
    assert printed(console) == ""
    with pytest.raises(RequestError, match="holds no study"):
        watch(tmp_path, console)


def test_the_command_ends_with_how_the_study_stands(running: Bench, run: Run) -> None:
    set_ended(running, "'2026-01-01 00:00:00.0'")
    code, out, err = run("status", running.folder, "--watch")
    assert (code, err) == (0, "")
    assert out.startswith("s: stopped in order; run the same command to continue")


def test_a_spark_line_spans_the_scores_and_is_not_flattened_by_one_far_below() -> None:
    assert spark_line([0.0, 0.5, 1.0], "abc") == "abc"
    assert spark_line([0.7, 0.7]) == BARS[-1] * 2
    assert spark_line([0.1, 0.90, 0.91, 0.92, 0.93]) == "▁▁▃▆█", "0.1 is below 0.91 - 8 x 0.01"
    assert len(spark_line([float(n) for n in range(500)])) == 60
