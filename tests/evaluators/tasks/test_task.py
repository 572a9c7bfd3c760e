"""A task is the same after a trip through JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from unetx_evaluators.tasks.task import Task


def test_a_task_comes_back_from_json_as_it_was(task: Task) -> None:
    written = replace(
        task, choices={"patch": {"value": [1, 2]}}, alternatives=((1.0, 2.0), (1.0, 1.0)),
        originals={"validation0": (0.5, 0.5)}, slice_spacing=2.5, max_steps=7,
    )  # fmt: skip
    assert Task.from_json(task.folder, json.loads(json.dumps(written.to_json()))) == written
    with pytest.raises(KeyError, match="splits"):
        Task.from_json(task.folder, {name: value for name, value in written.to_json().items() if name != "splits"})
