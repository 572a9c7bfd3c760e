from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from painted_source import PaintedSource

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks import TaskOptions, choose_splits, examine, prepare, write_splits
from unetx_evaluators.tasks.privacy import Pseudonymous

SOURCE = PaintedSource()
OPTIONS = TaskOptions(pseudonyms=True)


def test_pseudonyms_are_neutral_numbered_and_in_no_order_of_the_names() -> None:
    names = Pseudonymous(SOURCE).real_names
    assert list(names) == [f"case_{number:04d}" for number in range(1, 9)]
    assert sorted(names.values()) == list(SOURCE.case_names)
    assert list(names.values()) != list(SOURCE.case_names)
    assert Pseudonymous(PaintedSource()).real_names == names


def test_numbers_grow_with_the_dataset() -> None:
    names = Pseudonymous(PaintedSource(n_cases=12_345)).case_names
    assert (names[0], names[-1]) == ("case_00001", "case_12345")


def test_the_cases_are_the_same_under_other_names(tmp_path: Path) -> None:
    real, neutral = prepare(SOURCE, tmp_path, TaskOptions()), prepare(SOURCE, tmp_path, OPTIONS)
    names = json.loads((neutral.folder / "names.json").read_text(encoding="utf-8"))
    assert names == Pseudonymous(SOURCE).real_names
    assert [names[case] for case in neutral.splits.train] == list(real.splits.train)
    for case, name in names.items():
        assert (neutral.image(case) == real.image(name)).all()
        assert (neutral.label(case) == real.label(name)).all()
    assert not (real.folder / "names.json").exists()


def test_nothing_that_leaves_the_cache_holds_a_real_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splits = choose_splits(SOURCE.case_names, OPTIONS)
    source = replace(SOURCE, plain=splits.test)  # for a warning
    with caplog.at_level("DEBUG"):
        task = prepare(source, tmp_path / "cache", OPTIONS)
        (task.folder / "images" / "case_0003.npy").unlink()  # for another
        prepare(source, tmp_path / "cache", OPTIONS)
    write_splits(tmp_path / "splits.json", task.splits)
    found = examine(source, OPTIONS)
    assert found.basis is not None
    leaving = [
        json.dumps(task.to_json()),
        (tmp_path / "splits.json").read_text(encoding="utf-8"),
        caplog.text,
        repr((found.splits, found.choices, found.warnings, found.basis)),
        repr([entry.name for entry in task.folder.rglob("*")]),
    ]
    assert "test cases" in caplog.text
    assert "case_0003 is damaged" in caplog.text
    assert [text for text in leaving if "smith" in text] == []


def test_groups_and_split_files_speak_of_real_names(tmp_path: Path) -> None:
    real = TaskOptions(group_by="smith_0([0-9])")
    neutral = prepare(SOURCE, tmp_path, replace(real, pseudonyms=True))
    names = Pseudonymous(SOURCE).real_names
    assert [names[case] for case in neutral.splits.train] == list(choose_splits(SOURCE.case_names, real).train)
    write_splits(tmp_path / "mine.json", choose_splits(SOURCE.case_names, TaskOptions(split_seed=9)))
    neutral = prepare(SOURCE, tmp_path, TaskOptions(split=tmp_path / "mine.json", pseudonyms=True))
    expected = choose_splits(SOURCE.case_names, TaskOptions(split_seed=9))
    assert [names[case] for case in neutral.splits.test] == list(expected.test)


def test_errors_name_the_files_that_have_to_be_mended(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/files/smith_02\.png: cannot be read"):
        prepare(replace(SOURCE, broken=("smith_02",)), tmp_path, OPTIONS)
