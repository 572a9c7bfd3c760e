"""The examples run as they stand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from unetx_space import load

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST_S = 500.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(code: Path, folder: Path, *words: str) -> str:
    """What a script prints that runs in a folder of its own."""
    done = subprocess.run(
        [sys.executable, str(code), *words], cwd=folder, capture_output=True, text=True, timeout=LONGEST_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_idea_by_hand_finds_a_design(tmp_path: Path) -> None:
    told = run(EXAMPLES / "by_hand.py", tmp_path, "2")
    assert told.startswith("U-Net: Dice 0.")
    assert load(tmp_path / "runs" / "by_hand.json").backbone.out_channels == 4


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    """Cell by cell in one namespace; what the last line of a cell gives is shown, as a notebook does."""
    cells = json.loads((EXAMPLES / "first_search.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(cell.get("outputs", []) == [] for cell in cells), "outputs are made where it is read"
    script = tmp_path / "notebook.py"
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    script.write_text(
        f"def main():\n{_indented(code)}\n    print(study.verdict)\n\n\nif __name__ == '__main__':\n    main()\n"
    )
    told = run(script, tmp_path)
    assert "95 % interval" in told
    assert (tmp_path / "runs" / "discs" / "finals" / "verdict.json").exists()


def _indented(code: str) -> str:
    return "\n".join(f"    {line}" if line else line for line in code.splitlines())
