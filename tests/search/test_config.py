"""What a search can be told, and what it refuses."""

import re
from pathlib import Path
from typing import Any

import pytest

from unetx_search.config import SearchConfig
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
        ({"selection_cases": 0}, "--selection-cases"),
        ({"max_cost": 0.5}, "--max-cost"),
        ({"max_cost": float("nan")}, "--max-cost"),
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
    assert SearchConfig(data=tmp_path, study="mine", out=Path("r")).folder == Path("r/mine")
