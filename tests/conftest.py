"""Fixtures that tests of several floors share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
