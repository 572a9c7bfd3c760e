"""A search whose database is on a server: the same study, its folder without a database, and no password on disk."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import whole_searches
from command_line import Run, refusal
from kill_helpers import check_whole, rows
from postgres_server import Server
from rich.console import Console
from test_killed import children
from whole_searches import end, start, wait_until

from unetx_search.config import SearchConfig
from unetx_search.run import Summary
from unetx_search.status import decisions_text, read_status, status_json, status_text
from unetx_search.summary import summary_json, summary_text
from unetx_space.errors import RequestError, UnetxError
from unetx_studies.store import optuna_storage

PASSWORD = "corr3ct-h0rse"

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


def run(out: Path, storage: str | None = None, **told: Any) -> Summary:
    return whole_searches.run(out, storage=storage, **told)


def test_a_study_on_a_server_is_continued_and_found_through_its_folder(tmp_path: Path, postgres_url: str) -> None:
    folder = tmp_path / "s"
    first = run(tmp_path, postgres_url)
    assert not (folder / "study.db").exists()
    kept = json.loads((folder / "storage.json").read_text())
    assert kept["url"] == postgres_url.replace("postgresql://", "postgresql+psycopg://")
    assert f"study      {kept['url']}" in summary_text(first)
    assert json.loads(summary_json(first))["database"] == kept["url"]
    again = run(tmp_path, trials=6)
    assert again.evaluations[:4] == first.evaluations
    assert len(run(tmp_path, postgres_url, trials=7).evaluations) == 7
    assert "7 of 7" in status_text(read_status(folder))
    check_whole(folder, 7, postgres_url)
    assert (folder / "best.json").exists()


def test_the_same_search_proposes_the_same_on_a_server_and_in_a_file(tmp_path: Path, postgres_url: str) -> None:
    found = [run(tmp_path / name, url, trials=10, deterministic=1) for name, url in (("f", None), ("p", postgres_url))]
    facts = [[(e.number, e.key, e.outcome, e.score) for e in summary.evaluations] for summary in found]
    assert facts[0] == facts[1]


def test_two_hundred_trials_are_there_exactly_once(tmp_path: Path, postgres_url: str) -> None:
    summary = run(tmp_path, postgres_url, trials=200, sampler="random")
    assert [record.number for record in summary.evaluations] == list(range(200))
    check_whole(tmp_path / "s", 200, postgres_url)


def test_studies_that_share_a_database_see_nothing_of_each_other(tmp_path: Path, postgres_url: str) -> None:
    one = run(tmp_path, postgres_url, study="one", seed=1)
    two = run(tmp_path, postgres_url, study="two", seed=2, trials=3)
    assert run(tmp_path, study="one", seed=1).evaluations == one.evaluations
    for name, summary in (("one", one), ("two", two)):
        status = read_status(tmp_path / name)
        assert (status.study, status.evaluations) == (name, summary.evaluations)
        assert len(status.trials) == len(summary.evaluations) == status.n_trials
    counts = rows(postgres_url, "select study, count(*) from unetx_trials group by study order by study")
    assert counts == [("one", 4), ("two", 3)]


def test_a_study_of_the_same_name_from_another_folder_is_refused_and_leaves_nothing(
    tmp_path: Path, postgres_url: str
) -> None:
    run(tmp_path / "mine", postgres_url)
    with pytest.raises(RequestError, match=r"has a study 's' already.*take another --study NAME"):
        run(tmp_path / "yours", postgres_url)
    assert not (tmp_path / "yours").exists()
    folder = tmp_path / "theirs" / "s"
    folder.mkdir(parents=True)
    kept = json.loads((tmp_path / "mine" / "s" / "storage.json").read_text())
    (folder / "storage.json").write_text(json.dumps({**kept, "id": "another"}))
    with pytest.raises(RequestError, match="was not begun from this folder"):
        run(tmp_path / "theirs")
    check_whole(tmp_path / "mine" / "s", 4, postgres_url)


def test_a_study_of_somebody_elses_in_optunas_tables_is_not_taken_for_ours(tmp_path: Path, postgres_url: str) -> None:
    study = optuna.create_study(storage=optuna_storage(postgres_url), study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(RequestError, match="was not begun from this folder"):
        run(tmp_path, postgres_url)
    assert len(study.trials) == 2


def test_a_study_stays_where_it_was_begun(tmp_path: Path, postgres_url: str) -> None:
    run(tmp_path, postgres_url, study="there", trials=1)
    run(tmp_path, study="here", trials=1)
    elsewhere = "postgresql://postgres@nowhere.invalid/x"
    with pytest.raises(RequestError, match=r"has its database at .*/test_.*--storage names .*nowhere\.invalid/x"):
        run(tmp_path, elsewhere, study="there")
    with pytest.raises(RequestError, match=r"has its database at .*study\.db, and --storage names .*nowhere"):
        run(tmp_path, elsewhere, study="here")


# Passwords.


@pytest.fixture
def keeper(postgres: Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a user whom the server asks for a password, without it."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    database = postgres_url.partition("@/")[2].partition("?")[0]
    with postgres.asking_for_a_password(database, PASSWORD) as url:
        yield url


def with_password(url: str, password: str) -> str:
    return url.replace("keeper@", f"keeper:{password}@")


def files_that_hold(folder: Path, words: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and words.encode() in path.read_bytes()]


def test_a_password_in_the_url_works_and_is_written_nowhere(
    tmp_path: Path, keeper: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    storage = with_password(keeper, PASSWORD)
    summary = run(tmp_path, storage, console=Console(file=said, width=200))
    assert len(summary.evaluations) == 4
    assert files_that_hold(tmp_path, PASSWORD) == []
    config = SearchConfig(storage=storage)
    told = [said.getvalue(), summary_text(summary), summary_json(summary), repr(summary), repr(config)]
    with pytest.raises(UnetxError) as caught:
        read_status(tmp_path / "s")
    assert "passwords are never kept: set PGPASSWORD or ~/.pgpass" in str(caught.value)
    told.append(str(caught.value))
    assert PASSWORD not in "".join(os.environ.values())
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    status = read_status(tmp_path / "s")
    assert len(status.evaluations) == 4
    told += [status_text(status), status_json(status), decisions_text(status), repr(status)]
    assert len(run(tmp_path, trials=5).evaluations) == 5
    assert files_that_hold(tmp_path, PASSWORD) == []
    assert PASSWORD not in "".join(told)
    tables = rows(postgres_url, "select tablename from pg_tables where schemaname = 'public'")
    assert len(tables) > 15
    for (table,) in tables:
        assert PASSWORD not in str(rows(postgres_url, f"select * from {table}")), table


def test_a_wrong_password_is_refused_without_repeating_it(tmp_path: Path, keeper: str) -> None:
    with pytest.raises(RequestError, match="password authentication failed") as caught:
        run(tmp_path / "out", with_password(keeper, "wr0ng-h0rse"))
    assert "wr0ng-h0rse" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes as Linux shows them")
def test_workers_are_not_told_the_password(tmp_path: Path, keeper: str) -> None:
    process = start(tmp_path, 6, 0.2, f"storage={with_password(keeper, PASSWORD)}")
    try:
        wait_until(lambda: len(children(process.pid)) == 2, process)
        for worker in children(process.pid):
            for name in ("cmdline", "environ"):
                assert PASSWORD.encode() not in Path(f"/proc/{worker}/{name}").read_bytes()
        wait_until(lambda: (tmp_path / "s" / "logs").exists(), process)
    finally:
        end(process)
    assert files_that_hold(tmp_path, PASSWORD) == []


# Requests that cannot be met.


@pytest.mark.parametrize(
    ("storage", "answer"),
    [
        ("mysql://me:s3cret@h/x", "is SQLite or PostgreSQL, got mysql"),
        ("postgresql+asyncpg://me:s3cret@h/x", "through psycopg, another driver was named (postgresql+asyncpg)"),
        ("postgresql://me:s3cret@x@h/x", "has one @, in front of the host"),
        ("postgresql://me:s3cret@h:port/x", "expected a database URL like postgresql://USER@HOST/DATABASE"),
        ("s3cret", "expected a database URL like postgresql://USER@HOST/DATABASE"),
        ("sqlite:////somewhere/x.db", "the SQLite file of a study is always study.db in its folder"),
        ("postgresql://me:s3cret@/x?host=/nowhere", "cannot be opened"),
        ("postgresql://me@/x?host=/nowhere&password=s3cret", "cannot be opened"),
        ("postgresql://me:s3cret@/x?host=/nowhere&sslmode=s3cret-", "invalid"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_screen_without_the_password(run: Run, storage: str, answer: str) -> None:
    pytest.importorskip("psycopg", reason="psycopg, the driver, is not installed")
    told = refusal(run, "--trials", "1", "--gpus", "0", "--storage", storage)
    assert answer in told
    assert "s3cret" not in told.replace("s3cret-", "")


def test_a_driver_that_is_missing_is_named_with_the_way_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    told = refusal(run, "--gpus", "0", "--storage", "postgresql://me:s3cret@h/x")
    assert 'pip install "unetx-search[postgres]"' in told
    assert "s3cret" not in told


@pytest.mark.timeout(1800)
def test_a_real_search_on_the_demo_keeps_its_study_on_a_server(run: Run, postgres_url: str) -> None:
    code, out, err = run("--trials", 8, "--gpus", 0, "--storage", postgres_url, "--json")
    assert code == 0, err
    assert json.loads(out)["n_finished"] == 8
    check_whole(Path("runs/demo"), 8, postgres_url)
    code, out, _ = run("status", "runs/demo")
    assert code == 0
    assert "8 of 8" in out
