"""Data that cannot be used are refused by the search before any training: exit code 2, with file, reason and remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, refusal
from task_samples import (
    describe,
    label_map,
    mask,
    msd_folder,
    picture,
    picture_folder,
    save_nifti,
    save_png,
    volume,
)

Spoil = Callable[[Path], object]


def refused(run: Run, folder: Path, *words: object) -> str:
    """The answer; the search would be short if it were not refused."""
    return refusal(run, "--data", folder, "--trials", 1, "--steps", 1, "--gpus", 0, *words)


def image(folder: Path, name: str = "a1") -> Path:
    return folder / "imagesTr" / f"{name}.nii.gz"


def label(folder: Path, name: str = "a1") -> Path:
    return folder / "labelsTr" / f"{name}.nii.gz"


def truncate(folder: Path) -> None:
    image(folder).write_bytes(image(folder).read_bytes()[:-200])


def put_voxel(value: float) -> Spoil:
    voxels = volume()
    voxels[3, 3, 3] = value
    return lambda folder: save_nifti(image(folder), voxels)


def list_in_description(entry: str) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / "dataset.json"
        description = json.loads(file.read_text())
        description["training"][1]["image"] = entry
        file.write_text(json.dumps(description))

    return spoil


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.nii.gz"
    image(folder).rename(outside)
    image(folder).symlink_to(outside)


def far_away() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    affine = np.eye(4)
    affine[:3, 3] = 500
    return affine


VOLUMES: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "truncated gzip": (truncate, ("a1.nii.gz", "cannot be read", "copy or export it again")),
    "NaN": (put_voxel(np.nan), ("a1.nii.gz", "NaN", "remove the case")),
    "infinite": (put_voxel(np.inf), ("a1.nii.gz", "infinite", "remove the case")),
    "empty volume": (lambda f: save_nifti(image(f), np.zeros((0, 18, 12), np.float32)), ("a1.nii.gz", "remove")),
    "label out of range": (lambda f: save_nifti(label(f), label_map() * 4), ("a1.nii.gz", "8", "no class")),
    "label of another shape": (
        lambda f: save_nifti(label(f), label_map((9, 9, 9))),
        ("a1.nii.gz", "9x9x9", "resample"),
    ),
    "label of another affine": (lambda f: save_nifti(label(f), label_map(), far_away()), ("a1.nii.gz", "elsewhere")),
    "image without label": (lambda f: label(f).unlink(), ("a1.nii.gz",)),
    "label without image": (lambda f: image(f).unlink(), ("a1.nii.gz",)),
    "listed twice": (list_in_description("./imagesTr/a2.nii.gz"), ("a2", "twice")),
    "a path out of the folder": (list_in_description("../elsewhere/a1.nii.gz"), ("a1.nii.gz", "leaves")),
    "a link out of the folder": (link_out, ("a1.nii.gz", "leaves", "copy the file there")),
    "another number of channels": (lambda f: save_nifti(image(f), volume((16, 18, 12, 2))), ("a1.nii.gz", "channel")),
}


@pytest.mark.parametrize("what", VOLUMES)
def test_bad_volumes_are_refused_with_file_reason_and_remedy(run: Run, tmp_path: Path, what: str) -> None:
    spoil, told = VOLUMES[what]
    folder = msd_folder(tmp_path / "data")
    spoil(folder)
    answer = refused(run, folder)
    assert all(words in answer for words in told), answer


def test_a_class_that_no_training_case_holds(run: Run, tmp_path: Path) -> None:
    labels = {"0": "background", "1": "front", "2": "back", "3": "unicorn"}
    answer = refused(run, msd_folder(tmp_path / "data", labels=labels))
    assert "'unicorn'" in answer
    assert "remove it from the labels" in answer


def test_one_case_only(run: Run, tmp_path: Path) -> None:
    answer = refused(run, msd_folder(tmp_path / "data", 1))
    assert "at least 3 cases, got 1" in answer
    assert "add data" in answer


def test_fewer_groups_than_parts_of_a_split(run: Run, tmp_path: Path) -> None:
    answer = refused(run, msd_folder(tmp_path / "data", 6), "--group-by", "^(a)")
    assert "at least 3 groups of cases, got 1" in answer


def test_channels_that_differ_between_pictures(run: Run, tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "data", {f"p{n}": mask() for n in range(5)})
    save_png(folder / "images" / "p3.png", picture((16, 20, 3)))
    assert "p3.png" in refused(run, folder)


def test_two_images_of_one_name(run: Run, tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "data", {f"p{n}": mask() for n in range(5)})
    save_png(folder / "images" / "p3.tif", picture())
    assert "p3" in refused(run, folder)


def test_a_decompression_bomb(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    answer = refused(run, picture_folder(tmp_path / "data", {f"p{n}": mask() for n in range(5)}))
    assert ".png" in answer
    assert "tiles" in answer


def test_a_full_disk(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    answer = refused(run, msd_folder(tmp_path / "data"))
    assert "free space there, or name another folder for the cache (--cache)" in answer


def test_everything_that_is_wrong_is_told_at_once_by_search_and_doctor(run: Run, tmp_path: Path) -> None:
    folder = msd_folder(tmp_path / "data", 8)
    label(folder, "a0").unlink()
    truncate(folder)
    save_nifti(image(folder, "a2"), np.full((16, 18, 12), np.nan, np.float32))
    save_nifti(label(folder, "a3"), label_map((9, 9, 9)))
    wrong = [f"a{n}.nii.gz" for n in range(4)]
    answer = refused(run, folder)
    assert all(name in answer for name in wrong), answer
    code, out, _ = run("doctor", "--data", folder)
    assert code == 2
    assert all(name in out for name in wrong)
    assert "4 problems" in out
    code, out, _ = run("doctor", "--data", folder, "--json")
    assert code == 2
    found = json.loads(out)
    assert not found["is_fit"]
    assert len(found["problems"]) == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--dims", 2, "--patch", "8x8x8"), "patch"),
        (("--spacing", "1x1"), "spacing"),
        (("--levels", 9), "levels"),
        (("--split", "absent.json"), "absent.json"),
        (("--group-by", "absent.csv:patient"), "absent.csv"),
        (("--labels", "x=1"), "--labels"),
        (("--folds", 9, "--fold", 3), "folds"),
    ],
)
def test_options_that_do_not_fit_the_data(run: Run, tmp_path: Path, words: tuple[object, ...], told: str) -> None:
    assert told in refused(run, msd_folder(tmp_path / "data"), *words)


def test_a_description_without_cases(run: Run, tmp_path: Path) -> None:
    describe(tmp_path / "data", [])
    assert "dataset.json" in refused(run, tmp_path / "data")
