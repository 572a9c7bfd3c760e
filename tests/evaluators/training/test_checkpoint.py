"""Evaluations that were broken off go on where they were, and trust no file that is not theirs."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from observers import Recorder, without_clocks
from tiny_task import TINY_BUDGET, tiny_architecture

from unetx_evaluators.evaluation import Budget, Evaluation, EvaluationInterrupted, Evaluator, NullObserver, Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.training.checkpoint import Checkpoint
from unetx_evaluators.training.recipe import Recipe

SUPERVISED = replace(TINY_BUDGET, recipe=Recipe(averaging=0.3, deep_supervision=True))
Trainer = tuple[Evaluator, Budget]
TRAINERS: dict[str, Trainer] = {
    "proxy": (ProxyEvaluator(), TINY_BUDGET),
    "proxy with averages and side heads": (ProxyEvaluator(), SUPERVISED),
    "fake": (FakeEvaluator(), TINY_BUDGET),
}


def evaluate(
    trainer: Trainer, task: Task, recorder: Recorder | NullObserver, checkpoint: Path | None = None, seed: int = 3
) -> Evaluation:
    evaluator, budget = trainer
    return evaluator.evaluate(tiny_architecture(task), task, budget, seed, recorder, checkpoint=checkpoint)


def break_off(trainer: Trainer, task: Task, checkpoint: Path, step: int) -> None:
    """Leave an evaluation at a step."""
    with pytest.raises(EvaluationInterrupted):
        evaluate(trainer, task, Recorder(break_off_at=step), checkpoint)


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize(("broken_at", "goes_on_at"), [(1, 1), (3, 3), (4, 3), (5, 5), (6, 5)])
def test_an_evaluation_goes_on_after_the_last_rung_and_ends_as_if_unbroken(
    name: str, broken_at: int, goes_on_at: int, task: Task, tmp_path: Path
) -> None:
    trainer, checkpoint, recorder = TRAINERS[name], tmp_path / "new folder" / "trial.checkpoint", Recorder()
    unbroken = evaluate(trainer, task, NullObserver())
    break_off(trainer, task, checkpoint, broken_at)
    resumed = evaluate(trainer, task, recorder, checkpoint)
    assert without_clocks(resumed) == without_clocks(unbroken)
    assert recorder.steps == list(range(goes_on_at, 7))
    assert [point.step for point in recorder.points] == [rung for rung in (2, 4) if rung >= goes_on_at]


@pytest.mark.parametrize("name", TRAINERS)
def test_it_can_be_broken_off_again_and_again(name: str, task: Task, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    break_off(TRAINERS[name], task, checkpoint, 3)
    break_off(TRAINERS[name], task, checkpoint, 5)
    recorder = Recorder()
    resumed = evaluate(TRAINERS[name], task, recorder, checkpoint)
    assert recorder.steps == [5, 6]
    assert without_clocks(resumed) == without_clocks(evaluate(TRAINERS[name], task, NullObserver()))


def test_another_process_goes_on_with_the_same_bits(task: Task, tmp_path: Path) -> None:
    trainer, checkpoint = TRAINERS["proxy with averages and side heads"], tmp_path / "checkpoint"
    break_off(trainer, task, checkpoint, 5)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        resumed = pool.apply(evaluate, (trainer, task, NullObserver(), checkpoint))
    assert without_clocks(resumed) == without_clocks(evaluate(trainer, task, NullObserver()))


@pytest.mark.parametrize("name", TRAINERS)
def test_seconds_spent_before_it_was_broken_off_count(name: str, task: Task, tmp_path: Path) -> None:
    checkpoint, before = tmp_path / "checkpoint", Recorder(break_off_at=5)
    with pytest.raises(EvaluationInterrupted):
        evaluate(TRAINERS[name], task, before, checkpoint)
    resumed = evaluate(TRAINERS[name], task, NullObserver(), checkpoint)
    assert [point.seconds for point in resumed.curve[:2]] == [point.seconds for point in before.points]
    assert resumed.curve[2].seconds >= resumed.curve[1].seconds


@pytest.mark.parametrize("name", TRAINERS)
def test_a_checkpoint_stays_when_the_evaluation_is_complete(name: str, task: Task, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    assert evaluate(TRAINERS[name], task, NullObserver(), checkpoint).outcome is Outcome.COMPLETE
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["checkpoint"]


@pytest.mark.parametrize("name", TRAINERS)
def test_a_checkpoint_of_another_seed_is_not_used(name: str, task: Task, tmp_path: Path) -> None:
    checkpoint, recorder = tmp_path / "checkpoint", Recorder()
    break_off(TRAINERS[name], task, checkpoint, 5)
    result = evaluate(TRAINERS[name], task, recorder, checkpoint, seed=4)
    assert recorder.steps == [1, 2, 3, 4, 5, 6]
    assert without_clocks(result) == without_clocks(evaluate(TRAINERS[name], task, NullObserver(), seed=4))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _replace(path: Path) -> None:
    path.write_bytes(b"no checkpoint")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_truncate, _flip_a_bit, _replace, _empty])
def test_a_damaged_checkpoint_is_not_used_and_logged(
    damage: Callable[[Path], None], task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, recorder = tmp_path / "checkpoint", Recorder()
    break_off(TRAINERS["proxy"], task, checkpoint, 5)
    damage(checkpoint)
    with caplog.at_level(logging.WARNING):
        result = evaluate(TRAINERS["proxy"], task, recorder, checkpoint)
    assert result.outcome is Outcome.COMPLETE
    assert recorder.steps[0] == 1
    assert f"{checkpoint} is damaged and not used" in caplog.text


class Malicious:
    """Runs code when unpickled without care."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch was_run",)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = Checkpoint(tmp_path / "checkpoint", {})
    checkpoint.save({"poison": Malicious()})
    assert checkpoint.load() is None
    assert not (tmp_path / "was_run").exists()


def test_every_part_of_the_identity_counts(task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Architecture, task, budget and recipe; the seed has a test of its own."""
    checkpoint, architecture = tmp_path / "checkpoint", tiny_architecture(task)
    break_off(TRAINERS["proxy"], task, checkpoint, 5)
    kept = checkpoint.read_bytes()
    for design, data, budget in (
        (tiny_architecture(task, "no-skip"), task, TINY_BUDGET),
        (architecture, replace(task, digest="changed"), TINY_BUDGET),
        (architecture, task, replace(TINY_BUDGET, max_seconds=7.0)),
        (architecture, task, replace(TINY_BUDGET, recipe=Recipe(noise=0.0))),
    ):
        checkpoint.write_bytes(kept)
        caplog.clear()
        recorder = Recorder()
        ProxyEvaluator().evaluate(design, data, budget, 3, recorder, checkpoint=checkpoint)
        assert recorder.steps[0] == 1
        assert "is of another evaluation" in caplog.text


def test_a_checkpoint_that_cannot_be_written_does_not_stop_the_training(
    task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    result = evaluate(TRAINERS["proxy"], task, NullObserver(), tmp_path / "file" / "checkpoint")
    assert result.outcome is Outcome.COMPLETE
    assert "cannot be written" in caplog.text


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    state = {"weights": torch.arange(3.0), "curve": [(1, 0.5)], "none": None}
    Checkpoint(tmp_path / "a", {"seed": 1}).save(state)
    loaded = Checkpoint(tmp_path / "a", {"seed": 1}).load()
    assert loaded is not None
    assert torch.equal(loaded["weights"], state["weights"])  # type: ignore[arg-type]
    assert {**loaded, "weights": 0} == {**state, "weights": 0}
    assert Checkpoint(tmp_path / "a", {"seed": 2}).load() is None
    assert Checkpoint(tmp_path / "absent", {"seed": 1}).load() is None


@pytest.mark.parametrize("broken_at", [2, 4, 6])
def test_a_checkpoint_between_rungs_loses_no_step(
    broken_at: int, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, checkpoint, recorder = TRAINERS["proxy"], tmp_path / "checkpoint", Recorder()
    unbroken = evaluate(trainer, task, NullObserver())
    monkeypatch.setattr("unetx_evaluators.training.trainer.SAVE_EVERY_S", 0.0)
    break_off(trainer, task, checkpoint, broken_at)
    resumed = evaluate(trainer, task, recorder, checkpoint)
    assert recorder.steps == list(range(broken_at, 7)), "the step before the one that it broke off at was the last kept"
    assert without_clocks(resumed) == without_clocks(unbroken), "the mean losses of its rungs, too"
