"""What doctor says of datasets of every kind, its picture sheet, and its care for the cache."""

from __future__ import annotations

import html
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, refusal
from rich.console import Console
from task_samples import (
    COLOURS,
    channels_last_folder,
    deep_tiff_folder,
    mask,
    msd_folder,
    nnunet_folder,
    photograph_folder,
    picture_folder,
    uneven_folder,
)

from unetx_evaluators.tasks import DemoSource, Phase, TaskOptions, cache_entries, prepare, task_in_use
from unetx_search.data_choices import DataChoices
from unetx_search.preparing import PreparationBars

LABELS = ",".join(f"{name}={colour}" for name, colour in COLOURS.items())
SHEETS: dict[str, tuple[Callable[[Path], Path], tuple[object, ...], int, int]] = {
    "volumes": (msd_folder, (), 3, 1),
    "two-channel CT with ignored voxels": (nnunet_folder, (), 3, 2),
    "slices of volumes": (nnunet_folder, ("--dims", 2), 2, 2),
    "photographs with colour masks": (photograph_folder, ("--labels", LABELS), 2, 1),
    "16-bit TIFF": (deep_tiff_folder, ("--labels", "background=0,cell=1"), 2, 1),
    "channels in the fourth axis": (channels_last_folder, ("--labels", "background=0,cell=1"), 3, 3),
    "sizes that differ": (uneven_folder, (), 3, 1),
}


@pytest.mark.parametrize("what", SHEETS)
def test_a_sheet_shows_training_cases_of_every_kind_of_data(run: Run, tmp_path: Path, what: str) -> None:
    build, words, dims, n_panels = SHEETS[what]
    sheet = tmp_path / "sheet.html"
    code, out, err = run("doctor", "--data", build(tmp_path / "data"), "--sheet", sheet, "--json", *words)
    assert code == 0, (out, err)
    data = json.loads(out)["data"]
    page = sheet.read_text(encoding="utf-8")
    training = {case["name"] for case in data["cases"] if case["part"] == "train"}
    shown = re.findall(r"<figcaption><b>(.*?)</b>", page)
    assert set(shown) <= training
    assert len(shown) == len(training) <= 12
    assert page.count("<image ") == n_panels * len(shown)
    assert data["dims"] == dims
    for index, name in enumerate(data["classes"][1:], start=1):
        assert f"path.k{index}" in page
        assert name in page
    assert ('class="line ignored"' in page) == (build is nnunet_folder)
    assert all(html.escape(choice["reason"]) in page for choice in data["choices"])
    assert list(Path.cwd().iterdir()) == [], "nothing but the sheet is written"


def test_the_same_facts_as_text_and_as_json(run: Run, tmp_path: Path) -> None:
    folder = msd_folder(tmp_path / "data", 10)
    code, out, _ = run("doctor", "--data", folder)
    assert code == 0
    found = json.loads(run("doctor", "--data", folder, "--json")[1])
    assert found["is_fit"]
    data = found["data"]
    assert data["classes"] == ["background", "front", "back"]
    assert sum(size["share"] for size in data["class_sizes"]) == pytest.approx(10 / 16)
    words = " ".join(out.split())
    for choice in data["choices"]:
        assert " ".join(choice["reason"].split()) in words
    assert {choice["what"] for choice in data["choices"]} >= {"spacing", "normalisation", "patch", "levels", "split"}
    parts = [case["part"] for case in data["cases"]]
    assert (parts.count("train"), parts.count("validation"), parts.count("test")) == (6, 2, 2)
    assert "train 6, validation 2, test 2" in out
    n_voxels = 10 * 16 * 18 * 12
    assert data["cache_bytes"] == 5 * n_voxels


def test_what_the_user_chooses_is_taken_and_said(run: Run, tmp_path: Path) -> None:
    folder = msd_folder(tmp_path / "data")
    words = ("--patch", "8x16x8", "--levels", 2, "--base-width", 8, "--normalisation", "ct", "--spacing", "2,2,2")
    found = json.loads(run("doctor", "--data", folder, "--json", *words)[1])
    chosen = {choice["what"]: choice for choice in found["data"]["choices"]}
    assert chosen["patch"]["value"].startswith("8x16x8")
    assert chosen["spacing"]["value"] == "2x2x2 mm"
    assert chosen["levels"]["value"] == "2"
    assert chosen["widths"]["value"] == "8, 16"
    assert all("set by the user" in chosen[what]["reason"] for what in ("patch", "spacing", "normalisation"))


def test_without_images_and_with_pseudonyms_the_sheet_tells_neither_look_nor_name(run: Run, tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "data", {f"smith{n}": mask() for n in range(6)})
    sheet = tmp_path / "sheet.html"
    code, out, _ = run("doctor", "--data", folder, "--sheet", sheet, "--pseudonyms", "--no-images", "--json")
    assert code == 0
    page = sheet.read_text(encoding="utf-8")
    assert "<image" not in page
    assert "--no-images" in page
    assert "smith" not in page + out
    assert "case_0001" in page


def test_a_sheet_of_bad_data_tells_the_problems(run: Run, tmp_path: Path) -> None:
    folder = msd_folder(tmp_path / "data", 8)
    (folder / "labelsTr" / "a3.nii.gz").write_bytes(b"no NIfTI")
    sheet = tmp_path / "sheet.html"
    code, out, _ = run("doctor", "--data", folder, "--sheet", sheet)
    assert code == 2
    assert "a3.nii.gz" in out
    page = sheet.read_text(encoding="utf-8")
    assert "1 problem" in page
    assert "a3.nii.gz" in page
    code, out, _ = run("doctor", "--data", folder, "--sheet", sheet, "--pseudonyms")
    assert code == 2
    assert "a3.nii.gz" in out, "the terminal is for whoever can mend it"
    page = sheet.read_text(encoding="utf-8")
    assert "1 problem" in page
    assert "a3" not in re.sub(r"<image .*?>|<style>.*?</style>", "", page, flags=re.DOTALL)


def test_what_is_known_is_told_where_no_network_fits_or_no_split_can_be(run: Run, tmp_path: Path) -> None:
    folder, sheet = msd_folder(tmp_path / "data"), tmp_path / "sheet.html"
    code, out, _ = run("doctor", "--data", folder, "--levels", 9, "--sheet", sheet)
    assert code == 2
    assert "5 (train 3, validation 1, test 1)" in out
    assert "1 problem" in out
    assert sheet.read_text(encoding="utf-8").count("<image ") == 3
    code, out, _ = run("doctor", "--data", folder, "--group-by", "absent.csv:patient", "--sheet", sheet)
    assert code == 2
    assert "absent.csv" in out
    page = sheet.read_text(encoding="utf-8")
    assert "5 cases" in page
    assert "none can be shown before the problems are mended" in page


def test_a_sheet_needs_data_and_a_place(run: Run, tmp_path: Path) -> None:
    assert "--data" in refusal(run, "doctor", "--sheet", tmp_path / "sheet.html")
    folder = msd_folder(tmp_path / "data")
    code, out, err = run("doctor", "--data", folder, "--sheet", tmp_path / "absent" / "sheet.html")
    assert (code, out) == (2, "")
    assert "cannot be written" in err


def fill(cache: Path, n: int) -> None:
    """Put that many prepared datasets into a cache."""
    for seed in range(n):
        prepare(DemoSource(seed=seed, n_cases=4), cache, TaskOptions())


def test_the_cache_is_listed_and_cleaned(run: Run, tmp_path: Path) -> None:
    cache = Path("runs/.cache")
    assert "nothing is prepared" in run("doctor", "--clean", "all")[1]
    folder = picture_folder(tmp_path / "data", {f"p{n}": mask() for n in range(5)})
    run("doctor", "--data", folder)
    fill(cache, 2)
    prepare(DataChoices(data=folder).source(), cache, TaskOptions())
    listed = json.loads(run("doctor", "--json")[1])["caches"]
    assert [entry["state"] for entry in listed] == ["current"] * 3
    os.utime(folder / "images" / "p1.png", (1, 1))
    code, out, _ = run("doctor")
    assert code == 0
    assert out.count("current") == 2
    assert "stale" in out
    code, out, _ = run("doctor", "--clean", "stale", "--json")
    cleaned = json.loads(out)
    assert code == 0
    assert [entry["state"] for entry in cleaned["removed"]] == ["stale"]
    assert cleaned["freed_bytes"] >= 5 * 5 * 16 * 20
    assert len(cache_entries(cache)) == 2
    code, out, _ = run("doctor", "--clean", "all")
    assert out.count("removed ") == 2
    assert cache_entries(cache) == ()


def test_a_cache_that_a_search_uses_is_kept(run: Run, tmp_path: Path) -> None:
    cache = tmp_path / "shared"
    fill(cache, 1)
    with task_in_use(prepare(DemoSource(n_cases=4), cache, TaskOptions())):
        code, out, _ = run("doctor", "--clean", "all", "--cache", cache)
        assert code == 0
        assert "kept" in out
        assert "in use" in out
        assert "freed 0 bytes" in out
    assert "removed" in run("doctor", "--clean", "all", "--cache", cache)[1]


def test_cleaning_touches_nothing_that_is_not_ours(run: Run, tmp_path: Path) -> None:
    (tmp_path / "theirs" / "deep").mkdir(parents=True)
    (tmp_path / "theirs" / "deep" / "thesis.txt").write_text("years of work")
    assert "nothing is prepared" in run("doctor", "--clean", "all", "--cache", tmp_path / "theirs")[1]
    assert (tmp_path / "theirs" / "deep" / "thesis.txt").read_text() == "years of work"


def shown(**options: Any) -> str:
    """What a preparation of four cases tells on a console of that kind."""
    console = Console(record=True, width=100, file=io.StringIO(), **options)
    with PreparationBars("demo", console) as bars:
        bars.on_wait(Path("runs/.cache/demo-0123"))
        bars.on_phase(Phase.SURVEY, 4)
        for _ in range(4):
            bars.on_case()
        bars.on_size(5000, 2**30)
        bars.on_phase(Phase.WRITE, 4)
        bars.on_case()
    return console.export_text()


def test_a_preparation_tells_its_phases_its_size_and_whom_it_waits_for() -> None:
    lines = shown(force_terminal=False).splitlines()
    assert lines == [
        "another process prepares the same data in runs/.cache/demo-0123; waiting for it",
        "reading 4 cases of demo",
        "the prepared arrays take 4.9 KiB; the disk has 1.0 GiB free",
        "preparing 4 cases of demo",
    ]
    assert "1/4" in shown(force_terminal=True)
