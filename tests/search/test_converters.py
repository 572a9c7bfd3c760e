"""Whole numbers, sizes and paths as people write them on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import Run, refusal

from unetx_search import cli
from unetx_search.converters import join_sizes


def bound(*words: str) -> dict[str, Any]:
    return dict(cli.app.parse_args(join_sizes(words))[1].arguments)


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["40x56"], (40, 56)),
        (["40X56"], (40, 56)),
        (["40,56"], (40, 56)),
        (["40, 56"], (40, 56)),
        (["40 56"], (40, 56)),
        (["40×56"], (40, 56)),
        (["40", "56"], (40, 56)),
        (["32", "32", "16"], (32, 32, 16)),
    ],
)
def test_a_size_may_be_written_in_every_usual_way_by_a_search_and_by_export(
    words: list[str], size: tuple[int, ...]
) -> None:
    assert bound("--patch", *words, "--trials", "3")["config"].patch == size
    assert bound("--spacing", *words)["config"].spacing == size
    exported = bound("export", "best.json", "--patch", *words, "net.onnx")
    assert (exported["patch"], exported["target"]) == (size, Path("net.onnx"))


def test_words_that_are_no_size_stay_as_they_are() -> None:
    words = ["--patch", "--trials", "3", "--spacing", "1", "1", "2.5", "4", "--patch"]
    assert join_sizes(words) == ["--patch", "--trials", "3", "--spacing", "1x1x2.5", "4", "--patch"]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--trials", "1.5"], "must be a whole number, got '1.5'"),
        (["--trials", "0x10"], "must be a whole number, got '0x10'"),
        (["--trials", "2.0"], "must be a whole number"),
        (["--steps", "1e3"], "must be a whole number"),
        (["--gpus", "1.5"], "must be a whole number or \"all\", got '1.5'"),
        (["--workers-per-gpu", "1.5"], 'must be a whole number or "auto"'),
        (["dashboard", "s", "--port", "80.5"], "must be a whole number"),
        (["--patch", "0x40"], "at least 1"),
        (["--patch", "40x5.5"], "'5.5' is no whole number"),
        (["export", "best.json", "net.onnx", "--patch", "40x"], "no whole number"),
        (["status", "x" * 256], "names have at most 255 bytes"),
        (["--data", f"a/{'ä' * 200}/b"], "names have at most 255 bytes"),
        (["show", "x" * 300], "unknown preset"),
        (["--study", "x" * 300], "--study must be at most 255 bytes long"),
        (["--study", ".cache"], "--study must be another folder than the cache"),
        (["--study", "s", "--cache", "runs/s"], "--study must be another folder than the cache"),
        (["--max-hours", "1e9"], "--max-hours must be above 0 and at most"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_option(run: Run, words: list[str], answer: str) -> None:
    assert answer in refusal(run, *words)


def test_a_toml_file_says_numbers_and_sizes_likewise(run: Run) -> None:
    Path("a.toml").write_text("trials = 1.5\n", encoding="utf-8-sig")  # some editors put a byte order mark first
    assert "must be a whole number" in refusal(run, "--config", "a.toml")
    Path("a.toml").write_text("patch = [40, 0]\n")
    assert "--patch must be two or three whole numbers of at least 1, got (40, 0)" in refusal(run, "--config", "a.toml")
