from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from task_samples import (
    check_refused,
    describe_nnunet,
    label_map,
    mask,
    nib,
    nnunet_folder,
    picture,
    save_nifti,
    save_pages,
    save_png,
    volume,
)

from unetx_evaluators.tasks.sources import open_source


def rgb_folder(root: Path, n_cases: int = 2) -> Path:
    for seed in range(n_cases):
        save_png(root / "imagesTr" / f"p{seed}_0000.png", picture((15, 22, 3), seed))
        save_png(root / "labelsTr" / f"p{seed}.png", mask((15, 22), 0, 1))
    describe_nnunet(
        root,
        channel_names={"0": "R", "1": "G", "2": "B"},
        labels={"background": 0, "cell": 1},
        file_ending=".png",
    )
    return root


def test_two_channels_and_an_ignore_label_read_like_nibabel(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path)
    source = open_source(folder)
    assert (source.layout, source.dims, source.channels) == ("nnU-Net v2 folder", 3, ("CT", "CT"))
    assert source.classes == ("background", "organ", "lesion")
    assert source.problems == ()
    for name in source.case_names:
        case = source.read(name)
        assert case.spacing == pytest.approx((0.8, 0.8, 5.0))
        for channel in range(2):
            stored = nib.as_closest_canonical(nib.load(folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz"))
            np.testing.assert_array_equal(case.image[channel], stored.get_fdata())
        truth = nib.as_closest_canonical(nib.load(folder / "labelsTr" / f"{name}.nii.gz")).get_fdata()
        np.testing.assert_array_equal(case.label, np.where(truth == 3, 255, truth))


def test_three_channels_in_one_picture_are_read_like_pillow(tmp_path: Path) -> None:
    folder = rgb_folder(tmp_path)
    source = open_source(folder)
    assert (source.dims, source.channels, source.case_names) == (2, ("R", "G", "B"), ("p0", "p1"))
    plain = np.array(Image.open(folder / "imagesTr" / "p1_0000.png"))
    np.testing.assert_array_equal(source.read("p1").image, np.moveaxis(plain, -1, 0))
    np.testing.assert_array_equal(source.read("p1").label, mask((15, 22), 0, 1))


def test_dataset_may_list_the_files(tmp_path: Path) -> None:
    save_nifti(tmp_path / "scans" / "first.nii.gz", volume())
    save_nifti(tmp_path / "truth" / "first.nii.gz", label_map())
    listing = {"one": {"images": ["scans/first.nii.gz"], "label": "truth/first.nii.gz"}}
    describe_nnunet(tmp_path, channel_names={"0": "MR"}, dataset=listing)
    source = open_source(tmp_path)
    assert source.case_names == ("one",)
    np.testing.assert_array_equal(source.read("one").image[0], volume())


@pytest.mark.parametrize("path", ["../x.nii.gz", "/etc/x.nii.gz", "imagesTr/../../x.nii.gz"])
def test_a_listed_path_out_of_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    listing = {"one": {"images": [path], "label": "labelsTr/ct_000.nii.gz"}}
    check_refused(nnunet_folder(tmp_path / "set", dataset=listing, numTraining=None), "leaves the dataset's folder")


@pytest.mark.parametrize(
    ("listing", "reason"),
    [
        ([], "'dataset' maps cases to"),
        ({"a": []}, r"dataset\['a'\]\.images lists the files"),
        ({"a": {"images": [], "label": "x"}}, r"dataset\['a'\]\.images lists the files"),
        ({"a": {"images": ["x.png"], "label": "y.nii.gz"}}, r"images is a path that ends in \.nii\.gz, got 'x\.png'"),
        ({"a": {"images": ["x.nii.gz"]}}, r"label is a path that ends in \.nii\.gz, got 'None'"),
        ({"a": {"images": ["x.nii.gz"], "label": "y.nii.gz"}}, r"lists 2 files \(x\.nii\.gz, y\.nii\.gz\) not there"),
    ],
)
def test_a_listing_that_makes_no_case_is_refused(tmp_path: Path, listing: object, reason: str) -> None:
    check_refused(nnunet_folder(tmp_path, 1, dataset=listing, numTraining=None), reason)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": [2, 3]}},
            r"2 regions \(whole, core\).*is not supported",
        ),
        ({"labels": {"0": "background", "1": "organ"}}, r'version 1: write {"background": 0, "organ": 1}'),
        ({"labels": {"background": 0, "organ": -1}}, r"not so for 1 name \(organ\)"),
        ({"labels": {"background": 0, "organ": True}}, r"not so for 1 name \(organ\)"),
        ({"labels": {"background": 0, "organ": 1, "lesion": 1}}, "each with a value of its own"),
        ({"labels": ["organ"]}, "'labels' maps names to numbers"),
        ({"channel_names": {"0": "CT", "2": "CT"}}, 'counts from "0" without gaps'),
        ({"channel_names": ["CT"]}, "'channel_names' maps numbers to names"),
        (
            {"channel_names": {"0": "CT"}},
            r"2 cases \(ct_000, ct_001\) with more files than channels: .* names 1 channel \(CT\)",
        ),
        ({"channel_names": {str(n): "CT" for n in range(3)}}, "holds 2 channels .* names 3 channels"),
        ({"file_ending": None}, "'file_ending' is the ending of all files"),
        ({"file_ending": ".mgz"}, r"is \.mgz, which is not read; convert it to \.nii\.gz, with SimpleITK"),
        ({"file_ending": ".jpg"}, "which is lossy"),
        ({"file_ending": ".b2nd"}, "which is not read"),
        ({"file_ending": ".xyz"}, r"convert the files to one of \.nii\.gz"),
        ({"numTraining": 7}, "'numTraining' says 7, but there are 2 cases"),
    ],
)
def test_a_description_that_is_not_in_nnunets_form_is_refused(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    check_refused(nnunet_folder(tmp_path, **{"n_cases": 2, **fields}), reason)


def test_a_missing_channel_is_refused_and_the_other_cases_stay(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path, 3, numTraining=None)
    (folder / "imagesTr" / "ct_001_0000.nii.gz").unlink()
    source = open_source(folder)
    assert source.case_names == ("ct_000", "ct_002")
    (problem,) = source.problems
    assert "imagesTr: case 'ct_001' lacks 1 file (ct_001_0000.nii.gz) beside ct_001_0001.nii.gz" in str(problem)
    (folder / "imagesTr" / "ct_002_0001.nii.gz").unlink()
    source = open_source(folder)
    assert source.case_names == ("ct_000",)
    assert "case 'ct_002' lacks 1 file (ct_002_0001.nii.gz) beside ct_002_0000.nii.gz" in str(source.problems[1])


def test_images_without_label_and_labels_without_image_are_told(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path, 4, numTraining=None)
    (folder / "labelsTr" / "ct_001.nii.gz").unlink()
    for channel in range(2):
        (folder / "imagesTr" / f"ct_003_{channel:04d}.nii.gz").unlink()
    check_refused(folder, r"1 image \(ct_001\) without a label and 1 label \(ct_003\) without an image")
    assert open_source(folder).case_names == ("ct_000", "ct_002")


def test_an_image_without_the_number_of_its_channel_is_refused(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path, 2)
    save_nifti(folder / "imagesTr" / "extra.nii.gz", volume())
    check_refused(folder, r"extra\.nii\.gz: an image is called CASE_0000\.nii\.gz")


def test_files_of_another_ending_are_refused_and_notes_passed_over(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path, 2)
    (folder / "imagesTr" / "notes.txt").write_text("", encoding="utf-8")
    assert open_source(folder).problems == ()
    (folder / "imagesTr" / "x_0000.mgz").write_bytes(b"")
    check_refused(folder, r"'file_ending' is \.nii\.gz, but there is 1 other file \(x_0000\.mgz\); .*SimpleITK")


def test_channels_of_differing_shape_or_place_are_refused(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path, 2)
    save_nifti(folder / "imagesTr" / "ct_000_0001.nii.gz", volume((21, 18, 8)))
    check_refused(folder, r"ct_000_0001\.nii\.gz: is 21x18x8, but ct_000_0000\.nii\.gz of the same case is 21x18x7")
    save_nifti(folder / "imagesTr" / "ct_000_0001.nii.gz", volume((21, 18, 7)))
    check_refused(folder, r"ct_000_0001\.nii\.gz: lies elsewhere in the patient than another channel of the case")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path / "set", 2, numTraining=None)
    (folder / "labelsTr" / "ct_000.nii.gz").rename(tmp_path / "outside.nii.gz")
    (folder / "labelsTr" / "ct_000.nii.gz").symlink_to(tmp_path / "outside.nii.gz")
    check_refused(folder, r"labelsTr/ct_000\.nii\.gz: leaves the dataset's folder")


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_missing_folder_is_named(tmp_path: Path, part: str) -> None:
    folder = nnunet_folder(tmp_path, 1)
    (folder / part).rename(folder / "elsewhere")
    check_refused(folder, rf"{part}: is not there")


def test_the_spacing_beside_a_tiff_volume_counts(tmp_path: Path) -> None:
    save_pages(tmp_path / "imagesTr" / "a_0000.tif", picture((5, 12, 14)))
    save_pages(tmp_path / "labelsTr" / "a.tif", np.stack([mask((12, 14), 0, 1)] * 5))
    describe_nnunet(tmp_path, channel_names={"0": "grey"}, labels={"background": 0, "x": 1}, file_ending=".tif")
    before = open_source(tmp_path)
    assert before.read("a").spacing == (1.0, 1.0, 1.0)
    file = tmp_path / "imagesTr" / "a.json"
    file.write_text(json.dumps({"spacing": [4, 0.5, 0.25]}), encoding="utf-8")
    source = open_source(tmp_path)
    assert source.read("a").spacing == (4.0, 0.5, 0.25)
    assert source.identity != before.identity
    np.testing.assert_array_equal(source.read("a").image[0], picture((5, 12, 14)))
    for text in ("{}", "[", '{"spacing": 1}', '{"spacing": [1, 0, 1]}', '{"spacing": [1]}'):
        file.write_text(text, encoding="utf-8")
        check_refused(tmp_path, r"a\.json: .*spacing")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    nnunet_folder(tmp_path, 1)
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "a", "0": "b"}}', encoding="utf-8")
    check_refused(tmp_path, "it names '0' twice")


def test_a_region_of_one_value_and_a_background_in_capitals_are_plain_labels(tmp_path: Path) -> None:
    labels = {"Background": 0, "organ": [1], "lesion": [2], "ignore": 3}
    source = open_source(nnunet_folder(tmp_path, 2, labels=labels, regions_class_order=[1, 2]))
    assert source.classes == ("background", "organ", "lesion")
    assert (source.problems, np.unique(source.read("ct_000").label).tolist()) == ((), [0, 1, 2, 255])


def test_the_number_of_cases_may_stand_in_quotes(tmp_path: Path) -> None:
    assert open_source(nnunet_folder(tmp_path, 2, numTraining="2")).problems == ()


def test_a_number_of_cases_that_differs_for_a_reason_told_already_is_not_told_again(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path, 3)
    (folder / "labelsTr" / "ct_001.nii.gz").unlink()
    assert len(open_source(folder).problems) == 1


def test_names_and_numbers_of_channels_the_wrong_way_round_are_told_the_right_way(tmp_path: Path) -> None:
    check_refused(nnunet_folder(tmp_path, 1, channel_names={"CT": 0}), r'maps numbers to names, like {"0": "CT"}; got')


def test_files_that_a_listing_leaves_out_are_told(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path, 3, numTraining=None)
    entries = {
        name: {"images": [f"imagesTr/{name}_{n:04d}.nii.gz" for n in range(2)], "label": f"labelsTr/{name}.nii.gz"}
        for name in ("ct_000", "ct_001")
    }
    describe_nnunet(folder, dataset=entries)
    assert "does not list 3 files (imagesTr/ct_002_0000.nii.gz," in open_source(folder).warnings[0]
