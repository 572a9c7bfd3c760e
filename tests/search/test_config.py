"""What a search can be told, and what it refuses."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from unetx_evaluators.tasks import TaskOptions
from unetx_search import cli
from unetx_search.config import SearchConfig
from unetx_search.data_choices import DataChoices
from unetx_space.errors import RequestError


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"trials": 0}, "--trials"),
        ({"trials": -1}, "--trials"),
        ({"gpus": -1}, "--gpus"),
        ({"seed": -1}, "--seed"),
        ({"cpu_workers": 0}, "--cpu-workers"),
        ({"workers_per_gpu": 0}, "--workers-per-gpu"),
        ({"steps": 0}, "--steps"),
        ({"batch_size": 0}, "--batch-size"),
        ({"width_factor": 0.0}, "--width-factor"),
        ({"width_factor": 1.5}, "--width-factor"),
        ({"width_factor": float("nan")}, "--width-factor"),
        ({"validation_cases": 0}, "--validation-cases"),
        ({"max_cost": 0.5}, "--max-cost"),
        ({"max_cost": float("nan")}, "--max-cost"),
        ({"reseed": -0.1}, "--reseed"),
        ({"reseed": 0.91}, "--reseed"),
        ({"reseed": float("nan")}, "--reseed"),
        ({"margin": -0.001}, "--margin"),
        ({"margin": 1.0}, "--margin"),
        ({"spacing": (1.0,)}, "--spacing"),
        ({"spacing": (1.0, 0.0)}, "--spacing"),
        ({"spacing": (1.0, float("nan"))}, "--spacing"),
        ({"patch": (16, 0)}, "--patch"),
        ({"patch": (16,)}, "--patch"),
        ({"levels": 1}, "--levels"),
        ({"base_width": 0}, "--base-width"),
        ({"memory_gib": 0.0}, "--memory-gib"),
        ({"memory_gib": float("inf")}, "--memory-gib"),
        ({"seconds": 0.0}, "--seconds"),
        ({"split_seed": -1}, "--split-seed"),
        ({"folds": 1}, "--folds"),
        ({"folds": 5, "fold": 5}, "--fold "),
        ({"fold": 1}, "--folds"),
        ({"split": Path("s.json"), "folds": 5}, "--split"),
        ({"split": Path("s.json"), "group_by": "a"}, "--group-by"),
        ({"study": ""}, "--study"),
        ({"study": "../elsewhere"}, "--study"),
        ({"study": ".."}, "--study"),
        ({"study": "a\\b"}, "--study"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_option(settings: dict[str, Any], option: str) -> None:
    with pytest.raises(RequestError, match=re.escape(option)):
        SearchConfig(**settings)


def test_a_study_is_called_after_its_data_unless_it_is_named(tmp_path: Path) -> None:
    assert SearchConfig().study_name == "demo"
    assert SearchConfig(data=tmp_path / "spleen").study_name == "spleen"
    assert SearchConfig(data=tmp_path / "spleen" / "..").study_name == tmp_path.name
    (tmp_path / "dataset_0.json").write_text("{}", encoding="utf-8")
    assert SearchConfig(data=tmp_path / "dataset_0.json").study_name == "dataset_0"
    assert SearchConfig(data=tmp_path, study="mine", out=Path("r")).folder == Path("r/mine")


def test_every_option_of_a_task_can_be_said_and_reaches_it() -> None:
    said: dict[str, Any] = {
        "dims": 2,
        "spacing": (1.0, 1.0, 3.0),
        "normalisation": "ct",
        "patch": (64, 64),
        "levels": 4,
        "base_width": 16,
        "memory_gib": 4.0,
        "seconds": 10.0,
        "split_seed": 3,
        "folds": 5,
        "fold": 2,
        "group_by": "p",
        "pseudonyms": True,
        "no_images": True,
    }
    options = SearchConfig(**said).task_options("cuda")
    assert {name: getattr(options, name) for name in said} == said
    assert options.machine == "cuda"
    own = DataChoices(split=Path("s.json")).task_options("cpu")
    assert own.split == Path("s.json")
    assert own == replace(TaskOptions(), split=Path("s.json")), "left alone, everything is chosen from the data"
    assert {field.name for field in fields(TaskOptions)} == {*said, "machine", "split", "batch_size"}, (
        "which train says"
    )


def test_all_studies_below_a_folder_share_a_cache(tmp_path: Path) -> None:
    assert SearchConfig(out=tmp_path, study="a").cache_folder == SearchConfig(out=tmp_path, study="b").cache_folder
    assert SearchConfig(out=tmp_path).cache_folder == tmp_path / ".cache"
    assert SearchConfig(out=tmp_path, cache=Path("c")).cache_folder == Path("c")


@pytest.mark.parametrize(
    ("words", "spacing", "patch"),
    [
        (["--spacing", "1x1x2.5", "--patch", "32X32x8"], (1.0, 1.0, 2.5), (32, 32, 8)),
        (["--spacing", "1,1", "--patch", "32,32"], (1.0, 1.0), (32, 32)),
    ],
)
def test_sizes_are_written_as_people_write_them(
    words: list[str], spacing: tuple[float, ...], patch: tuple[int, ...]
) -> None:
    _, bound, _ = cli.app.parse_args(["doctor", *words])
    choices = bound.arguments["choices"]
    assert (choices.spacing, choices.patch) == (spacing, patch)
