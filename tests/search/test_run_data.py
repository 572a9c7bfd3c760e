"""What a search does with its data: prepared once for all studies, kept while used, split once and for all."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import whole_searches
from kill_helpers import DEADLINE_S, finished
from painted_source import PaintedSource
from whole_searches import end, start, wait_until

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks import CacheState, DemoSource, TaskOptions, cache_entries, prepare, remove_entry
from unetx_search.summary import summary_json, summary_text
from unetx_space.errors import RequestError

run = partial(whole_searches.run, trials=1, cpu_workers=1, steps=4)


def stored(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_studies_of_one_dataset_share_what_is_prepared(tmp_path: Path) -> None:
    source = PaintedSource(reads=tmp_path / "reads")
    run(tmp_path / "runs", source)
    n_reads = len((tmp_path / "reads").read_text().splitlines())
    run(tmp_path / "runs", source, study="other", seed=1)
    assert len((tmp_path / "reads").read_text().splitlines()) == n_reads
    assert len(cache_entries(tmp_path / "runs" / ".cache")) == 1


def test_the_split_stands_beside_the_study_and_does_not_follow_the_seed(tmp_path: Path) -> None:
    run(tmp_path, PaintedSource())
    splits = stored(tmp_path / "s" / "splits.json")
    assert sorted(name for part in splits.values() for name in part) == list(PaintedSource().case_names)
    run(tmp_path, PaintedSource(), study="t", seed=1)
    assert stored(tmp_path / "t" / "splits.json") == splits
    run(tmp_path, PaintedSource(), study="u", split_seed=1)
    assert stored(tmp_path / "u" / "splits.json") != splits


class Visits(PaintedSource):
    """Five patients who came twice."""

    @property
    def case_names(self) -> tuple[str, ...]:
        return tuple(f"smith{number}_visit{visit}" for number in range(5) for visit in (1, 2))


def test_patients_that_the_split_tears_apart_stand_beside_the_result(tmp_path: Path) -> None:
    summary = run(tmp_path, Visits())
    (warning,) = summary.warnings
    assert warning.endswith('--group-by "^(smith[0-9]+)"')
    assert f"Warning: {warning}" in summary_text(summary).splitlines()
    assert json.loads(summary_json(summary))["warnings"] == [warning]
    assert stored(tmp_path / "s" / "task.json")["choices"]["split"]["warning"] == warning
    assert run(tmp_path, Visits()).warnings == (warning,)  # also when there is nothing left to do
    assert run(tmp_path, Visits(), study="t", group_by="^(smith[0-9]+)").warnings == ()


def test_a_split_of_ones_own_that_tears_patients_apart_is_told(tmp_path: Path) -> None:
    names = Visits().case_names
    parts = {"train": names[:5], "validation": names[5:8], "test": names[8:]}
    (tmp_path / "own.json").write_text(json.dumps(parts), encoding="utf-8")
    (warning,) = run(tmp_path, Visits(), split=tmp_path / "own.json").warnings
    assert "puts cases of 1 of them on several sides" in warning
    assert warning.endswith(f"keep each in one part of {tmp_path / 'own.json'}")


def test_another_split_is_refused_before_any_case_is_read(tmp_path: Path) -> None:
    run(tmp_path, PaintedSource())
    before = (tmp_path / "s" / "splits.json").read_bytes()
    reads = tmp_path / "reads"
    for changes in ({"split_seed": 1}, {"folds": 3}, {"pseudonyms": True}):
        with pytest.raises(RequestError, match=r"splits\.json: a study keeps the split it began with"):
            run(tmp_path, PaintedSource(reads=reads), **changes)
    with pytest.raises(RequestError, match=r"splits\.json"):
        run(tmp_path, PaintedSource(n_cases=9, reads=reads))
    assert not reads.exists()
    assert (tmp_path / "s" / "splits.json").read_bytes() == before


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"sampler": "random"}, {"steps": 5}, {"reseed": 0.5}, {"patch": (16, 8)}, {"dims": 3}]
)
def test_other_settings_are_refused_before_any_case_is_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    run(tmp_path, PaintedSource())
    for entry in cache_entries(tmp_path / ".cache"):
        remove_entry(entry)
    with pytest.raises(RequestError, match=f"{next(iter(changes))}: begun with"):
        run(tmp_path, PaintedSource(reads=tmp_path / "reads"), **changes)
    assert not (tmp_path / "reads").exists()


def test_a_study_tells_its_task_without_the_cache(tmp_path: Path) -> None:
    run(tmp_path, PaintedSource())
    for entry in cache_entries(tmp_path / ".cache"):
        remove_entry(entry)
    task = stored(tmp_path / "s" / "task.json")
    assert task["classes"] == list(PaintedSource.classes)
    assert task["digest"] == stored(tmp_path / "s" / "config.json")["task_digest"]
    assert all(choice["reason"] for choice in task["choices"].values())
    assert run(tmp_path, PaintedSource(), trials=2).n_trials == 2, "and goes on when it is prepared again"


def test_refused_data_leave_nothing_and_what_others_prepared_stays(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    with pytest.raises(DataError, match="smith_02"):
        run(out, PaintedSource(broken=("smith_02",)))
    assert not out.exists()
    prepare(DemoSource(n_cases=4), out / ".cache", TaskOptions())
    with pytest.raises(DataError, match="smith_02"):
        run(out, PaintedSource(broken=("smith_02",)))
    assert [path.name for path in out.iterdir()] == [".cache"]
    assert len(cache_entries(out / ".cache")) == 1


def test_with_pseudonyms_no_real_name_is_in_anything_a_study_holds(tmp_path: Path) -> None:
    run(tmp_path, PaintedSource(), pseudonyms=True)
    files = [file for file in (tmp_path / "s").rglob("*") if file.is_file()]
    assert {"study.db", "splits.json", "task.json", "best.json"} <= {file.name for file in files}
    for file in files:
        assert b"smith" not in file.read_bytes(), file
    assert b"case_0001" in (tmp_path / "s" / "splits.json").read_bytes()


@pytest.mark.slow
def test_what_a_running_search_uses_cannot_be_removed_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, 40, 0.05)
    try:
        wait_until(lambda: len(finished(tmp_path / "s")) > 0, process)
        (entry,) = cache_entries(tmp_path / ".cache")
        assert entry.state is CacheState.IN_USE
        with pytest.raises(DataError, match="is used by a search"):
            remove_entry(entry)
    finally:
        end(process)
    (entry,) = cache_entries(tmp_path / ".cache")
    assert entry.state is CacheState.CURRENT
    assert remove_entry(entry) > 0


@pytest.mark.slow
def test_two_searches_started_together_on_new_data_prepare_them_once(tmp_path: Path) -> None:
    processes = [start(tmp_path, 1, 0.0, f"study={study}") for study in ("s", "t")]
    told = [process.communicate(timeout=DEADLINE_S)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert sum(text.count("preparing 6 cases") for text in told) == 1
    assert len(cache_entries(tmp_path / ".cache")) == 1
    assert stored(tmp_path / "s" / "config.json") == stored(tmp_path / "t" / "config.json")
