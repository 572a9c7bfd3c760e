"""Predictions over images: kept and read again, drawn with the reference, and never more than may be seen."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unetx_evaluators.evaluation import CaseScore
from unetx_evaluators.tasks.task import Task
from unetx_evaluators.views import Prediction, View
from unetx_studies.overlays import overlays, predictions_svg, read_predictions, write_predictions

SVG = "{http://www.w3.org/2000/svg}"
NASTY = "<script>alert(1)</script>&"


def found(task: Task, *cases: str) -> list[Prediction]:
    """The reference itself as a prediction."""
    return [Prediction.of(case, View(None, (0,)), np.asarray(task.label(case))) for case in cases]


def test_predictions_are_read_as_they_were_written(task: Task, tmp_path: Path) -> None:
    written = [*found(task, "validation0", "validation1"), Prediction(NASTY, View(2, (3, 5)), b"png")]
    write_predictions(tmp_path / "trial.zip", written)
    assert list(read_predictions(tmp_path / "trial.zip").values()) == written


@pytest.mark.parametrize("content", [None, b"", b"no zip", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_missing_or_damaged_holds_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "trial.zip").write_bytes(content)
    assert read_predictions(tmp_path / "trial.zip") == {}


def test_the_drawing_shows_image_reference_and_prediction_of_each_case(task: Task) -> None:
    cases = task.splits.validation[:2]
    scores = [CaseScore(case, name, {"dice": 0.25}) for case in cases for name in task.classes[1:]]
    svg = predictions_svg(task, found(task, *cases), scores, NASTY)
    assert svg is not None
    root = ET.fromstring(svg)
    assert len(list(root.iter(f"{SVG}image"))) == 2
    kinds = [path.attrib["class"] for path in root.iter(f"{SVG}path")]
    shown = sum(len(np.unique(task.label(case))) - 1 for case in cases)
    assert kinds.count("truth") == kinds.count("found") == shown
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert words.count("Dice 0.250") == 2
    assert {"prediction: bright", "prediction: dark"} <= set(words)
    assert NASTY not in svg


def test_a_case_that_is_gone_or_another_now_is_not_drawn(task: Task) -> None:
    [prediction] = found(task, "validation0")
    assert predictions_svg(replace(task, folder=Path("nowhere")), [prediction], [], "t") is None
    other = replace(prediction, case="validation1")
    with pytest.raises(ValueError, match="validation1"):
        overlays(task, [other])
    assert predictions_svg(task, [replace(prediction, png=b"")], [], "t") is None
