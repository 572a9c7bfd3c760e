from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.split_file import check_splits, read_splits, write_splits
from unetx_evaluators.tasks.splits import choose_splits
from unetx_evaluators.tasks.task import Splits
from unetx_space.errors import RequestError

NAMES = ("a", "b", "c", "d")
SPLITS = Splits(("d", "a"), ("b",), ("c",))


def split_file(folder: Path, **parts: Any) -> Path:
    file = folder / "mine.json"
    file.write_text(json.dumps({**asdict(SPLITS), **parts}), encoding="utf-8")
    return file


def test_the_users_own_split_is_taken_as_it_stands(tmp_path: Path) -> None:
    assert choose_splits(NAMES, TaskOptions(split=split_file(tmp_path))) == SPLITS


def test_what_was_written_beside_a_study_is_a_split_of_the_users_own(tmp_path: Path) -> None:
    write_splits(tmp_path / "splits.json", SPLITS)
    assert read_splits(tmp_path / "splits.json", NAMES) == SPLITS


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": ["a"]}, r"1 case \(d\) in no part"),
        ({"train": ["a", "d", "e"]}, r"1 case \(e\) not in the dataset"),
        ({"validation": ["a", "b"]}, r"1 case \(a\) named more than once"),
        ({"train": ["a", "a", "x"]}, r"\(a\) named more than once; .*\(x\) not in the dataset; .*\(d\) in no part"),
        ({"test": []}, "test needs a case at least"),
        ({"train": "a"}, "train needs a case at least, and is a list"),
        ({"train": [1, 2]}, "train needs a case at least, and is a list"),
        ({"held_out": ["c"]}, r"got 4 fields \(held_out, test, train, validation\)"),
    ],
)
def test_a_split_that_names_not_every_case_once_is_refused_by_name(
    tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_splits(split_file(tmp_path, **parts), NAMES)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "[" * 100_000, "\udcff"])
def test_what_is_no_split_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"mine\.json: .* it is a JSON object like"):
        read_splits(tmp_path / "mine.json", NAMES)


def test_a_file_and_a_drawn_split_exclude_each_other(tmp_path: Path) -> None:
    for options in (
        TaskOptions(split=split_file(tmp_path), folds=3),
        TaskOptions(split=split_file(tmp_path), group_by="x"),
    ):
        with pytest.raises(DataError, match="comes from a file or is drawn"):
            choose_splits(NAMES, options)


def test_a_split_is_written_once_and_agreed_to_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "splits.json"
    check_splits(file, SPLITS)
    write_splits(file, SPLITS)
    before = file.stat().st_mtime_ns
    write_splits(file, SPLITS)
    check_splits(file, SPLITS)
    assert file.stat().st_mtime_ns == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["splits.json"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Splits(("d", "a"), ("c",), ("b",)), r"validation gains 1 case \(c\) and loses 1 case \(b\); test gains"),
        (Splits(("a", "d"), ("b",), ("c",)), "train has another order"),
        (Splits(("d", "a", "e"), ("b",), ("c",)), r"train gains 1 case \(e\); give the options"),
    ],
)
def test_a_study_refuses_another_split_and_keeps_its_own(tmp_path: Path, other: Splits, message: str) -> None:
    file = tmp_path / "splits.json"
    write_splits(file, SPLITS)
    with pytest.raises(RequestError, match=message):
        write_splits(file, other)
    assert read_splits(file, NAMES) == SPLITS
