"""The list of a folder's studies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coordinator_helpers import Bench

from unetx_evaluators.fake import FakeEvaluator
from unetx_search.listing import listing_json, listing_text, study_overviews
from unetx_search.status import read_status
from unetx_space.errors import RequestError


def test_studies_are_listed_with_state_leader_and_conclusion_and_broken_ones_too(tmp_path: Path) -> None:
    Bench(tmp_path / "good").run(FakeEvaluator(), 6)
    (tmp_path / "good" / "finals").mkdir()
    (tmp_path / "good" / "finals" / "verdict.json").write_text(json.dumps({"conclusion": "No evidence."}))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.db").write_bytes(b"no database at all")
    (tmp_path / "nothing").mkdir()
    broken, good = study_overviews(tmp_path)
    best = read_status(tmp_path / "good").best
    assert best is not None
    assert (good.n_finished, good.n_trials, good.best_trial, good.best_estimate) == (6, 6, best.number, best.estimate)
    assert good.finals == "No evidence."
    assert broken.state.startswith("cannot be read: ")
    text = listing_text((broken, good), tmp_path)
    assert f"best Dice {best.estimate:.4f} (trial {best.number}); complete" in text
    assert "No evidence." in text
    assert [one["folder"] for one in json.loads(listing_json((broken, good)))] == [broken.folder, good.folder]


def test_a_folder_without_studies_says_so(tmp_path: Path) -> None:
    assert listing_text(study_overviews(tmp_path), tmp_path) == f"{tmp_path} holds no study"
    with pytest.raises(RequestError, match="is no folder"):
        study_overviews(tmp_path / "nowhere")
