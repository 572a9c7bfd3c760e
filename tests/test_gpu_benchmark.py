"""The script that is prepared for a GPU: it runs, part by part, on a machine that has none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
PARTS = ("operators", "bare_loop", "autotuner", "layouts", "norms", "phases", "workers", "faults", "scripts")


def run(*words: str) -> str:
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_the_script_says_what_it_would_do_in_order(tmp_path: Path) -> None:
    said = run("--results", str(tmp_path))
    places = [said.index(f"{number}. {part.replace('_', ' ')}: ") for number, part in enumerate(PARTS, start=1)]
    assert places == sorted(places)
    assert list(tmp_path.iterdir()) == [], "nothing is measured"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_part_of_the_script_runs_and_is_not_repeated(tmp_path: Path) -> None:
    run("--try-out", "--results", str(tmp_path), "--minutes", "20")
    rows = [json.loads(line) for line in (tmp_path / "gpu-try-out.jsonl").read_text().splitlines()]
    assert tuple(dict.fromkeys(row["part"] for row in rows)) == PARTS
    assert not [row for row in rows if row.get("trouble")]
    again = run("--try-out", "--results", str(tmp_path))
    assert "aimed at" in again
    assert len((tmp_path / "gpu-try-out.jsonl").read_text().splitlines()) == len(rows)
