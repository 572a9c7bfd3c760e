"""Folders and names of common datasets, links, and several masks of one image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from task_samples import (
    check_refused,
    label_map,
    mask,
    nnunet_folder,
    picture,
    picture_folder,
    save_nifti,
    save_png,
    volume,
)

from unetx_evaluators.evaluation import DataError, DataErrors
from unetx_evaluators.tasks.sources import ReadingOptions, Source, open_source
from unetx_evaluators.tasks.sources.naming import Affix, Naming, detect_naming

SHOWN = mask((16, 20), 0, 1)


def pairs(image: str, *masks: str, n: int = 4) -> Callable[[Path], None]:
    """Writes images and masks by the patterns of their paths, in which a number is the case's."""

    def write(root: Path) -> None:
        for number in range(n):
            for seed, (pattern, array) in enumerate(
                [(image, picture((16, 20), number)), *((m, SHOWN * 255) for m in masks)]
            ):
                file = root / pattern.format(number)
                if file.name.endswith((".nii", ".nii.gz")):
                    save_nifti(file, label_map((16, 18, 12), 2) if seed else volume(seed=number))
                else:
                    save_png(file, array)

    return write


def several(*patterns: str) -> Callable[[Path], None]:
    """The last pattern is the mask's, the others are channels."""

    def write(root: Path) -> None:
        for pattern in patterns[:-1]:
            pairs(pattern, n=4)(root)
        pairs(patterns[0], patterns[-1])(root)

    return write


RECOGNISED: dict[str, Callable[[Path], None]] = {
    "isic": pairs("images/ISIC_{:04}.jpg", "masks/ISIC_{:04}_segmentation.png"),
    "isic as it comes": pairs("ISIC_Training_Input/I_{}.jpg", "ISIC_Training_GroundTruth/I_{}_segmentation.png"),
    "cvc": pairs("Original/{}.tif", "Ground Truth/{}.tif"),
    "capitals": pairs("Images/c{}.png", "Masks/c{}.png"),
    "singular": pairs("image/c{}.png", "mask/c{}.png"),
    "imgs": pairs("imgs/c{}.png", "masks/c{}.png"),
    "voc": pairs("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
    "drive": pairs(
        "training/images/2{}_training.tif", "training/1st_manual/2{}_manual1.gif", "training/mask/2{}_mask.gif"
    ),
    "drive flat": pairs("images/2{}_training.tif", "masks/2{}_manual1.gif"),
    "chase": pairs("Image_0{}L.jpg", "Image_0{}L_1stHO.png", "Image_0{}L_2ndHO.png"),
    "carvana": pairs("images/{}.jpg", "masks/{}_mask.gif"),
    "capital suffix": pairs("images/{}.JPG", "masks/{}_MASK.PNG"),
    "another suffix": pairs("images/c{}.png", "masks/c{}_lesionmap.png"),
    "prefixes": pairs("images/image_{}.png", "masks/mask_{}.png"),
    "lits": pairs("volume-{}.nii", "segmentation-{}.nii"),
    "acdc": pairs("patient{0}/patient{0}_frame01.nii.gz", "patient{0}/patient{0}_frame01_gt.nii.gz"),
    "acdc flat": pairs("patient{0}_frame01.nii.gz", "patient{0}_frame01_gt.nii.gz"),
    "kits": pairs("case_{}/imaging.nii.gz", "case_{}/segmentation.nii.gz"),
    "labels of volumes": pairs("images/a{}.nii.gz", "labels/a{}_label.nii.gz"),
    "one folder deeper": pairs("BUSI/benign/b ({}).png", "BUSI/benign/b ({})_mask.png"),
}


@pytest.mark.parametrize("layout", RECOGNISED)
def test_the_layouts_of_common_datasets_are_recognised(tmp_path: Path, layout: str) -> None:
    RECOGNISED[layout](tmp_path)
    source = open_source(tmp_path)
    assert (len(source.case_names), source.problems) == (4, ())
    assert source.classes == ("background", "foreground")
    label = source.read(source.case_names[0]).label
    np.testing.assert_array_equal(label, SHOWN if source.dims == 2 else label_map((16, 18, 12), 2))


def test_the_images_of_a_case_folder_are_its_channels(tmp_path: Path) -> None:
    several("B_{0}/B_{0}_flair.nii.gz", "B_{0}/B_{0}_t1.nii.gz", "B_{0}/B_{0}_seg.nii.gz")(tmp_path)
    source = open_source(tmp_path)
    assert (source.channels, source.case_names) == (("flair", "t1"), ("B_0", "B_1", "B_2", "B_3"))
    (tmp_path / "B_2" / "B_2_t1.nii.gz").unlink()
    with_gap = open_source(tmp_path)
    assert "case 'B_2' has one image, but most have flair, t1" in str(with_gap.problems[0])
    assert with_gap.case_names == ("B_0", "B_1", "B_3")


def test_parts_of_a_dataset_are_read_together_and_their_cases_keep_apart(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        picture_folder(tmp_path / part, {"a": mask(), f"b_{part}": mask()})
    assert open_source(tmp_path).case_names == ("b_train", "b_val", "train_a", "val_a")


def test_parts_that_differ_in_their_form_are_not_mixed(tmp_path: Path) -> None:
    picture_folder(tmp_path / "one", {"a": mask()})
    picture_folder(tmp_path / "two", {"b": mask()}, mask_folder="gt")
    check_refused(tmp_path, r"2 folders \(one, two\) hold images and masks, but each in its own way")


def test_a_part_without_masks_is_told(tmp_path: Path) -> None:
    pairs("case_{}/imaging.nii.gz", "case_{}/segmentation.nii.gz")(tmp_path)
    (tmp_path / "case_2" / "segmentation.nii.gz").unlink()
    check_refused(tmp_path, r"1 folder \(case_2\) hold images and no masks")


def test_what_is_recognised_is_told_without_the_names_of_cases(tmp_path: Path) -> None:
    RECOGNISED["acdc"](tmp_path)
    RECOGNISED["chase"](tmp_path / "chase")
    assert open_source(tmp_path / "chase").layout == (
        "image/mask folder (x with x_1stHO; without 4 files of further observers or frames)"
    )
    (tmp_path / "chase").rename(tmp_path.parent / f"{tmp_path.name}_chase")
    assert open_source(tmp_path).layout == "image/mask folder (4 folders; x with x_gt)"


def test_folders_and_suffixes_may_be_said(tmp_path: Path) -> None:
    pairs("raw/scans/p{}_scan.png", "truth/p{}_outline.png", "truth/p{}_other.png")(tmp_path)
    reading = ReadingOptions(images="raw/scans", masks="truth", image_suffix="_scan", mask_suffix="_outline.png")
    source = open_source(tmp_path, reading=reading)
    assert (source.case_names, source.problems) == (("p0", "p1", "p2", "p3"), ())
    in_full = ReadingOptions(**{**reading.stated, "images": str(tmp_path / "raw" / "scans")})
    assert open_source(tmp_path, reading=in_full).case_names == source.case_names


def test_a_suffix_tells_masks_from_images_in_one_folder(tmp_path: Path) -> None:
    pairs("x{}.png", "x{}_lungs.png")(tmp_path)
    check_refused(tmp_path, "no layout that is known.*(.|\n)*--mask-suffix")
    assert open_source(tmp_path, reading=ReadingOptions(mask_suffix="_lungs")).case_names == ("x0", "x1", "x2", "x3")


def test_the_other_observer_may_be_chosen(tmp_path: Path) -> None:
    RECOGNISED["chase"](tmp_path)
    source = open_source(tmp_path, reading=ReadingOptions(mask_suffix="_2ndHO"))
    assert (len(source.case_names), source.problems) == (4, ())
    assert source.identity != open_source(tmp_path).identity


@pytest.mark.parametrize(
    ("reading", "told"),
    [
        (
            ReadingOptions(images="nowhere"),
            r"--images is a folder in it, got 'nowhere'; .* holds 2 folders \(images, masks\)",
        ),
        (ReadingOptions(masks="../x"), r"--masks is a folder in it, got '\.\./x'"),
        (
            ReadingOptions(mask_suffix="_foo"),
            r"no mask's name ends in --mask-suffix _foo; there are 1 image file \(a\.png\)",
        ),
        (ReadingOptions(image_suffix="_foo"), r"no image's name ends in --image-suffix _foo"),
    ],
)
def test_what_was_said_wrongly_is_told(tmp_path: Path, reading: ReadingOptions, told: str) -> None:
    picture_folder(tmp_path / "x", {"a": mask()})
    picture_folder(tmp_path / "set", {"a": mask()})
    with pytest.raises(DataError, match=told):
        open_source(tmp_path / "set", reading=reading)


def test_folders_that_may_all_hold_the_masks_are_told(tmp_path: Path) -> None:
    pairs("images/c{}.png", "mask/c{}.png", "gt/c{}.png")(tmp_path)
    check_refused(tmp_path, r"2 folders \(gt, mask\) may hold the masks; say which does, like --masks 'gt'")
    assert len(open_source(tmp_path, reading=ReadingOptions(masks="mask")).case_names) == 4


def test_a_field_of_view_is_not_taken_for_the_mask(tmp_path: Path) -> None:
    pairs("images/{}_dr.jpg", "manual1/{}_dr.tif", "mask/{}_dr_mask.tif")(tmp_path)
    check_refused(tmp_path, r"2 folders \(manual1, mask\) may hold the masks; say which does, like --masks 'manual1'")
    assert len(open_source(tmp_path, reading=ReadingOptions(masks="manual1")).case_names) == 4


def test_a_described_dataset_takes_no_suffix_unless_folders_are_said(tmp_path: Path) -> None:
    folder = nnunet_folder(picture_folder(tmp_path, {"a": mask()}, suffix="_x"), 1)
    with pytest.raises(DataError, match=r"already names the files; leave --mask-suffix out, or .*with --images"):
        open_source(folder, reading=ReadingOptions(mask_suffix="_x"))
    assert open_source(folder, reading=ReadingOptions(mask_suffix="_x", images="images", masks="masks")).case_names == (
        "a",
    )


def test_names_of_differing_kinds_do_not_pair_by_chance() -> None:
    stems = ["train_1", "train_2", "train_3"]
    assert detect_naming([(stems, ["val_1", "val_2", "val_3"])]) == Naming()
    assert detect_naming([(["a1", "a2"], ["b1", "b2"])]) == Naming()
    found = detect_naming([(["1_left", "2_left"], ["1_right", "2_right"])])
    assert found.mask_key("1_right", found.image_keys(["1_left", "2_left"])) is None


def test_a_usual_naming_is_kept_where_it_pairs_as_many() -> None:
    assert detect_naming([(["a", "b_mask"], ["a", "b_mask"])]) == Naming()
    assert detect_naming([(["a_mask", "b_mask"], ["a_mask_mask", "b_mask_mask"])]) == Naming()
    assert Affix(suffix="_mask").numbered_key("a_mask_2") == "a"


LAYERS: dict[str, Callable[[Path], None]] = {
    "words": pairs("images/c{}.png", "masks/c{}_liver.png", "masks/c{}_tumour.png"),
    "words in one folder": pairs("c{}.png", "c{}_liver_mask.png", "c{}_tumour_mask.png"),
    "folders": pairs("images/c{}.png", "masks/liver/c{}.png", "masks/tumour/c{}.png"),
    "case folders": pairs("c{0}/images/c{0}.png", "c{0}/masks/liver.png", "c{0}/masks/tumour.png"),
}


def draw_layers(root: Path, layout: str) -> None:
    """The tumour is the upper half of the image, the liver the lower one."""
    LAYERS[layout](root)
    for file in root.rglob("*tumour*"):
        for one in file.iterdir() if file.is_dir() else [file]:
            save_png(one, (1 - SHOWN) * 255)


@pytest.mark.parametrize("layout", LAYERS)
def test_several_masks_of_an_image_are_united_or_a_class_each(tmp_path: Path, layout: str) -> None:
    draw_layers(tmp_path, layout)
    with pytest.raises(
        DataError, match=r"4 images \(c0, c1, c2, c3\) have several masks.*union.*--several-masks classes"
    ):
        raise_first(open_source(tmp_path))
    united = open_source(tmp_path, reading=ReadingOptions(several_masks="union"))
    assert united.read("c0").label.min() == 1
    layered = open_source(tmp_path, reading=ReadingOptions(several_masks="classes"))
    assert layered.classes == ("background", "liver", "tumour")
    np.testing.assert_array_equal(layered.read("c2").label, 2 - SHOWN)
    assert layered.identity != united.identity


def raise_first(source: Source) -> None:
    for problem in source.problems:
        raise problem


def test_further_masks_are_numbered(tmp_path: Path) -> None:
    pairs("b ({}).png", "b ({})_mask.png")(tmp_path)
    save_png(tmp_path / "b (2)_mask_1.png", (1 - SHOWN) * 255)
    check_refused(
        tmp_path, r"b \(2\)_mask_1\.png: image 'b \(2\)' has another mask, b \(2\)_mask\.png; .*several-masks"
    )
    source = open_source(tmp_path, reading=ReadingOptions(several_masks="union"))
    assert (len(source.case_names), int(source.read("b (2)").label.min())) == (4, 1)


def test_overlapping_classes_are_drawn_in_the_order_that_the_user_names(tmp_path: Path) -> None:
    pairs("images/c{}.png", "masks/c{}_cup.png", "masks/c{}_disc.png")(tmp_path)
    cup = np.zeros_like(SHOWN)
    cup[12:, :5] = 255
    for number in range(4):
        save_png(tmp_path / "masks" / f"c{number}_cup.png", cup)
    with pytest.raises(DataError, match=r"c0_disc\.png: overlaps.*--several-masks 'disc,cup'$"):
        open_source(tmp_path, reading=ReadingOptions(several_masks="classes")).read("c0")
    source = open_source(tmp_path, reading=ReadingOptions(several_masks="disc,cup"))
    assert source.classes == ("background", "disc", "cup")
    np.testing.assert_array_equal(source.read("c0").label, np.where(cup > 0, 2, SHOWN))
    with pytest.raises(DataError, match=r"names a, b, but the masks are called 2 words \(cup, disc\)"):
        open_source(tmp_path, reading=ReadingOptions(several_masks="a,b"))


def test_masks_whose_names_add_nothing_name_no_classes(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask(), "b": mask()})
    with pytest.raises(DataError, match=r"a\.png: --several-masks classes names classes by.*this one adds nothing"):
        open_source(folder, reading=ReadingOptions(several_masks="classes"))
    with pytest.raises(DataError, match="leave --labels out"):
        open_source(folder, labels={"x": 255}, reading=ReadingOptions(several_masks="classes"))


@pytest.mark.parametrize("whole", [True, False])
def test_links_are_followed_if_the_user_vouches_for_them(tmp_path: Path, whole: bool) -> None:
    store = picture_folder(tmp_path / "store", {name: mask() for name in "abcde"})
    folder = tmp_path / "set"
    for part in ("images", "masks"):
        (folder if whole else folder / part).mkdir(parents=True, exist_ok=True)
        links = [folder / part] if whole else [folder / part / file.name for file in (store / part).iterdir()]
        for link in links:
            link.symlink_to(store / link.relative_to(folder))
    with pytest.raises(DataErrors, match=r"a\.png: leaves the dataset's folder.*--follow-links.*the same of 4 more"):
        open_source(folder)
    source = open_source(folder, reading=ReadingOptions(follow_links=True))
    np.testing.assert_array_equal(source.read("a").label, mask() == 255)


def test_links_of_a_listed_dataset_are_followed_and_its_cases_called_by_their_places_in_it(tmp_path: Path) -> None:
    folder, store = tmp_path / "set", tmp_path / "store"
    entries = []
    for number in range(3):
        place = folder / f"case{number}"
        place.mkdir(parents=True)
        for what, array in (("image", volume(seed=number)), ("truth", label_map(n_classes=2))):
            save_nifti(store / f"{what}{number}.nii.gz", array)
            (place / f"{what}.nii.gz").symlink_to(store / f"{what}{number}.nii.gz")
        entries.append({what: f"./case{number}/{of}.nii.gz" for what, of in (("image", "image"), ("label", "truth"))})
    (folder / "list.json").write_text(json.dumps({"training": entries}), encoding="utf-8")
    check_refused(folder, "--follow-links")
    source = open_source(folder, reading=ReadingOptions(follow_links=True))
    assert source.case_names == ("case0_image", "case1_image", "case2_image")
    np.testing.assert_array_equal(source.read("case1_image").image, volume(seed=1)[None])


def test_links_of_a_described_dataset_are_followed_too_but_no_path_that_leaves_it(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path / "set", 2)
    (folder / "labelsTr").rename(tmp_path / "labels")
    (folder / "labelsTr").symlink_to(tmp_path / "labels")
    with pytest.raises(DataError, match="--follow-links"):
        open_source(folder)
    assert open_source(folder, reading=ReadingOptions(follow_links=True)).case_names == ("ct_000", "ct_001")
    listing = {"x": {"images": ["imagesTr/../../a_0000.nii.gz"], "label": "labelsTr/ct_000.nii.gz"}}
    nnunet_folder(folder, 0, dataset=listing)
    with pytest.raises(DataError, match="leaves the dataset's folder") as error:
        open_source(folder, reading=ReadingOptions(follow_links=True))
    assert "--follow-links" not in str(error.value)


def test_a_link_to_nothing_is_told(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask(), "b": mask()})
    (folder / "images" / "a.png").unlink()
    (folder / "images" / "a.png").symlink_to(tmp_path / "not_fetched")
    check_refused(folder, r"a\.png: is a link to a file that is not there; fetch it \(datalad get")
