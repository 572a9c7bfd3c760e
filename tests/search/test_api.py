"""``import unetx_search as ux``: a search from Python, what it gives, and data that are arrays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest

import unetx_search as ux
from unetx_evaluators.evaluation import DataError
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks.sources.arrays import ArraySource
from unetx_search import run
from unetx_space.errors import RequestError

OPTIONS: dict[str, Any] = {"gpus": 0, "cpu_workers": 1, "steps": 12, "pilot": False, "quiet": True}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches and finals score by a formula."""
    monkeypatch.setattr(run, "proxy_evaluator", lambda slots: FakeEvaluator())
    monkeypatch.setattr("unetx_search.finals.run.proxy_evaluator", lambda slots: FakeEvaluator())


def pairs(n: int = 12, shape: tuple[int, ...] = (16, 16)) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(0)
    masks = [(rng.random(shape) > 0.7).astype(np.int64) for _ in range(n)]
    return [(mask + 0.1 * rng.standard_normal(shape), mask) for mask in masks]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, unetx_search as ux; print({'torch', 'optuna', 'numpy'} & set(sys.modules)); ux.presets"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ux.nothing


def test_a_search_on_arrays_gives_a_study_that_tells_all(tmp_path: Path, fake: None) -> None:
    study = ux.search(pairs(), classes=("background", "cell"), trials=6, out=tmp_path, study="s", **OPTIONS)
    assert study.best is not None
    assert study.best.key == study.ranking[0].key
    assert study.best.build()(np_tensor((1, 1, 16, 16))).shape == (1, 2, 16, 16)
    assert [row["trial"] for row in study.rows()] == list(range(6))
    assert "<svg" in study._repr_html_()
    assert "6 of 6" in repr(study)
    assert study.verdict is None
    results = study.finals(seeds=2, top=1, baselines="u-net", quiet=True)
    assert study.verdict == results.verdict.conclusion
    again = ux.search(pairs(), classes=("background", "cell"), trials=7, out=tmp_path, study="s", **OPTIONS)
    assert len(again.trials) == 7
    assert ux.study(tmp_path / "s").ranking == again.ranking


def np_tensor(shape: tuple[int, ...]) -> Any:
    import torch

    return torch.zeros(shape)


def test_finals_on_other_data_than_the_search_are_refused(tmp_path: Path, fake: None) -> None:
    ux.search(pairs(), trials=3, out=tmp_path, study="s", **OPTIONS)
    with pytest.raises(RequestError, match="these data have other cases: train gains"):
        ux.study(tmp_path / "s").finals(seeds=1, quiet=True)


def eager_tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)


@pytest.mark.parametrize("sampler", [optuna.samplers.RandomSampler(seed=3), eager_tpe, "random"])
def test_any_optuna_sampler_proposes(tmp_path: Path, fake: None, sampler: Any) -> None:
    study = ux.search(pairs(), trials=5, out=tmp_path, study="s", sampler=sampler, reseed=0.0, **OPTIONS)
    assert len(study.trials) == 5
    assert {str(trial.origin) for trial in study.trials[2:]} <= {"sampler", "random"}


def test_a_table_of_trials_needs_pandas(tmp_path: Path, fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    study = ux.search(pairs(), trials=2, out=tmp_path, study="s", **OPTIONS)
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=tuple))
    assert study.frame() == tuple(study.rows())
    assert [row["dice"] for row in study.rows()] == [trial.score for trial in study.trials]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RequestError, match="pip install pandas"):
        study.frame()


def test_a_design_draws_itself_and_is_saved(tmp_path: Path) -> None:
    design = ux.load("attention-u-net")
    assert "attention-gate" in repr(design)
    assert design._repr_html_().startswith("<svg")
    design.save(tmp_path / "a.json")
    assert ux.load(tmp_path / "a.json").key == design.key
    assert "unet++" in ux.presets


def test_a_task_is_prepared_from_arrays(tmp_path: Path) -> None:
    task = ux.task(pairs(shape=(12, 16)), spacing=(0.5, 1.0), quiet=True, out=tmp_path)
    assert (task.dims, task.classes, task.spacing) == (2, ("background", "class_1"), (0.5, 1.0))
    assert len(task.splits.train) + len(task.splits.validation) + len(task.splits.test) == 12


@pytest.mark.parametrize(
    ("image", "channels"), [((4, 8, 6), 4), ((8, 6, 3), 3), ((8, 6), 1)], ids=["first", "last", "none"]
)
def test_channels_stand_before_or_behind_the_others(image: tuple[int, ...], channels: int) -> None:
    values = np.arange(np.prod(image), dtype=np.float32).reshape(image)
    source = ArraySource.of([(values, np.ones((8, 6), np.uint8))])
    case = source.read("case_0")
    assert case.image.shape == (channels, 8, 6)
    assert case.image.flat[0] == 0.0
    assert len(source.channels) == channels


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "got none"),
        ([(np.zeros((8, 8)), np.zeros((8, 8)))], "whole numbers from 0"),
        ([(np.zeros((8, 8)), np.full((8, 8), -1))], "whole numbers from 0"),
        ([(np.zeros((8, 9)), np.ones((8, 8), int))], "the image is 8x9 and its mask 8x8"),
        ([(np.full((8, 8), np.nan), np.ones((8, 8), int))], "NaN or infinite"),
        ([(np.zeros(8), np.ones(8, int))], "2 or 3 axes, got 1"),
        ([(np.zeros((8, 8)), np.zeros((8, 8), int))], "values up to 0"),
        ([(np.zeros((8, 8)), np.ones((8, 8), int)), (np.zeros((4, 8, 8)), np.ones((8, 8), int))], "pair 1: has 2 axes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        ArraySource.of(data)


def test_a_design_is_trained_applied_and_exported(tmp_path: Path) -> None:
    """On arrays, at next to no width; the images to predict are pictures, as arrays have no files."""
    from PIL import Image

    data = pairs(n=8, shape=(16, 16))
    model = tmp_path / "model"
    design = ux.load("u-net", levels=3)
    options: dict[str, Any] = {
        "steps": 4,
        "validations": 1,
        "batch_size": 1,
        "base_width": 4,
        "levels": 3,
        "out": tmp_path,
    }
    trained = ux.train("u-net", data, model=model, quiet=True, device="cpu", **options)
    assert trained.scores["test"]["n_cases"] == 2
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.uint8(255 * data[0][1])).save(images / "a.png")
    done = ux.predict(model, images, tmp_path / "masks", quiet=True, device="cpu")
    assert [file.name for file in done.written] == ["a.png"]
    assert ux.export(design, tmp_path / "a.svg").path.read_text(encoding="utf-8").startswith("<svg")
