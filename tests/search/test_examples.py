"""The examples run as they stand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetx_space import load

README = Path(__file__).parents[2] / "README.md"
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


SMALLER = {
    "trials=200, gpus=4": "trials=2, steps=4, pilot=False, gpus=0, quiet=True",
    "top=3, seeds=5": 'top=1, seeds=2, baselines="u-net", steps=4, quiet=True',
    'model="MODEL"': 'model="MODEL", width_factor=0.25, steps=4, gpus=0, quiet=True',
}
"""Numbers of README.md's Python lines, and what a test can pay for."""


def test_the_lines_of_the_readme_run_in_their_order(tmp_path: Path) -> None:
    lines = README.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    for asked, affordable in SMALLER.items():
        assert lines.count(asked) == 1, f"README.md no longer says {asked}"
        lines = lines.replace(asked, affordable)
    rng = np.random.default_rng(0)
    for number in range(20):
        mask = np.hypot(*(np.mgrid[:32, :32] - rng.uniform(10, 22, (2, 1, 1)))) < 6
        grey = np.clip(rng.normal(100 + 60 * mask, 10), 0, 255).astype(np.uint8)
        for folder, picture in (("DATA/images", grey), ("DATA/masks", mask.astype(np.uint8)), ("IMAGES", grey)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / folder / f"{number}.png")
    script = tmp_path / "lines.py"
    script.write_text(f"def main():\n{_indented(lines)}\n\n\nif __name__ == '__main__':\n    main()\n")
    run(script, tmp_path)
    assert (tmp_path / "runs" / "DATA" / "finals" / "verdict.json").exists()
    assert sorted(path.name for path in (tmp_path / "MASKS").glob("*.png")) == sorted(f"{n}.png" for n in range(20))
    assert (tmp_path / "best.onnx").exists()


def _indented(code: str) -> str:
    return "\n".join(f"    {line}" if line else line for line in code.splitlines())
