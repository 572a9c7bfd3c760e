"""A dataset's pilot runs once, on the search's workers, and the study keeps what it settled."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from executor_helpers import TASK
from rich.console import Console
from rich.text import Text

import unetx_evaluators.pilot
from unetx_evaluators.budgets import default_budget
from unetx_evaluators.evaluation import Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.pilot import Limits, Pilot, PilotJob
from unetx_evaluators.tasks import DemoSource, Task, prepare
from unetx_search.config import SearchConfig
from unetx_search.executors.inline import InlineExecutor
from unetx_search.piloting import PILOTS, PilotFailed, PilotFile, RoundBar, piloted
from unetx_search.resolving import pilot_limits, stored_pilot, unpiloted_budget
from unetx_search.run import Summary, search
from unetx_space.errors import RequestError

SOURCE = DemoSource(n_cases=6)
(DEMO_FILE,) = (Path(unetx_evaluators.pilot.__file__).parent / PILOTS).iterdir()
"""The answer for the built-in demo, stored with the package."""
LIMITS = Limits(max_steps=8)


def pilot(task: Task, evaluator: FakeEvaluator, limits: Limits = LIMITS, **tasks: Task) -> tuple[Pilot, str]:
    """What is settled, and what was said on the way. ``tasks`` are those at other voxel sizes, by these."""
    said = io.StringIO()
    found = piloted(
        task,
        replace(default_budget(task), steps=8, rungs=(8,)),
        limits,
        executor_of=lambda task: InlineExecutor(evaluator, task),
        prepared_at=lambda spacing: tasks[str(spacing)],
        console=Console(file=said, width=200),
    )
    return found, said.getvalue()


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "task").mkdir()
    return replace(TASK, folder=tmp_path / "task")


@pytest.fixture
def evaluator(tmp_path: Path) -> FakeEvaluator:
    """Keeps a file for every call."""
    return FakeEvaluator(noise=0.0, calls_folder=tmp_path / "calls")


def n_calls(evaluator: FakeEvaluator) -> int:
    assert evaluator.calls_folder is not None
    return len(list(evaluator.calls_folder.glob("*.json")))


def test_it_runs_once_and_is_found_with_the_task(task: Task, evaluator: FakeEvaluator) -> None:
    first, said = pilot(task, evaluator)
    assert n_calls(evaluator) == 8, (
        "four recipes, two, all steps, another seed; the fake ends alike after any number of steps"
    )
    assert said.count("Dice 0.8") == 8
    assert "2: twice as many, or four times, gain less than 0.01 Dice a doubling" in said
    again, said = pilot(task, evaluator)
    assert (again, said) == (first, "")
    assert n_calls(evaluator) == 8


@pytest.mark.parametrize("damage", ["", "{", '{"budget": 1}', "[]"])
def test_a_damaged_file_is_as_good_as_none(damage: str, task: Task, evaluator: FakeEvaluator) -> None:
    first, _ = pilot(task, evaluator)
    (file,) = (task.folder / PILOTS).iterdir()
    file.write_text(damage, encoding="utf-8")
    assert pilot(task, evaluator)[0].budget == first.budget
    assert n_calls(evaluator) == 16


@pytest.mark.parametrize("limits", [replace(LIMITS, min_gain=0.5), replace(LIMITS, max_steps=16)])
def test_another_question_has_another_answer(limits: Limits, task: Task, evaluator: FakeEvaluator) -> None:
    pilot(task, evaluator)
    pilot(task, evaluator, limits)
    assert n_calls(evaluator) == 16
    assert len(list((task.folder / PILOTS).iterdir())) == 2


def test_voxel_sizes_in_question_are_trained_each_on_its_own_task(task: Task, evaluator: FakeEvaluator) -> None:
    fine, coarse = (1.0, 1.0), (2.0, 2.0)
    limits = replace(LIMITS, learning_rates=(1e-2,), background_weights=(1.0,), alternatives=(fine, coarse), steps=8)
    deeper = replace(task, strides=(*task.strides, (2, 2)), widths=(*task.widths, 256), digest="1")
    found, said = pilot(replace(task, alternatives=(fine, coarse)), evaluator, limits, **{str(fine): deeper})
    assert n_calls(evaluator) == 2
    assert "voxels of 1x1 mm: Dice" in said
    assert found.spacing in (fine, coarse)


def test_a_round_that_comes_to_nothing_ends_it(task: Task) -> None:
    with pytest.raises(PilotFailed, match=r"learning rate 0\.01, background weight 1 ended as diverged"):
        pilot(task, FakeEvaluator(acts_by_seed={0: Outcome.DIVERGED}))
    assert not (task.folder / PILOTS).exists(), "nothing was settled"


def test_on_a_terminal_a_bar_tells_trainings_and_steps_of_the_round() -> None:
    shown = []
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=120)
        jobs = [PilotJob("recipe", replace(default_budget(TASK), steps=8, rungs=(8,)))] * 2
        with RoundBar(jobs, console) as bar:
            bar.on_step(0, 3)
            bar.on_step(1, 5)
            bar.on_end(1)
        assert isinstance(console.file, io.StringIO)
        shown.append(Text.from_ansi(console.file.getvalue()).plain)
    assert "pilot: recipe" in shown[0]
    assert "1 of 2 trainings" in shown[0]
    assert "11 of 16 steps" in shown[0], "3 of the one, all 8 of the other"
    assert shown[1] == ""


def test_what_the_cache_has_is_taken_before_what_comes_with_the_package(task: Task, evaluator: FakeEvaluator) -> None:
    kept = PilotFile(task.folder / PILOTS / DEMO_FILE.name)
    packaged = kept.read()
    assert packaged == PilotFile(DEMO_FILE).read() is not None
    other, _ = pilot(task, evaluator)
    kept.write(other)
    assert kept.read() == other != packaged


def test_the_built_in_demo_asks_no_pilot(tmp_path: Path) -> None:
    config = SearchConfig(gpus=0)
    prepared = prepare(DemoSource(), tmp_path, config.task_options("cpu"))
    found = PilotFile.of(prepared, unpiloted_budget(config, prepared), pilot_limits(config, prepared))
    remedy = "the demo's pilot is stale: run `python benchmarks/make_demo_pilot.py` and commit what it writes"
    assert found.path.name == DEMO_FILE.name, remedy
    answer = stored_pilot(config, prepared)
    assert answer is not None, remedy
    assert answer.reasons.keys() == {"learning_rate", "background_weight", "steps"}


def test_a_longest_training_that_fails_leaves_the_shorter_ones(task: Task, tmp_path: Path) -> None:
    seventh = FakeEvaluator(calls_folder=tmp_path / "calls", acts_by_call={6: Outcome.DIVERGED})
    found, said = pilot(task, seventh)
    assert found.budget.steps == 2
    assert "8 steps, learning rate 0.01, background weight 1: diverged" in said


def run(out: Path, evaluator: FakeEvaluator, **changes: Any) -> Summary:
    settings: dict[str, Any] = {"trials": 1, "gpus": 0, "cpu_workers": 2, "study": "s", **changes}
    quiet = Console(stderr=True, quiet=True)
    return search(SearchConfig(out=out, **settings), console=quiet, evaluator=evaluator, source=SOURCE)


def begun_with(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_studies_of_one_dataset_share_its_pilot_and_a_study_keeps_its_answer(
    tmp_path: Path, evaluator: FakeEvaluator
) -> None:
    run(tmp_path, evaluator)
    assert n_calls(evaluator) == 8 + 1
    run(tmp_path, evaluator, study="t", seed=1)
    assert n_calls(evaluator) == 9 + 1
    settled = begun_with(tmp_path / "s")["budget"]
    assert settled == begun_with(tmp_path / "t")["budget"]
    shutil.rmtree(tmp_path / ".cache")
    run(tmp_path, evaluator, trials=2)
    assert n_calls(evaluator) == 10 + 1, "a study that goes on asks no pilot"


def test_a_study_without_a_pilot_has_the_default_budget(tmp_path: Path, evaluator: FakeEvaluator) -> None:
    run(tmp_path, evaluator, pilot=False, learning_rate=4e-3, steps=6)
    assert n_calls(evaluator) == 1
    recipe = begun_with(tmp_path / "s")["budget"]["recipe"]
    assert recipe["learning_rate"] == 4e-3
    with pytest.raises(RequestError, match=r"budget\.recipe\.learning_rate: begun with 0\.004, now 0\.002"):
        run(tmp_path, evaluator, pilot=False, learning_rate=2e-3, steps=6, trials=2)
