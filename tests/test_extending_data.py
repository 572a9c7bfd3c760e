"""The page on extending is followed to the letter: a metric and a layout, each in two files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_samples import blobs, disturbed, one_hot
from monai.metrics.surface_distance import compute_average_surface_distance
from PIL import Image
from tiny_task import TINY_BUDGET, tiny_architecture, write_tiny_task
from trial_records import ASKED, NOON

from unetx_evaluators.evaluation import DataError, DataErrors, NullObserver
from unetx_evaluators.metrics import METRICS, Metric, compare, summarise
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import TaskOptions, open_source, prepare
from unetx_evaluators.tasks.sources import open as opening
from unetx_studies.job_states import finished
from unetx_studies.store import Records, open_store, study_url

PAGE = Path(__file__).parents[1] / "docs" / "extending_data.md"


def followed(section: str, **known: object) -> Any:
    """What the entry of a section makes of the module before it."""
    text = PAGE.read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    module, entry = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {"__name__": "added", **known}
    exec(compile(module, "the page", "exec"), names)
    return eval(entry, names)


@pytest.fixture
def metric(monkeypatch: pytest.MonkeyPatch) -> Metric:
    added: Metric = followed("A metric", Metric=Metric)
    monkeypatch.setitem(METRICS, added.name, added)
    return added


def test_an_added_metric_is_scored_stored_and_summarised(metric: Metric, tmp_path: Path) -> None:
    task = write_tiny_task(tmp_path / "task")
    architecture = tiny_architecture(task)
    evaluation = ProxyEvaluator().evaluate(architecture, task, TINY_BUDGET, 0, NullObserver())
    with open_store(study_url(tmp_path), create=True) as store:
        records = Records(store, "s")
        records.begin(ASKED, architecture)
        records.finish(finished(ASKED, evaluation, 0, NOON), evaluation)
        stored = records.case_scores(0)
    values = [score.values[metric.name] for score in stored]
    assert stored == evaluation.case_scores
    assert all(value is not None and value > 0 for value in values)
    told = summarise(stored)[metric.name]
    assert (told["title"], told["unit"], told["higher_is_better"]) == ("average surface distance", "mm", False)
    assert told["by_class"]["bright"] == pytest.approx(np.mean([value or 0 for value in values[::2]]))


@pytest.mark.filterwarnings("ignore::FutureWarning:monai")
def test_the_added_metric_is_monais(metric: Metric) -> None:
    truth = blobs((21, 18, 15), 0)
    prediction = disturbed(truth, 2, 1)
    spacing = (0.5, 0.9, 4.0)
    (one,) = compare(truth, prediction, 2, spacing)
    expected = compute_average_surface_distance(
        one_hot(prediction, 2), one_hot(truth, 2), symmetric=True, spacing=list(spacing)
    )
    assert metric.of(one) == pytest.approx(float(expected[0, 0]), rel=1e-5)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of the added layout, with six cases in a folder of its own naming."""
    added = followed("A dataset layout", Layout=opening.Layout)
    monkeypatch.setattr(opening, "LAYOUTS", (*opening.LAYOUTS, added))
    (tmp_path / "stored").mkdir()
    lines = ["case,image,mask"]
    for number in range(6):
        drawn = np.zeros((40, 40), np.uint8)
        drawn[8:24, 8 + number : 24] = 255
        Image.fromarray(drawn // 2 + 50).save(tmp_path / "stored" / f"{number}.png")
        Image.fromarray(drawn).save(tmp_path / "stored" / f"{number}_drawn.png")
        lines.append(f"patient{number},stored/{number}.png,stored/{number}_drawn.png")
    (tmp_path / "cases.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_an_added_layout_is_recognised_and_prepared(table: Path) -> None:
    source = open_source(table)
    assert (source.layout, source.classes) == ("table of cases", ("background", "foreground"))
    assert source.case_names == tuple(f"patient{number}" for number in range(6))
    task = prepare(source, table / "cache", TaskOptions(), n_workers=1)
    assert task.source == f"table of cases {table}"
    assert task.label("patient0").max() == 1


def test_an_added_layout_tells_all_that_is_wrong_and_is_named_among_the_known(table: Path, tmp_path: Path) -> None:
    (table / "stored" / "1.png").write_bytes(b"no picture")
    with (table / "cases.csv").open("a", encoding="utf-8") as stream:
        stream.write("\nabroad,../a.png,stored/1_drawn.png")
    with pytest.raises(DataErrors, match=r"(?s)leaves the dataset's folder.*1\.png"):
        prepare(open_source(table), table / "cache", TaskOptions(), n_workers=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"table of cases      cases\.csv with the columns"):
        open_source(tmp_path / "empty")
