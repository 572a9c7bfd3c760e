"""Two views of the same files, one for the coordinator and one for a worker: equal, or told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from executor_helpers import TASK

from unetx_evaluators.tasks.task import Task
from unetx_search.executors import shared_files_check
from unetx_search.executors.shared_files_check import SharedFilesCheck
from unetx_space.errors import UnetxError


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_files_check, "VISIBLE_WITHIN_S", 0.0)


def prepared(folder: Path, content: bytes = b"voxels") -> Task:
    """A task whose arrays are there, whatever is in them."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for case in (*TASK.splits.train, *TASK.splits.validation):
            (folder / kind / f"{case}.npy").write_bytes(content)
    return replace(TASK, folder=folder)


def test_a_worker_that_sees_the_same_has_no_problem_and_its_token_arrives(tmp_path: Path) -> None:
    check = SharedFilesCheck.of(prepared(tmp_path / "task"), tmp_path / "checkpoints")
    assert len(check.sizes) == 10
    assert check.problem(3, "node7") == ""
    check.confirm(3, "node7")
    check.forget()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_original_label_maps_of_validation_cases_are_read_too(tmp_path: Path) -> None:
    task = prepared(tmp_path / "task")
    case = task.splits.validation[0]
    (task.folder / "originals").mkdir()
    (task.folder / "originals" / f"{case}.npy").write_bytes(b"voxels")
    check = SharedFilesCheck.of(replace(task, originals={case: (1.0, 1.0)}), tmp_path / "checkpoints")
    assert len(check.sizes) == 11
    assert check.problem(3, "node7") == ""


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    killed = SharedFilesCheck.of(TASK, tmp_path)
    assert killed.problem(0, "node7") == ""
    (tmp_path / "trial-3").write_text("a checkpoint", encoding="ascii")
    SharedFilesCheck.of(TASK, tmp_path).forget()
    assert [path.name for path in tmp_path.iterdir()] == ["trial-3"]


def test_where_nothing_was_prepared_and_nothing_is_kept_there_is_nothing_to_reach() -> None:
    check = SharedFilesCheck.of(TASK, None)
    assert check.problem(0, "node7") == ""
    check.confirm(0, "node7")
    check.forget()


def test_a_cache_that_is_not_there_is_named_with_node_path_and_way_out(tmp_path: Path) -> None:
    check = replace(SharedFilesCheck.of(prepared(tmp_path / "task"), None), arrays=tmp_path / "elsewhere")
    problem = check.problem(0, "node7")
    assert str(tmp_path / "elsewhere") in problem
    assert "on node7 images/a.npy is not to be had (No such file or directory)" in problem
    assert "name it with --cache" in problem


def test_arrays_of_another_size_or_content_are_noticed(tmp_path: Path) -> None:
    check = SharedFilesCheck.of(prepared(tmp_path / "task"), None)
    shorter = replace(check, arrays=prepared(tmp_path / "shorter", b"vox").folder)
    assert "on node7 images/a.npy has 3 bytes, where the coordinator sees 6" in shorter.problem(0, "node7")
    other = replace(check, arrays=prepared(tmp_path / "other", b"VOXELS").folder)
    assert "on node7 images/a.npy has other content" in other.problem(0, "node7")


def test_a_folder_of_checkpoints_that_is_another_one_is_noticed(tmp_path: Path) -> None:
    check = SharedFilesCheck.of(TASK, tmp_path / "here")
    (tmp_path / "there").mkdir()
    problem = replace(check, checkpoints=tmp_path / "there").problem(0, "node7")
    assert "on node7 that folder is not the coordinator's" in problem
    assert "name it with --out" in problem


def test_a_folder_of_checkpoints_that_cannot_be_written_is_noticed(tmp_path: Path) -> None:
    check = SharedFilesCheck.of(TASK, tmp_path)
    check.answer(0).mkdir()  # stands for a folder without permission, which root would have all the same
    assert "on node7 it cannot be written (Is a directory)" in check.problem(0, "node7")


def test_a_worker_whose_token_does_not_arrive_is_refused(tmp_path: Path) -> None:
    check = SharedFilesCheck.of(TASK, tmp_path)
    with pytest.raises(UnetxError, match="what worker 5 wrote on node7 did not arrive"):
        check.confirm(5, "node7")
    check.answer(5).write_text("of an earlier run", encoding="ascii")
    with pytest.raises(UnetxError, match="did not arrive"):
        check.confirm(5, "node7")


def test_paths_are_made_whole_for_workers_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path / "task")
    monkeypatch.chdir(tmp_path)
    check = SharedFilesCheck.of(replace(TASK, folder=Path("task")), Path("checkpoints"))
    assert (check.arrays, check.checkpoints) == (tmp_path / "task", tmp_path / "checkpoints")
