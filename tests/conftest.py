"""Fixtures that tests of several floors share, and the way to the datasets that tests of the evaluators build."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from postgres_server import Server, postgres_server

from unetx_evaluators.tasks.task import Task
from unetx_search import cli
from unetx_studies.store import Records, Store, open_store, study_url

hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, max_examples=40)
hypothesis.settings.load_profile("tests")
for _floor in ("evaluators", "space"):  # helpers that tests of other floors use, too
    sys.path.append(str(Path(__file__).parent / _floor))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with the real datasets; tests that need it are skipped where it is not there."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("UNETX_TEST_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            f"no real data at {folder}; set UNETX_TEST_DATA to the folder that holds hippocampus_msd and others"
        )
    return folder


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """A small prepared task, to be read; a test that changes files writes one of its own."""
    from tiny_task import write_tiny_task

    return write_tiny_task(tmp_path_factory.mktemp("tiny") / "task")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes on one thread, as evaluations have it; networks as small as in tests gain nothing from more."""
    import torch  # tests of the coordinator do without

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server for all tests, each with a database of its own."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Server) -> Iterator[str]:
    """An empty database on a server."""
    with postgres.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def server_url(request: pytest.FixtureRequest) -> str | None:
    """An empty database on a server; None for the file in a study's folder."""
    return None if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def url(server_url: str | None, tmp_path: Path) -> str:
    """An empty place for a study: ``study.db`` in the test's folder, or a database on a server."""
    return server_url or study_url(tmp_path)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An open store there."""
    with open_store(url, create=True) as opened:
        yield opened


@pytest.fixture
def records(store: Store) -> Records:
    """The records of a study ``s`` in it."""
    return Records(store, "s")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line inside an empty folder: exit code, stdout, stderr."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def invoke(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["unetx-search", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return invoke
