from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from task_samples import label_map, mask, msd_folder, nib, picture, picture_folder, save_nifti, save_png, volume

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks import Task, open_source, prepare
from unetx_evaluators.tasks.prepare import normalised


def pictures(root: Path, n_cases: int = 10) -> Path:
    return picture_folder(root, {f"c{number}": mask((32 + number, 40)) for number in range(n_cases)})


def never(done: int, total: int) -> None:
    raise AssertionError("the cases were read again")


def test_arrays_are_those_of_the_files_as_z_scores(tmp_path: Path) -> None:
    task = prepare(open_source(pictures(tmp_path / "set")), tmp_path / "task", split_seed=0)
    for number in range(10):
        raw = picture((32 + number, 40), seed=number).astype(np.float64)
        np.testing.assert_allclose(task.image(f"c{number}")[0], (raw - raw.mean()) / raw.std(), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(task.label(f"c{number}"), mask((32 + number, 40)) == 255)
        assert str(task.image(f"c{number}").dtype) == "float32"
        assert str(task.label(f"c{number}").dtype) == "uint8"


def test_the_metadata_describe_the_arrays(tmp_path: Path) -> None:
    task = prepare(open_source(msd_folder(tmp_path / "set", 10)), tmp_path / "task", split_seed=4)
    assert (task.name, task.dims, task.channels) == ("Sample", 3, ("MRI",))
    assert task.classes == ("background", "front", "back")
    assert [len(part) for part in (task.splits.train, task.splits.selection, task.splits.held_out)] == [6, 2, 2]
    assert (task.patch, task.strides) == ((16, 20, 12), ((1, 1, 1), (2, 2, 2), (2, 2, 1)))
    assert (task.split_seed, task.folder) == (4, tmp_path / "task")
    assert Task.load(tmp_path / "task") == task


def test_every_channel_has_its_own_scale_and_a_constant_one_becomes_zero() -> None:
    values = np.array([[1.0, 3.0], [1e6, 3e6], [7.0, 7.0]], dtype=np.float32)
    np.testing.assert_allclose(normalised(values), [[-1, 1], [-1, 1], [0, 0]], rtol=1e-6)


def test_progress_counts_every_case(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = open_source(pictures(tmp_path / "set", 4))
    prepare(source, tmp_path / "task", split_seed=0, progress=lambda *told: seen.append(told))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_unchanged_input_is_prepared_once(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set")
    task = prepare(open_source(folder), tmp_path / "task", split_seed=0)
    assert prepare(open_source(folder), tmp_path / "task", split_seed=0, progress=never) == task


def test_changed_input_another_seed_and_other_labels_are_prepared_anew(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set")
    digests = [prepare(open_source(folder), tmp_path / "task", split_seed=0).digest]
    save_png(folder / "images" / "c0.png", picture((32, 40), seed=99))
    digests.append(prepare(open_source(folder), tmp_path / "task", split_seed=0).digest)
    digests.append(prepare(open_source(folder), tmp_path / "task", split_seed=1).digest)
    digests.append(prepare(open_source(folder, labels={"cell": 255}), tmp_path / "task", split_seed=1).digest)
    assert len(set(digests)) == 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set", "task"]


@pytest.mark.parametrize("damage", ["images/c3.npy", "labels/c0.npy", "task.json", "prepared.json"])
def test_a_prepared_folder_that_lost_a_file_is_prepared_anew(tmp_path: Path, damage: str) -> None:
    source = open_source(pictures(tmp_path / "set"))
    task = prepare(source, tmp_path / "task", split_seed=0)
    if damage == "prepared.json":
        (tmp_path / "task" / damage).write_text("{", encoding="utf-8")
    else:
        (tmp_path / "task" / damage).unlink()
    assert prepare(source, tmp_path / "task", split_seed=0) == task
    assert (tmp_path / "task" / damage).is_file()


def test_a_truncated_array_is_noticed(tmp_path: Path) -> None:
    source = open_source(pictures(tmp_path / "set"))
    task = prepare(source, tmp_path / "task", split_seed=0)
    expected = np.array(task.image("c3"))
    os.truncate(tmp_path / "task" / "images" / "c3.npy", 300)
    np.testing.assert_array_equal(prepare(source, tmp_path / "task", split_seed=0).image("c3"), expected)


def test_the_digest_does_not_depend_on_where_the_data_lie(tmp_path: Path) -> None:
    here = pictures(tmp_path / "here")
    shutil.copytree(here, tmp_path / "there")
    one = prepare(open_source(here), tmp_path / "one", split_seed=0)
    other = prepare(open_source(tmp_path / "there"), tmp_path / "deep" / "down" / "other", split_seed=0)
    assert one.digest == other.digest
    assert one.source != other.source


def test_a_folder_with_something_else_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(DataError, match="no prepared task; it is not touched"):
        prepare(open_source(pictures(tmp_path / "set")), tmp_path / "mine", split_seed=0)
    assert (tmp_path / "mine" / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_bad_data_leave_nothing_behind(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set")
    before = sorted(tmp_path.rglob("*"))
    content = (folder / "images" / "c9.png").read_bytes()
    (folder / "images" / "c9.png").write_bytes(content[:-60])
    with pytest.raises(DataError, match=r"c9\.png: cannot be read"):
        prepare(open_source(folder), tmp_path / "runs" / "study" / "task", split_seed=0)
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_data_leave_an_earlier_task_as_it_was(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set")
    task = prepare(open_source(folder), tmp_path / "task", split_seed=0)
    (folder / "images" / "c9.png").write_bytes((folder / "images" / "c9.png").read_bytes()[:-60])
    with pytest.raises(DataError):
        prepare(open_source(folder), tmp_path / "task", split_seed=0)
    assert Task.load(tmp_path / "task") == task
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set", "task"]


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    source = open_source(pictures(tmp_path / "set"))
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "runs" / "task", split_seed=0, progress=interrupt)
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        prepare(open_source(pictures(tmp_path / "set")), tmp_path / "file" / "task", split_seed=0)


def test_too_few_cases_are_refused_before_any_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 3 cases, got 2"):
        prepare(open_source(pictures(tmp_path / "set", 2)), tmp_path / "task", split_seed=0, progress=never)
    assert not (tmp_path / "task").exists()


def test_a_class_that_no_case_holds_is_refused(tmp_path: Path) -> None:
    source = open_source(pictures(tmp_path / "set"), labels={"cell": 255, "ghost": 9})
    with pytest.raises(DataError, match="class 'ghost' occurs in none of the 6 training cases and in 0 of the other 4"):
        prepare(source, tmp_path / "task", split_seed=0)


def test_a_class_outside_the_training_cases_alone_is_refused_with_another_seed_as_remedy(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set")
    held_out = prepare(open_source(folder), tmp_path / "task", split_seed=0).splits.held_out[0]
    shape = np.array(Image.open(folder / "masks" / f"{held_out}.png")).shape
    save_png(folder / "masks" / f"{held_out}.png", mask(shape, 0, 9, 255))
    source = open_source(folder, labels={"cell": 255, "rare": 9})
    with pytest.raises(DataError, match=r"class 'rare' .* in 1 of the other 4, .* try another split seed"):
        prepare(source, tmp_path / "task", split_seed=0)


def test_spacings_that_differ_are_warned_about_and_their_median_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = msd_folder(tmp_path / "set", 3)
    for number in range(3):
        affine = np.diag([1.0, 1.0, 1.0 + number, 1.0])
        save_nifti(folder / "imagesTr" / f"a{number}.nii.gz", volume(), affine)
        save_nifti(folder / "labelsTr" / f"a{number}.nii.gz", label_map(), affine)
    with caplog.at_level(logging.WARNING):
        task = prepare(open_source(folder), tmp_path / "task", split_seed=0)
    assert "from 1x1x1 to 1x1x3 mm" in caplog.text
    assert task.spacing == (1.0, 1.0, 1.0 + int(task.splits.train[0][1]))  # the one training case


def test_the_receipt_is_no_part_of_the_task(tmp_path: Path) -> None:
    prepare(open_source(pictures(tmp_path / "set")), tmp_path / "task", split_seed=0)
    assert set(json.loads((tmp_path / "task" / "prepared.json").read_text())) == {"key", "array_bytes"}
    assert sorted(entry.name for entry in (tmp_path / "task").iterdir()) == [
        "images",
        "labels",
        "prepared.json",
        "task.json",
    ]


def test_the_real_hippocampus_is_prepared(test_data: Path, tmp_path: Path) -> None:
    task = prepare(open_source(test_data / "hippocampus_msd"), tmp_path / "task", split_seed=0)
    assert (task.patch, len(task.strides), task.spacing) == ((32, 48, 32), 4, (1.0, 1.0, 1.0))
    assert [len(part) for part in (task.splits.train, task.splits.selection, task.splits.held_out)] == [72, 24, 24]
    for name in task.splits.held_out[:3]:
        raw = nib.load(test_data / "hippocampus_msd" / "imagesTr" / f"{name}.nii.gz").get_fdata()
        truth = nib.load(test_data / "hippocampus_msd" / "labelsTr" / f"{name}.nii.gz").get_fdata()
        np.testing.assert_allclose(task.image(name)[0], (raw - raw.mean()) / raw.std(), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(task.label(name), truth)


def test_the_real_nuclei_are_prepared(test_data: Path, tmp_path: Path) -> None:
    task = prepare(open_source(test_data / "nuclei_dsb2018"), tmp_path / "task", split_seed=0)
    assert (task.patch, len(task.strides), task.spacing) == ((128, 128), 5, (1.0, 1.0))
    assert [len(part) for part in (task.splits.train, task.splits.selection, task.splits.held_out)] == [144, 48, 48]
    for name in task.splits.held_out[:3]:
        raw = np.array(Image.open(test_data / "nuclei_dsb2018" / "images" / f"{name}.png")).astype(float)
        np.testing.assert_allclose(task.image(name)[0], (raw - raw.mean()) / raw.std(), rtol=1e-4, atol=1e-5)
