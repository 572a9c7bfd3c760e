"""Fixtures that tests of several floors share, and the way to the datasets that tests of the evaluators build."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unetx_search import cli

sys.path.append(str(Path(__file__).parent / "evaluators"))


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
