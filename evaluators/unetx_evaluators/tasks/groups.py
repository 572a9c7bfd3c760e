"""Groups of cases that a split must not separate, such as the scans of a patient or the tiles of a slide."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import listed
from unetx_space.errors import unknown_name

CASE_COLUMN = "case"
"""The column of a CSV file that names the cases; without it, the first one does."""

_TABLE = re.compile(r"(?P<file>.+\.[ct]sv):(?P<column>[^:]+)", re.IGNORECASE)


def groups_of(names: Sequence[str], group_by: str) -> dict[str, str]:
    """The group of every case, by a regular expression on its name, or by a column given as ``FILE.csv:COLUMN``.

    A group is the expression's first capturing group, or the whole match if it has none. Raises DataError where a case
    has no group.
    """
    table = _TABLE.fullmatch(group_by)
    groups = _from_table(Path(table["file"]), table["column"]) if table else _from_names(names, group_by)
    missing = [name for name in names if not groups.get(name)]
    if missing:
        where = f"the table {table['file']} gives" if table else f"the expression {group_by!r} finds"
        raise DataError(
            f"every case needs a group; {where} none for {listed(missing, 'case')}; complete the table, or widen the "
            "expression"
        )
    return {name: groups[name] for name in names}


def _from_names(names: Sequence[str], expression: str) -> dict[str, str]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise DataError(
            f"a group is found by a regular expression on the case name or by FILE.csv:COLUMN, got {expression!r}, "
            f"which is neither ({error}); patient_(\\d+), say, groups by the number after patient_"
        ) from error
    matches = {name: pattern.search(name) for name in names}
    return {name: (match[1] if pattern.groups else match[0]) or "" for name, match in matches.items() if match}


def _from_table(file: Path, column: str) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as a table ({error}); give FILE.csv:COLUMN, in UTF-8") from error
    header = lines[0] if lines else ""
    rows = csv.DictReader(lines, delimiter=max(",;\t", key=header.count))
    columns = list(rows.fieldnames or ())
    if column not in columns:
        raise DataError(f"{file}: {unknown_name('column', column, columns)}")
    case_column = CASE_COLUMN if CASE_COLUMN in columns else columns[0]
    groups: dict[str, str] = {}
    for row in rows:
        case, group = (str(row[key] or "").strip() for key in (case_column, column))
        if groups.setdefault(case, group) != group:
            raise DataError(f"{file}: case {case!r} is in two groups, {groups[case]!r} and {group!r}; mend the table")
    return groups
