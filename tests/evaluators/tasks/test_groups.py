from __future__ import annotations

from pathlib import Path

import pytest

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.groups import groups_of
from unetx_evaluators.tasks.options import TaskOptions
from unetx_evaluators.tasks.splits import choose_splits

NAMES = ("p1_day1", "p1_day2", "p2_day1", "p3_day1", "p4_day1")


def table(folder: Path, text: str) -> Path:
    (folder / "patients.csv").write_text(text, encoding="utf-8")
    return folder / "patients.csv"


def test_the_first_bracket_names_the_group() -> None:
    assert groups_of(NAMES, r"(p\d+)_day(\d)") == dict(zip(NAMES, ("p1", "p1", "p2", "p3", "p4"), strict=True))


def test_without_a_bracket_the_whole_match_does() -> None:
    assert groups_of(NAMES, r"^p\d+") == dict(zip(NAMES, ("p1", "p1", "p2", "p3", "p4"), strict=True))


def test_cases_that_the_expression_misses_are_named() -> None:
    with pytest.raises(DataError, match=r"'p\[12\]' finds none for 2 cases \(p3_day1, p4_day1\)"):
        groups_of(NAMES, "p[12]")


def test_an_empty_match_is_no_group() -> None:
    with pytest.raises(DataError, match="finds none for 5 cases"):
        groups_of(NAMES, "x*")
    with pytest.raises(DataError, match=r"finds none for 1 case \(b\)"):
        groups_of(("a", "b"), "(a)|b")


def test_what_is_no_expression_is_refused_with_an_example() -> None:
    with pytest.raises(DataError, match=r"neither \(missing \), unterminated .*patient_"):
        groups_of(NAMES, "p(")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_column_of_a_table_names_the_group(tmp_path: Path, separator: str) -> None:
    rows = [("scan", "site", "patient"), *((name, "x y", name[:2]) for name in NAMES), ("elsewhere", "z", "p9")]
    file = table(tmp_path, "\ufeff" + "\n".join(separator.join(row) for row in rows))
    assert groups_of(NAMES, f"{file}:patient") == {name: name[:2] for name in NAMES}


def test_a_column_called_case_names_the_cases_wherever_it_stands(tmp_path: Path) -> None:
    file = table(tmp_path, "patient,case\n" + "".join(f"{name[:2]},{name}\n" for name in NAMES))
    assert groups_of(NAMES, f"{file}:patient") == {name: name[:2] for name in NAMES}


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("case,patient\np1_day1,a\n", "patien", "unknown column 'patien'; did you mean 'patient'"),
        ("", "patient", "unknown column 'patient'"),
        ("case,patient\np1_day1,a\np1_day1,b\n", "patient", "'p1_day1' is in two groups, 'a' and 'b'"),
        ("case,patient\np1_day1,a\n", "patient", "gives none for 4 cases"),
        ("case,patient\np1_day1\n", "patient", "gives none for 5 cases"),
    ],
)
def test_a_table_that_leaves_questions_is_refused(tmp_path: Path, text: str, column: str, message: str) -> None:
    file = table(tmp_path, text)
    with pytest.raises(DataError, match=message):
        groups_of(NAMES, f"{file}:{column}")


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: cannot be read as a table"):
        groups_of(NAMES, f"{tmp_path}/none.csv:patient")


def test_a_patient_stays_on_one_side() -> None:
    names = [f"p{number // 4}_{number % 4}" for number in range(40)]
    splits = choose_splits(names, TaskOptions(group_by="(p[0-9])"))
    patients = [{name[:2] for name in part} for part in (splits.train, splits.validation, splits.test)]
    assert sum(len(some) for some in patients) == 10
    assert [len(some) for some in patients] == [6, 2, 2]


def test_fewer_groups_than_parts_are_refused() -> None:
    with pytest.raises(DataError, match="at least 3 groups of cases, got 1"):
        choose_splits(NAMES, TaskOptions(group_by="p"))
