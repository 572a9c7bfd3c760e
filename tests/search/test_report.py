"""Reports of whole studies: what stands on the page, and that nothing on it can do harm."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.tasks import DemoSource
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.views import Prediction, View
from unetx_search.config import SearchConfig
from unetx_search.finals.config import FinalsConfig
from unetx_search.finals.run import finals
from unetx_search.report.insight import insight_sections
from unetx_search.report.page import write_report
from unetx_search.report.study import read_reported_study
from unetx_search.run import search
from unetx_search.status import read_status
from unetx_space.errors import RequestError
from unetx_studies.overlays import overlays
from unetx_studies.ranking import Ranking
from unetx_studies.report.cases import ShownCase
from unetx_studies.report.page import Page, Section, page_html

SOURCE = DemoSource(n_cases=20)
NASTY = "<script>alert(1)</script>&amp;\"'"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    console = Console(quiet=True)
    config = SearchConfig(out=out, trials=16, gpus=0, cpu_workers=2, steps=12, pilot=False, study="s")
    search(config, console=console, evaluator=FakeEvaluator(predicts=True), source=SOURCE)
    finals(
        out / "s", FinalsConfig(top=1, seeds=2, baselines="u-net"), console=console, evaluator=FakeEvaluator(),
        source=SOURCE,
    )  # fmt: skip
    return out / "s"


class Reader(HTMLParser):
    """Collects what a browser would load or show."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def test_the_first_screen_tells_verdict_estimates_cost_and_worst_case(study: Path, tmp_path: Path) -> None:
    write_report(read_reported_study(study), tmp_path / "report.html")
    reader = read((tmp_path / "report.html").read_text(encoding="utf-8"))
    words = " ".join(reader.words)
    ranking = Ranking(read_status(study).evaluations)
    assert ranking.best is not None
    verdict = json.loads((study / "finals" / "verdict.json").read_text(encoding="utf-8"))
    for told in (verdict["conclusion"], f"{ranking.best.estimate:.4f}", "worst case of the best", "of U-Net's"):
        assert told in words
    inside = ("#", "data:image/")
    assert [url for url in reader.loaded if not url.startswith(inside)] == [], "nothing is loaded from anywhere"
    assert reader.tags.count("svg") >= 3


def test_tables_stand_beside_it(study: Path, tmp_path: Path) -> None:
    write_report(read_reported_study(study), tmp_path / "r.html")
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    trials = read_status(study).trials
    assert [(row["trial"], row["dice"]) for row in rows] == [
        (str(trial.number), "" if trial.score is None else str(trial.score)) for trial in trials
    ]
    facts = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert facts["designs"][0]["estimate"] == Ranking(trials).designs[0].estimate


def test_names_stay_text(task: Task) -> None:
    section = Section(NASTY, NASTY, drawings={NASTY: "<svg></svg>"}, table=((NASTY,), [(NASTY,)]))
    drawing = {NASTY: "<svg></svg>"}
    [overlay] = overlays(task, [Prediction.of("validation0", View(None, (0,)), np.asarray(task.label("validation0")))])
    case = ShownCase(NASTY, [NASTY], [overlay])
    page = Page(
        NASTY, NASTY, facts=[(NASTY, NASTY)], worst=[case], classes=["background", NASTY], drawings=drawing,
        differences=[NASTY], limits=[NASTY], sections=[section], thumbnails=drawing,
    )  # fmt: skip
    html = page_html(page)
    assert read(html).tags.count("script") == 3, "the data, plotly and ours"
    assert NASTY not in html


def test_worst_and_best_cases_are_shown_as_both_designs_predict_them(study: Path, tmp_path: Path) -> None:
    write_report(read_reported_study(study), tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    words = " ".join(read(html).words)
    for told in ("Worst case of the best design", "Next worst case", "Best case", "Next best case", "reference"):
        assert told in words
    assert html.count("<image id=") == 5, "four cases, and the worst once more at the top"
    assert html.count("<use href=") == 5, "U-Net's panel shows the same image"


def test_what_explain_and_diagnosis_found_stands_in_the_report(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "s")
    best = read_reported_study(study).best
    assert best is not None
    found = tmp_path / "s" / "explain" / f"trial-{best.number}" / "explain.json"
    found.parent.mkdir(parents=True)
    change = {"mean": -0.125, "low": -0.2, "high": None, "n_cases": 4}
    skip = {"node": "D1", "source": "E3", "dice": {"mean": change}, "role": "helps", "says": NASTY}
    found.write_text(json.dumps({"skips": [skip]}), encoding="utf-8")
    write_report(read_reported_study(tmp_path / "s"), tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "What each skip is worth" in html
    assert "D1 reads E3" in html
    assert NASTY not in html
    read_back = read_reported_study(tmp_path / "s")
    gradients = {
        "1": [{"stage": "E0", "norm": 0.5}],
        "20": [{"stage": "E0", "norm": 0.25}, {"stage": "D0", "norm": None}],
    }
    similar = [{"node": "D1", "source": "E1", "cka": 0.9}]
    insights = {best.number: {"gradients": gradients, "similarities": similar}}
    drawn, redundant, worth = insight_sections(replace(read_back, insights=insights))
    assert drawn.figure is not None
    assert list(drawn.figure.data[0].y) == [0.25], "midway, where it was finite"
    assert redundant.table is not None
    assert redundant.table[1] == [(read_back.name(best), "D1", "E1", "0.9")]
    assert worth.figure is not None
    assert list(worth.figure.data[0].error_x.array) == [0.0], "an end that is not known is not drawn"


def test_without_the_prepared_cases_or_where_images_are_not_wanted_a_report_says_why_it_has_none(
    study: Path, tmp_path: Path
) -> None:
    shutil.copytree(study, tmp_path / "s")
    task = json.loads((tmp_path / "s" / "task.json").read_text(encoding="utf-8"))
    for change, reason in (
        ({"arrays": str(tmp_path / "gone")}, "not in the cache"),
        ({"no_images": True}, "--no-images"),
    ):
        (tmp_path / "s" / "task.json").write_text(json.dumps(task | change), encoding="utf-8")
        write_report(read_reported_study(tmp_path / "s"), tmp_path / "r.html")
        html = (tmp_path / "r.html").read_text(encoding="utf-8")
        assert reason in html
        assert "<image" not in html


def test_a_study_without_a_score_has_a_report_too(tmp_path: Path) -> None:
    from unetx_evaluators.evaluation import Outcome

    config = SearchConfig(out=tmp_path, trials=2, gpus=0, cpu_workers=1, steps=12, pilot=False, study="s")
    console = Console(quiet=True)
    search(config, console=console, evaluator=FakeEvaluator(acts_by_seed={0: Outcome.DIVERGED}), source=SOURCE)
    write_report(read_reported_study(tmp_path / "s"), tmp_path / "report.html")
    words = " ".join(read((tmp_path / "report.html").read_text(encoding="utf-8")).words)
    assert "diverged" in words
    with pytest.raises(RequestError, match="is not there"):
        read_reported_study(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="cannot be written"):
        write_report(read_reported_study(tmp_path / "s"), tmp_path / "missing" / "report.html")
