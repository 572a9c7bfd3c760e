"""MONAI's data lists, and datasets that lie not quite where they are looked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from task_samples import (
    check_refused,
    describe,
    label_map,
    mask,
    msd_folder,
    nnunet_folder,
    picture_folder,
    save_nifti,
    volume,
)

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources import ReadingOptions, open_source
from unetx_evaluators.tasks.task import IGNORED


def pairs(n_cases: int, **more: Any) -> list[dict[str, Any]]:
    return [{"image": f"imagesTr/a{n}.nii.gz", "label": f"labelsTr/a{n}.nii.gz", **more} for n in range(n_cases)]


def list_folder(root: Path, name: str = "dataset_0.json", n_cases: int = 4, **fields: Any) -> Path:
    """Volumes with two classes and a list of them that names neither channels nor classes."""
    for seed in range(n_cases):
        save_nifti(root / "imagesTr" / f"a{seed}.nii.gz", volume(seed=seed))
        save_nifti(root / "labelsTr" / f"a{seed}.nii.gz", label_map(n_classes=2))
    (root / name).write_text(json.dumps({"training": pairs(n_cases), **fields}), encoding="utf-8")
    return root


@pytest.mark.parametrize("name", ["dataset.json", "dataset_0.json", "datalist.json"])
def test_a_list_of_pairs_is_a_dataset_whatever_its_name(tmp_path: Path, name: str) -> None:
    folder = list_folder(tmp_path, name)
    source = open_source(folder)
    assert (source.case_names, source.channels) == (("a0", "a1", "a2", "a3"), ("intensity",))
    assert source.classes == ("background", "foreground")
    assert open_source(folder / name).case_names == source.case_names
    np.testing.assert_array_equal(source.read("a2").image, volume(seed=2)[None])


def test_classes_of_a_list_are_named_by_its_labels_or_by_the_user(tmp_path: Path) -> None:
    folder = list_folder(tmp_path, labels={"0": "background", "1": "liver"})
    assert open_source(folder).classes == ("background", "liver")
    with pytest.raises(DataError, match=r"its dataset_0\.json already names the labels"):
        open_source(folder, labels={"liver": 1})
    list_folder(tmp_path)
    assert open_source(folder, labels={"spleen": 1}).classes == ("background", "spleen")


@pytest.mark.parametrize(
    "reading",
    [ReadingOptions(mask_suffix="_x"), ReadingOptions(several_masks="union"), ReadingOptions(images="imagesTr")],
)
def test_a_list_names_its_files_itself(tmp_path: Path, reading: ReadingOptions) -> None:
    file = list_folder(tmp_path) / "dataset_0.json"
    flag = next(iter(reading.stated)).replace("_", "-")
    with pytest.raises(DataError, match=rf"its dataset_0\.json already names the files; leave --{flag} out, or give"):
        open_source(file, reading=reading)


def test_a_list_without_classes_takes_a_threshold(tmp_path: Path) -> None:
    folder = list_folder(tmp_path)
    save_nifti(folder / "labelsTr" / "a1.nii.gz", label_map(n_classes=4))
    source = open_source(folder, reading=ReadingOptions(threshold=1))
    np.testing.assert_array_equal(source.read("a1").label, label_map(n_classes=4) > 1)
    with pytest.raises(DataError, match=r"4 values.*--threshold 0.*--labels"):
        _ = open_source(folder).classes


def test_masks_of_a_list_may_be_jpegs_where_a_threshold_divides_them(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {name: mask() for name in "abc"})
    for file in sorted((folder / "masks").iterdir()):
        Image.open(file).save(file.with_suffix(".jpg"), quality=95)
    entries = [{"image": f"images/{name}.png", "label": f"masks/{name}.jpg"} for name in "abc"]
    (folder / "list.json").write_text(json.dumps({"training": entries}), encoding="utf-8")
    check_refused(folder, r"training\[0\]\.label, .* --threshold 127")
    source = open_source(folder, reading=ReadingOptions(threshold=127))
    np.testing.assert_array_equal(source.read("a").label, mask() == 255)


def test_a_list_goes_before_names_unless_the_user_says_where_images_and_masks_lie(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {name: mask() for name in "abcd"})
    entries = [{"image": f"images/{name}.png", "label": f"masks/{name}.png"} for name in "abc"]
    (folder / "list.json").write_text(json.dumps({"training": entries}), encoding="utf-8")
    assert open_source(folder).case_names == ("a", "b", "c")
    said = open_source(folder, reading=ReadingOptions(images="images", masks="masks"))
    assert (said.case_names, said.warnings) == (("a", "b", "c", "d"), ())


def test_folds_and_a_validation_part_are_cases_like_the_others_and_that_is_told(tmp_path: Path) -> None:
    folder = list_folder(tmp_path, training=pairs(3, fold=0), validation=pairs(4)[3:], testing=[{"image": "x.nii.gz"}])
    source = open_source(folder)
    assert source.case_names == ("a0", "a1", "a2", "a3")
    (warning,) = source.warnings
    assert "what it says in 'validation' and 'fold' decides nothing here" in warning
    assert "--split FILE" in warning


def test_several_files_of_one_image_are_its_channels(tmp_path: Path) -> None:
    entries = [{**pair, "image": [pair["image"], "imagesTr/a3.nii.gz"]} for pair in pairs(3)]
    source = open_source(list_folder(tmp_path, training=entries))
    assert source.channels == ("intensity", "intensity")
    np.testing.assert_array_equal(source.read("a1").image, np.stack([volume(seed=1), volume(seed=3)]))


def test_images_that_share_their_name_are_called_after_their_folders(tmp_path: Path) -> None:
    for number in range(3):
        save_nifti(tmp_path / f"case{number}" / "imaging.nii.gz", volume(seed=number))
        save_nifti(tmp_path / f"case{number}" / "truth.nii.gz", label_map(n_classes=2))
    entries = [{"image": f"case{n}/imaging.nii.gz", "label": f"case{n}/truth.nii.gz"} for n in range(3)]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}), encoding="utf-8")
    source = open_source(tmp_path)
    assert source.case_names == ("case0_imaging", "case1_imaging", "case2_imaging")
    assert source.warnings == ()  # in a folder for each case, other files are no sign of anything


def test_one_of_several_lists_has_to_be_named(tmp_path: Path) -> None:
    folder = list_folder(list_folder(tmp_path), "dataset_1.json")
    with pytest.raises(
        DataError, match=r"2 files \(dataset_0\.json, dataset_1\.json\) list cases, .* name it, as .*_0"
    ):
        open_source(folder)
    assert len(open_source(folder / "dataset_1.json").case_names) == 4


def test_files_that_the_description_does_not_list_are_told(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 5)
    assert open_source(folder).warnings == ()
    describe(folder, ["a0", "a1", "a2", "a3"], test=["./imagesTr/a9.nii.gz"])
    save_nifti(folder / "imagesTr" / "a9.nii.gz", volume())
    (folder / "imagesTr" / "._a9.nii.gz").write_bytes(b"")
    (warning,) = open_source(folder).warnings
    assert "dataset.json: does not list 2 files (imagesTr/a4.nii.gz, labelsTr/a4.nii.gz)" in warning


def test_a_class_called_ignore_is_left_out_of_an_msd_folder_too(tmp_path: Path) -> None:
    source = open_source(msd_folder(tmp_path, labels={"0": "background", "1": "front", "2": "ignore"}))
    assert source.classes == ("background", "front")
    assert source.read("a0").label.max() == IGNORED


@pytest.mark.parametrize(
    "text", ['{"title": "my cells", "license": "CC0"}', "[1, 2]", "no JSON", '{"labels": ["cell"]}']
)
def test_a_description_of_somebody_elses_gives_way_to_images_and_masks(tmp_path: Path, text: str) -> None:
    folder = picture_folder(tmp_path, {name: mask() for name in "abc"})
    (folder / "dataset.json").write_text(text, encoding="utf-8")
    source = open_source(folder, labels={"cell": 255})
    assert (source.layout, source.classes) == ("image/mask folder", ("background", "cell"))
    assert "dataset.json: is in no form that is known here, and not read" in source.warnings[0]
    assert open_source(folder, reading=ReadingOptions(threshold=0)).classes == ("background", "foreground")


def test_a_missing_description_is_told_with_its_form(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path, 3)
    (folder / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"holds imagesTr/, but no dataset\.json beside it") as error:
        open_source(folder)
    form = json.loads(str(error.value).partition("form is ")[2])
    assert (form["numTraining"], form["file_ending"], sorted(form)) == (
        3,
        ".nii.gz",
        ["channel_names", "file_ending", "labels", "numTraining"],
    )


@pytest.mark.parametrize("below", ["Dataset001_Ball", "Task/Task"])
def test_a_dataset_some_folders_deeper_is_named(tmp_path: Path, below: str) -> None:
    nnunet_folder(tmp_path / "data" / below, 1)
    check_refused(tmp_path / "data", rf"holds 1 dataset \({below}\) below; .* give .*data/{below}$")


def test_a_folder_of_a_dataset_leads_to_the_one_above(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path, 1)
    check_refused(
        folder / "imagesTr", rf"is a folder of a dataset; give the one above, {tmp_path}, where dataset\.json"
    )


def test_images_and_masks_below_several_folders_are_told(tmp_path: Path) -> None:
    for name in "ab":
        picture_folder(tmp_path / name / "deep", {name: mask() for name in "xyz"})
    check_refused(tmp_path, r"holds 2 datasets \(a, b\) below; .* give .*/a$")
