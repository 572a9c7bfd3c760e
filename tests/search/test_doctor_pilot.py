"""``doctor --pilot``: the pilot of a search, run beforehand, told as table, JSON and picture, and found again later."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, refusal
from narrowing import there
from rich.console import Console
from task_samples import msd_folder

from unetx_evaluators.evaluation import Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks import cache_entries, cached_task
from unetx_evaluators.tasks.preprocessing import Preparation
from unetx_search import doctor
from unetx_search.audit.recommendation import AuditFile, Recommendation
from unetx_search.config import SearchConfig
from unetx_search.data_choices import DataChoices
from unetx_search.doctor import Findings, diagnose, findings_json, findings_text
from unetx_search.executors.base import Executor, Handler
from unetx_search.executors.inline import InlineExecutor
from unetx_search.piloting import PILOTS
from unetx_search.resolving import stored_pilot
from unetx_search.run import search


@pytest.fixture
def evaluator(tmp_path: Path) -> FakeEvaluator:
    """Keeps a file for every call."""
    return FakeEvaluator(calls_folder=tmp_path / "calls")


@pytest.fixture
def choices(tmp_path: Path) -> DataChoices:
    """A small dataset and a place for the cache."""
    return DataChoices(data=msd_folder(tmp_path / "data"), out=tmp_path / "runs")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings need no processes of their own here."""

    def inline(evaluator: FakeEvaluator, task: Any, slots: Any, **options: Any) -> Executor:
        return InlineExecutor(evaluator, task)

    monkeypatch.setattr(doctor, "LocalExecutor", inline)


def n_calls(evaluator: FakeEvaluator) -> int:
    return len(list(there(evaluator.calls_folder).glob("*.json")))


def seen(choices: DataChoices, evaluator: FakeEvaluator, **options: Any) -> Findings:
    quiet = Console(file=io.StringIO(), width=200)
    return diagnose(choices, console=quiet, evaluator=evaluator, probe=tuple, **{"pilot": True, **options})


def test_every_training_is_a_row_and_what_was_settled_has_its_reasons(
    choices: DataChoices, evaluator: FakeEvaluator
) -> None:
    findings = seen(choices, evaluator)
    assert findings.data is not None
    pilot = there(findings.data.pilot)
    text = findings_text(findings)
    rows = re.findall(r"^ *\d+ +(recipe|steps|another seed) +\d+ +0\.0\d+ +[\d.]+ +0\.8\d{3} +\d+$", text, re.MULTILINE)
    assert len(rows) == len(pilot.trainings) == n_calls(evaluator)
    assert rows[:6] == ["recipe"] * 6, "four recipes, then the two best"
    assert "run now" in text
    told = {choice["what"]: choice for choice in json.loads(findings_json(findings))["data"]["pilot"]["settled"]}
    assert set(told) == {"learning rate", "background weight", "steps"}
    assert told["learning rate"]["reason"] == "the best of 0.01, 0.003 in the pilot"
    chosen = {choice.what: choice.sentence for choice in findings.data.choices}
    assert chosen["steps"].endswith(told["steps"]["reason"]), "in the place of what was planned"
    assert all(text.count(f"{choice['value']}: {choice['reason']}"[:60]) == 2 for choice in told.values())


def test_a_pilot_that_is_kept_is_told_as_such_and_not_run_again(choices: DataChoices, evaluator: FakeEvaluator) -> None:
    first = seen(choices, evaluator)
    n_trained = n_calls(evaluator)
    for is_asked in (True, False):
        again = seen(choices, evaluator, pilot=is_asked)
        assert n_calls(evaluator) == n_trained
        assert again.data is not None
        assert again.data.pilot is not None
        assert again.data.pilot.was_kept
        assert "it was not run again" in " ".join(findings_text(again).split())
        assert replace(again.data.pilot, was_kept=False) == there(first.data).pilot


def test_a_search_finds_task_and_pilot_where_doctor_left_them(choices: DataChoices, evaluator: FakeEvaluator) -> None:
    findings = seen(choices, evaluator)
    n_trained = n_calls(evaluator)
    config = SearchConfig(data=choices.data, out=choices.out, trials=1, cpu_workers=1, study="s", max_hours=1)
    search(config, console=Console(quiet=True), evaluator=evaluator, probe=tuple)
    assert n_calls(evaluator) == n_trained + 1
    assert len(cache_entries(choices.cache_folder)) == 1
    choices_of_study = json.loads((choices.out / "s" / "task.json").read_text(encoding="utf-8"))["choices"]
    shown = {choice.what.replace(" ", "_"): choice.sentence for choice in there(findings.data).choices}
    assert {name: choice["reason"] for name, choice in choices_of_study.items()} == shown
    assert choices_of_study["learning_rate"]["value"] in (1e-2, 3e-3)


@pytest.mark.parametrize("steps", [77, None])
def test_what_an_audit_recommends_is_told(choices: DataChoices, evaluator: FakeEvaluator, steps: int | None) -> None:
    before = seen(choices, evaluator)
    found = there(cached_task(choices.source(), choices.cache_folder, choices.task_options("cpu")))
    pilot = there(stored_pilot(SearchConfig(data=choices.data, out=choices.out), found.task))
    AuditFile.of(found.task, pilot.budget).write(Recommendation(steps, "these are enough"))
    findings = seen(choices, evaluator, pilot=False)
    assert before.data is not None
    assert findings.data is not None
    was, told = ({choice.what: choice.sentence for choice in one.choices} for one in (before.data, findings.data))
    changed = {name: words for name, words in told.items() if was.get(name) != words}
    assert changed == ({"audit": "these are enough"} if steps is None else {"steps": "these are enough, by the audit"})


def test_without_the_option_nothing_is_prepared(choices: DataChoices, evaluator: FakeEvaluator) -> None:
    findings = seen(choices, evaluator, pilot=False)
    assert n_calls(evaluator) == 0
    assert not choices.out.exists()
    assert there(findings.data).pilot is None
    assert "pilot:" not in findings_text(findings)


def test_a_pilot_needs_data(run: Run) -> None:
    assert "--pilot trains on a dataset: name one with --data PATH" in refusal(run, "doctor", "--pilot")


def test_a_pilot_that_fails_is_a_problem_of_the_dataset(choices: DataChoices, evaluator: FakeEvaluator) -> None:
    findings = seen(choices, replace(evaluator, acts_by_seed={0: Outcome.DIVERGED}))
    assert not findings.is_fit
    assert "trainings of the U-Net all failed" in findings.problems[0]
    assert there(findings.data).class_sizes, "the rest is told as ever"


def test_data_with_problems_are_not_trained_on(choices: DataChoices, evaluator: FakeEvaluator) -> None:
    assert choices.data is not None
    (choices.data / "labelsTr" / "a3.nii.gz").write_bytes(b"no NIfTI")
    findings = seen(choices, evaluator)
    assert "a3.nii.gz" in findings.problems[0]
    assert n_calls(evaluator) == 0
    assert not choices.out.exists()


FINE, COARSE = (1.0, 1.0, 1.0), (2.0, 2.0, 2.0)


def test_a_voxel_size_that_the_pilot_chose_is_the_one_that_is_told(
    choices: DataChoices, evaluator: FakeEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_question(seen: object, preparation: Preparation, *_: object) -> Preparation:
        is_planned = preparation.spacing == FINE
        return replace(preparation, alternatives=(COARSE, FINE) if is_planned else ())

    monkeypatch.setattr("unetx_evaluators.tasks.examination.with_field_of_view", in_question)
    monkeypatch.setattr("unetx_evaluators.pilot.COARSER_GAIN", -1.0)
    for _ in ("run", "kept"):
        findings = seen(choices, evaluator)
        assert findings.data is not None
        voxels = {(training.round, training.voxels) for training in there(findings.data.pilot).trainings}
        assert voxels >= {("recipe", "1x1x1 mm"), ("voxel size", "2x2x2 mm"), ("steps", "2x2x2 mm")}
        assert ("steps", "1x1x1 mm") not in voxels
        told = {choice.what: choice for choice in findings.data.choices}
        assert told["spacing"].value == "2x2x2 mm"
        assert "by Dice on the original voxels in the pilot" in told["spacing"].reason
        assert "alternatives" not in told, "nothing is in question any more"
        assert told["patch"].value == "8x10x6 voxels", "of 16x18x12 voxels half as long, rounded up to even numbers"
        assert re.search(r"^no\. .* voxels ", findings_text(findings), re.MULTILINE)


class LeftAlone(InlineExecutor):
    """The user has enough while it works."""

    n_closed = 0

    def poll(self, handler: Handler, timeout_s: float) -> None:
        raise KeyboardInterrupt

    def close(self, timeout_s: float = 10.0) -> None:
        LeftAlone.n_closed += 1


def test_an_interrupted_pilot_closes_its_workers_and_keeps_no_half_of_an_answer(
    run: Run, choices: DataChoices, evaluator: FakeEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LocalExecutor", lambda evaluator, task, *_, **__: LeftAlone(evaluator, task))
    words = ("doctor", "--data", choices.data, "--out", choices.out, "--pilot")
    code, out, err = run(*words)
    assert (code, out) == (130, "")
    assert "stopped in the pilot with 0 of 4 trainings of its round done" in err
    assert LeftAlone.n_closed == 1
    assert (
        list(choices.out.rglob("*.tmp")) == list(choices.out.rglob("users/*")) == list(choices.out.rglob(PILOTS)) == []
    )
    monkeypatch.setattr(doctor, "LocalExecutor", lambda _, task, *__, **___: InlineExecutor(evaluator, task))
    code, out, err = run(*words)
    assert code == 0
    assert "reading" in err, "doctor itself reads every case"
    assert err.count("preparing") == 0, "what was prepared was kept"


def test_the_sheet_shows_the_pilot_with_and_without_images(
    choices: DataChoices, evaluator: FakeEvaluator, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.html"
    for no_images in (False, True):
        findings = seen(replace(choices, no_images=no_images), evaluator, sheet=sheet)
        page = sheet.read_text(encoding="utf-8")
        assert ("<image" in page) == (not no_images)
        assert "<h2>Pilot</h2>" in page
        assert findings.data is not None
        assert findings.data.pilot is not None
        assert page.count('<path class="curve c') == 2 * len(findings.data.pilot.trainings), "in the table and drawn"
