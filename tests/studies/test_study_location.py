"""Where a study's database lies, as its folder keeps it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from unetx_space.errors import RequestError
from unetx_studies.store import check_writable, find_location, resolve_location, save_location, study_url

URL = "postgresql://me:s3cret@host/studies"
KEPT = "postgresql+psycopg://me@host/studies"


def test_a_folder_that_says_nothing_has_its_study_in_a_file(tmp_path: Path) -> None:
    location = find_location(tmp_path)
    assert (location.url, location.study, location.shown) == (study_url(tmp_path), None, str(tmp_path / "study.db"))
    assert resolve_location(tmp_path, "s", None) == replace(location, study="s"), "a new study has the name asked for"
    save_location(location)
    assert list(tmp_path.iterdir()) == []


def test_a_place_on_a_server_is_kept_without_its_password_and_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    location = resolve_location(folder, "s", URL)
    assert (location.is_new, location.study, location.shown) == (True, "s", KEPT)
    assert "s3cret" in location.url
    assert "s3cret" not in repr(location)
    assert not folder.exists(), "settling writes nothing"
    save_location(location)
    assert "s3cret" not in (folder / "storage.json").read_text(encoding="utf-8")
    assert find_location(folder) == replace(location, url=KEPT, is_new=False)
    assert resolve_location(folder, "s", None) == find_location(folder)
    assert resolve_location(folder, "s", URL) == replace(location, is_new=False), "a password given again is used"


@pytest.mark.parametrize("other", ["host2/studies", "host/others", "host:5433/studies"])
def test_another_place_is_refused_with_both(tmp_path: Path, other: str) -> None:
    save_location(resolve_location(tmp_path, "s", URL))
    with pytest.raises(RequestError, match="has its database at") as caught:
        resolve_location(tmp_path, "s", f"postgresql://me:s3cret@{other}")
    assert KEPT in str(caught.value)
    assert other in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_study_in_a_file_does_not_move_to_a_server(tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()
    with pytest.raises(RequestError, match=r"has its database at .*study\.db, and --storage names"):
        resolve_location(tmp_path, "s", URL)


def test_a_study_goes_on_under_its_own_name_when_its_folder_has_another(tmp_path: Path) -> None:
    save_location(resolve_location(tmp_path, "s", URL))
    for storage in (None, URL):
        assert resolve_location(tmp_path, "t", storage).study == "s"


@pytest.mark.parametrize("left", [("best.json",), ("config.json", "best.json")])
@pytest.mark.parametrize("is_empty", [True, False])
def test_a_database_that_is_lost_is_not_begun_anew(tmp_path: Path, left: tuple[str, ...], is_empty: bool) -> None:
    for name in left:
        (tmp_path / name).write_text("{}")
    if is_empty:
        (tmp_path / "study.db").touch()
    how = "is empty" if is_empty else "is missing"
    with pytest.raises(RequestError, match=rf"holds {' and '.join(left)} of a study, but its database study\.db {how}"):
        resolve_location(tmp_path, "s", None)
    assert (tmp_path / "study.db").exists() == is_empty


def test_a_study_that_cannot_be_written_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.db").touch()
    location = resolve_location(tmp_path, "s", None)
    check_writable(location)
    monkeypatch.setattr("os.access", lambda path, mode: path == tmp_path)  # whatever rights the tests run with
    with pytest.raises(RequestError, match=r"into its study, and \S+study\.db cannot be written by you; .*cp -r"):
        check_writable(location)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 50_000,
        "[1]",
        json.dumps({"url": KEPT, "study": "s"}),
        json.dumps({"url": 3, "study": "s", "id": "x"}),
        json.dumps({"url": "sqlite:////tmp/x.db", "study": "s", "id": "x"}),
        json.dumps({"url": "mysql://h/x", "study": "s", "id": "x"}),
    ],
)
def test_a_damaged_note_is_a_request_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "storage.json").write_text(content, encoding="utf-8")
    with pytest.raises(RequestError):
        find_location(tmp_path)


def test_a_file_whose_tables_are_only_being_made_holds_no_study_yet(tmp_path: Path) -> None:
    """Another search that began at the same moment has switched its journal on, and made no table so far."""
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute("pragma journal_mode=wal")
        db.execute("pragma user_version=1")
    assert (tmp_path / "study.db").stat().st_size > 0
    assert resolve_location(tmp_path, "mine", None).study == "mine"
