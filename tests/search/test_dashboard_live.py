"""Stock optuna-dashboard, asked while a search runs: the trial that trains is there, with its genes and its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna_dashboard
import pytest
from coordinator_helpers import Bench

from unetx_evaluators.evaluation import CurvePoint
from unetx_evaluators.fake import FakeEvaluator
from unetx_studies.store import optuna_storage


def answer(url: str, path: str, query: str = "") -> Any:
    """What optuna-dashboard, opened anew on the database, tells its page."""
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ.update(PATH_INFO=path, QUERY_STRING=query)
    storage = optuna_storage(url, read_only=True)
    return json.loads(b"".join(optuna_dashboard.wsgi(storage)(environ, lambda *_: None)))


def test_a_trial_that_runs_is_shown_with_its_genes_and_its_scores(tmp_path: Path, server_url: str | None) -> None:
    bench = Bench(tmp_path, server_url)
    seen: list[Any] = []

    def look(trial: int, point: CurvePoint) -> None:
        if (trial, point.step) == (2, 4):
            [study] = answer(bench.url, "/api/studies")["study_summaries"]
            seen.append(answer(bench.url, f"/api/studies/{study['study_id']}", "after=0"))

    bench.notes.trial_rung = look  # type: ignore[method-assign]
    bench.run(FakeEvaluator(), 4)
    [detail] = seen
    assert [trial["state"] for trial in detail["trials"]] == ["Complete", "Complete", "Running"]
    running = detail["trials"][2]
    names = {param["name"] for param in running["params"]}
    assert len(names) == len(bench.setup.space.genes)
    assert {"D1 reads E0", "D0 reads E2", "D1 upsampler", "D1 alignment"} <= names
    assert [value["step"] for value in running["intermediate_values"]] == [2, 4]
    attrs = {attr["key"]: attr["value"] for attr in running["user_attrs"]}
    assert attrs["origin"] == "random"
    assert attrs["key"] == bench.records_now[2].key
    first = bench.records_now[0]
    assert detail["trials"][0]["values"] == [pytest.approx(first.score)]
