"""What a search leaves to be looked at: predictions of leading designs, notes of every trial, figures of the study."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import optuna
import optuna_dashboard
import pytest
from optuna.artifacts import get_all_artifact_meta
from rich.console import Console
from trial_records import preset, record

from unetx_evaluators.evaluation import Evaluation, Outcome
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks import DemoSource
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.views import Prediction, View
from unetx_search.config import SearchConfig
from unetx_search.report.dashboard_plots import show_study_plots
from unetx_search.report.study import read_reported_study
from unetx_search.run import search
from unetx_search.study_pictures import MAX_FILES, N_LEADING, PLOT_EVERY_S, StudyPictures, predictions_file
from unetx_studies.overlays import read_predictions
from unetx_studies.ranking import Ranking
from unetx_studies.store import Records, optuna_storage, study_url
from unetx_studies.trial_note import markdown_escaped

SEEN = Evaluation(Outcome.COMPLETE, predictions=(Prediction("a", View(None, (0,)), b"png"),))


def searched(out: Path, *, no_images: bool = False) -> Path:
    config = SearchConfig(
        out=out, trials=4, gpus=0, cpu_workers=1, steps=12, pilot=False, study="s", no_images=no_images
    )
    search(config, console=Console(quiet=True), evaluator=FakeEvaluator(predicts=True), source=DemoSource(n_cases=20))
    show_study_plots(read_reported_study(out / "s"))
    return out / "s"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched(tmp_path_factory.mktemp("runs"))


def shown(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=optuna_storage(study_url(folder), read_only=True))


def test_each_trial_shows_its_drawing_then_predictions_curve_and_scores_by_class(study: Path) -> None:
    kept = shown(study)
    for trial in kept.trials:
        names = [meta.filename for meta in get_all_artifact_meta(trial, storage=kept._storage)]
        assert sorted(names) == ["architecture.svg", "curve.svg", "predictions.svg"]
        system = kept._storage.get_study_system_attrs(kept._study_id)
        note = optuna_dashboard._note.get_note_from_system_attrs(system, trial._trial_id)["body"]
        places = [
            note.index(words) for words in ("architecture of", "predictions of", "curve of", "parameters", "class")
        ]
        assert places == sorted(places)
        assert len(read_predictions(predictions_file(study, trial.number))) == 4


def test_the_studys_own_figures_are_in_the_dashboard(study: Path) -> None:
    kept = shown(study)
    figures = optuna_dashboard._custom_plot_data.get_plotly_graph_objects(
        kept._storage.get_study_system_attrs(kept._study_id)
    )
    assert figures.keys() == {"progress", "dice-and-cost", "skip-map"}
    [heat] = json.loads(figures["skip-map"])["data"]
    assert heat["y"][0] == "D0"
    assert "E0" in heat["x"]


def test_no_images_leaves_no_picture_of_the_data_anywhere(tmp_path: Path) -> None:
    folder = searched(tmp_path, no_images=True)
    assert not (folder / "predictions").exists()
    texts = [file.read_text(encoding="utf-8") for file in (folder / "artifacts").iterdir()]
    assert len(texts) == 8, "a drawing and a curve of each trial"
    assert not any("<image" in text for text in texts)


def test_a_study_that_goes_on_without_images_gives_up_those_it_has(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "s")
    assert any("<image" in file.read_text(encoding="utf-8") for file in (tmp_path / "s" / "artifacts").iterdir())
    folder = searched(tmp_path, no_images=True)
    assert not (folder / "predictions").exists()
    texts = [file.read_text(encoding="utf-8") for file in (folder / "artifacts").iterdir()]
    assert len(texts) == 8
    assert not any("<image" in text for text in texts)


def test_predictions_of_designs_that_fell_behind_go(tmp_path: Path) -> None:
    task = cast(Task, SimpleNamespace(no_images=False))
    made = StudyPictures(tmp_path, "s", task, cast(Records, None), plot=lambda: None)
    trials = [record(0, "u", 0.1, origin=preset("u-net"))]
    trials += [record(n, f"d{n}", 0.9 - 0.01 * n) for n in range(1, MAX_FILES + 5)]
    for place, trial in enumerate(trials):
        made.keep(trial, SEEN, Ranking(trials[:place]))
        assert predictions_file(tmp_path, trial.number).exists()
    left = {trial.number for trial in trials if predictions_file(tmp_path, trial.number).exists()}
    assert left >= {0, *range(1, N_LEADING)}, "presets, and the first of the ranking"
    assert len(left) <= MAX_FILES


def test_figures_are_drawn_once_a_minute_and_less_often_where_that_takes_long(tmp_path: Path) -> None:
    task = cast(Task, SimpleNamespace(no_images=True))
    now, drawn = [0.0], []

    def plot() -> None:
        drawn.append(now[0])
        now[0] += 3.0

    made = StudyPictures(tmp_path, "s", task, cast(Records, None), plot, clock_s=lambda: now[0])
    trial = record(0, "u", 0.5)
    for at in (1.0, PLOT_EVERY_S, PLOT_EVERY_S + 100.0, PLOT_EVERY_S + 304.0):
        now[0] = at
        made.keep(trial, replace(SEEN), Ranking())
    assert drawn == [PLOT_EVERY_S, PLOT_EVERY_S + 304.0], "three seconds are a hundredth of 300"


def test_a_strangers_words_are_text_in_markdown() -> None:
    assert markdown_escaped("a|b <b>*x*</b>") == "a&#124;b &#60;b&#62;&#42;x&#42;&#60;&#47;b&#62;"
