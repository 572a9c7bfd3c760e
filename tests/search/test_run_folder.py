"""A study's folder in the hands of its user: renamed, damaged, asked for something else, interrupted."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from painted_source import PaintedSource
from rich.console import Console
from test_run_data import run

from unetx_evaluators.tasks import cache_entries
from unetx_evaluators.tasks.sources.base import RawCase
from unetx_search.config import SearchConfig
from unetx_search.run import search
from unetx_search.status import read_status
from unetx_search.summary import summary_text
from unetx_space.errors import Interrupted, RequestError
from unetx_studies.store import Lease, Records, open_store, study_url


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Interrupting(PaintedSource):
    """The user presses Ctrl-C while a case is read, for the n-th time."""

    at: str = "smith_03"
    n_left: list[int] = field(default_factory=lambda: [1])

    def read(self, name: str) -> RawCase:
        if name == self.at:
            self.n_left[0] -= 1
            if self.n_left[0] == 0:
                raise KeyboardInterrupt
        return super().read(name)


@dataclass(frozen=True)
class Other(PaintedSource):
    """The same cases, but for one voxel of every image or mask."""

    what: str = "image"

    @property
    def identity(self) -> str:
        return f"other {self.what}s"

    def read(self, name: str) -> RawCase:
        case = super().read(name)
        getattr(case, self.what)[..., 3, 3] = 0
        return case


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cache and of a study ``s`` that is complete with one trial."""
    out = tmp_path_factory.mktemp("finished")
    run(out, PaintedSource())
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to do with as one likes."""
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs"


def test_the_study_of_a_renamed_folder_goes_on_under_its_own_name(out: Path) -> None:
    first = run(out, PaintedSource())
    (out / "s").rename(out / "mine")
    summary = run(out, PaintedSource(), study="mine", trials=2)
    assert summary.evaluations[:1] == first.evaluations
    assert len(summary.evaluations) == 2
    assert (summary.study, read_status(out / "mine").study) == ("s", "s")
    with open_store(study_url(out / "mine"), create=False, read_only=True) as store:
        assert Records.studies(store) == Lease.studies(store) == ("s",)


def test_a_file_of_several_studies_goes_on_with_the_one_that_is_asked_for(out: Path) -> None:
    with closing(sqlite3.connect(out / "s" / "study.db")) as database, database:
        database.execute("create temp table copy as select * from unetx_trials")
        database.execute("update copy set study = 'other'")
        database.execute("insert into unetx_trials select * from copy")
    assert run(out, PaintedSource()).was_complete
    assert read_status(out / "s").study == "s"
    (out / "s").rename(out / "mine")
    before = content(out / "mine")
    with pytest.raises(RequestError, match="holds the studies other, s, and none is called 'mine'"):
        run(out, PaintedSource(), study="mine", trials=2)
    assert content(out / "mine") == before


@pytest.mark.parametrize("what", ["image", "label"])
def test_other_data_are_refused_with_what_differs_and_without_a_trace(out: Path, what: str) -> None:
    before, status = content(out / "s"), read_status(out / "s").state()
    with pytest.raises(RequestError) as caught:
        run(out, Other(what=what), trials=2)
    told = [line.strip().partition(":")[0] for line in str(caught.value).splitlines() if line.startswith("  ")]
    assert told == ["data.images" if what == "image" else "data.masks"]
    assert content(out / "s") == before
    assert read_status(out / "s").state() == status == "complete"


def test_a_study_of_a_version_that_kept_only_the_digest_goes_on_and_refuses_other_data(out: Path) -> None:
    path = out / "s" / "config.json"
    kept = json.loads(path.read_text())
    del kept["data"]
    path.write_text(json.dumps(kept))
    assert run(out, PaintedSource()).was_complete
    with pytest.raises(RequestError, match="data: other images, masks or another split"):
        run(out, Other())


@pytest.mark.parametrize("name", ["config.json", "splits.json"])
def test_a_damaged_file_of_a_study_is_told_with_a_remedy_that_works(out: Path, name: str) -> None:
    file = out / "s" / name
    sound = file.read_bytes()
    for damage in (b"", sound[:20], b"[]", b"{}", bytes(30)):
        file.write_bytes(damage)
        with pytest.raises(RequestError, match=rf"{name}.*remove it") as caught:
            run(out, PaintedSource())
        assert str(file) in str(caught.value)
        assert file.read_bytes() == damage
    file.unlink()
    assert run(out, PaintedSource()).was_complete
    assert file.read_bytes() == sound


def test_what_is_written_anew_by_every_run_may_be_damaged(out: Path) -> None:
    files = [out / "s" / name for name in ("task.json", "best.json", "best.svg", "workers.json")]
    for file in files:
        file.write_bytes(b'{"0": ')
    read_status(out / "s")
    assert run(out, PaintedSource()).was_complete
    assert all(file.stat().st_size > 100 for file in files[:3])


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_study_whose_database_is_lost_is_not_begun_anew(out: Path, is_empty: bool) -> None:
    database = out / "s" / "study.db"
    database.write_bytes(b"") if is_empty else database.unlink()
    before = content(out / "s")
    with pytest.raises(RequestError, match="restore it from a backup"):
        run(out, PaintedSource())
    assert content(out / "s") == before


def test_an_empty_database_alone_is_told_of_and_the_study_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.db").touch()
    config = SearchConfig(trials=1, gpus=0, cpu_workers=1, steps=4, study="s", out=tmp_path)
    with pytest.raises(Interrupted):
        search(config, console=Console(stderr=True, width=300), source=Interrupting())
    assert "study.db is empty, as a start that was killed leaves it" in capsys.readouterr().err


def test_interrupted_while_reading_a_new_study_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    with pytest.raises(Interrupted, match=r"stopped while reading Painted, by hand, 3 of 8 cases done; nothing was"):
        run(out, Interrupting())
    assert not (out / "s").exists()
    assert cache_entries(out / ".cache") == ()
    with pytest.raises(Interrupted, match=r"stopped while preparing .*, 3 of 8 cases done; they are kept"):
        run(out, Interrupting(n_left=[2]))
    assert not (out / "s").exists()
    reads = tmp_path / "reads"
    assert len(run(out, PaintedSource(reads=reads)).evaluations) == 1
    assert len(reads.read_text().splitlines()) == 5, "what was prepared is taken over"


def test_interrupted_while_its_data_are_read_again_a_study_stays_as_it_was(out: Path) -> None:
    before = content(out / "s")
    with pytest.raises(Interrupted):
        run(out, Interrupting(seed=1), trials=2)
    assert content(out / "s") == before
    assert read_status(out / "s").state() == "complete"


def test_commands_that_are_printed_can_be_pasted_also_where_a_path_has_spaces(out: Path) -> None:
    moved = out.rename(out.with_name("my runs"))
    told = summary_text(run(moved, PaintedSource()))
    commands = [
        shlex.split(line.partition("unetx-search ")[2]) for line in told.splitlines() if "unetx-search " in line
    ]
    best = str(moved / "s" / "best.json")
    assert commands == [["show", best], ["export", best, "best.onnx"], ["dashboard", str(moved / "s")]]
