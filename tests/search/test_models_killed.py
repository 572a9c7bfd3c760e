"""Trainings and predictions as processes of their own that are killed, continued, and at work at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kill_helpers import DEADLINE_S
from model_samples import cell_folder

N_STEPS = 30
TRAIN = (
    "--patch", "16x16", "--levels", 2, "--base-width", 4, "--batch-size", 2, "--device", "cpu", "--threads", 1,
    "--steps", N_STEPS, "--validations", N_STEPS, "--averaging", 0.2,
)  # fmt: skip


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cell_folder(tmp_path_factory.mktemp("cells"))


def started(*words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "unetx_search", *map(str, words)], stderr=subprocess.DEVNULL)


def n_steps(model: Path) -> int:
    """The last step that a training has told of."""
    file = model / "training.json"
    curve = json.loads(file.read_text())["folds"].get("0", {}).get("curve", []) if file.exists() else []
    return curve[-1]["step"] if curve else 0


@pytest.mark.slow
def test_a_training_that_was_killed_twice_ends_with_the_weights_of_an_unbroken_one(cells: Path, tmp_path: Path) -> None:
    words = ("train", "u-net", "--data", cells, *TRAIN, "--out", tmp_path / "runs", "-o")
    assert started(*words, tmp_path / "unbroken").wait(DEADLINE_S) == 0
    for least in (5, 17):
        process, deadline = started(*words, tmp_path / "broken"), time.monotonic() + DEADLINE_S
        while n_steps(tmp_path / "broken") < least and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert least <= n_steps(tmp_path / "broken") < N_STEPS
        assert not (tmp_path / "broken" / "scores.json").exists()
    assert started(*words, tmp_path / "broken").wait(DEADLINE_S) == 0
    for name in ("weights-fold0.safetensors", "scores.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


@pytest.mark.slow
def test_two_processes_at_the_same_time_predict_half_each_and_nothing_twice(cells: Path, tmp_path: Path) -> None:
    model, masks = tmp_path / "model", tmp_path / "masks"
    words = ("train", "u-net", "--data", cells, *TRAIN, "--out", tmp_path / "runs", "-o", model)
    assert started(*words).wait(DEADLINE_S) == 0
    asked = ("predict", model, "-i", cells / "images", "--device", "cpu", "--threads", 1, "-o")
    both = [started(*asked, masks, "-num_parts", 2, "-part_id", part, "--masks", cells / "masks") for part in (0, 1)]
    assert [process.wait(DEADLINE_S) for process in both] == [0, 0]
    cases = [
        {one["case"] for one in json.loads((masks / f"scores-part{part}.json").read_text())["cases"]} for part in (0, 1)
    ]
    assert cases == [{"c0", "c2", "c4", "c6"}, {"c1", "c3", "c5", "c7"}]
    written = {file.name: file.stat().st_mtime_ns for file in masks.glob("*.png")}
    assert set(written) == {f"c{number}.png" for number in range(8)}
    assert started(*asked, masks, "--continue").wait(DEADLINE_S) == 0
    assert {file.name: file.stat().st_mtime_ns for file in masks.glob("*.png")} == written
    assert started(*asked, tmp_path / "whole").wait(DEADLINE_S) == 0
    assert all((masks / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in written)
