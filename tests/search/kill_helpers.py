"""What the kill tests share: to start and kill a search, and what must hold of a study afterwards."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 240.0

Result = tuple[str, str, int, float | None]
"""Key, outcome, seed, score."""


def search(script: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, whatever that is."""
    command = [sys.executable, str(script), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # with the helpers of all tests
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=environment)


def rows(where: Path | str, query: str) -> list[Any]:
    """An answer of the database, read with nothing but its driver; none where it is not there yet.

    ``where`` is the study's folder, or the URL of a server's database.
    """
    if isinstance(where, Path):
        return _rows_of_file(where, query)
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(where.replace("+psycopg", "")) as database:
        if not database.execute("select 1 from pg_tables where tablename = 'unetx_trials'").fetchall():
            return []
        return list(database.execute(query).fetchall())


def _rows_of_file(folder: Path, query: str) -> list[Any]:
    if not (folder / "study.db").exists():
        return []
    with sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True, timeout=60) as database:
        if not database.execute("select 1 from sqlite_master where name = 'unetx_trials'").fetchall():
            return []
        return database.execute(query).fetchall()


def finished(where: Path | str) -> dict[int, Result]:
    """The finished trials of a study that nobody writes."""
    query = "select number, key, outcome, seed, score from unetx_trials where outcome is not null"
    return {number: tuple(rest) for number, *rest in rows(where, query)}


def check_whole(folder: Path, n_trials: int, url: str | None = None) -> None:
    """A complete study: each trial once, in Optuna's tables and in ours, finished and in agreement."""
    where = url or folder
    if url is None:
        assert rows(folder, "pragma integrity_check") == [("ok",)]
        assert rows(folder, "pragma foreign_key_check") == []
    numbers = [(number,) for number in range(n_trials)]
    assert rows(where, "select number from trials order by number") == numbers
    assert rows(where, "select number from unetx_trials where outcome is not null order by number") == numbers
    states = rows(
        where,
        "select t.state, e.outcome, e.score, v.value from trials t join unetx_trials e "
        "on e.number = t.number left join trial_values v on v.trial_id = t.trial_id",
    )
    assert len(states) == n_trials
    expected = {"complete": "COMPLETE", "pruned": "PRUNED", "crashed": "FAIL"}
    assert all(state == expected[outcome] for state, outcome, _, _ in states)
    assert all(score == value for state, _, score, value in states if state != "FAIL")
    genes = rows(where, "select count(*) from trial_params group by trial_id")
    assert len(genes) == n_trials
    assert len(set(genes)) == 1, "every trial has all its genes"
    assert rows(where, "select name from unetx_studies where holder is not null") == []
    checkpoints = folder / "checkpoints"
    assert not checkpoints.exists() or not [p for p in checkpoints.iterdir() if p.suffix == ""]
