from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from task_samples import (
    check_refused,
    mask,
    picture,
    picture_folder,
    save_png,
)

from unetx_evaluators.tasks.sources import open_source

BLANK = mask((16, 20), 0)
FULL = mask((16, 20), 255)


@pytest.mark.parametrize(("mask_folder", "suffix"), [("masks", ""), ("labels", ""), ("masks", "_mask")])
def test_pictures_pair_with_masks_of_the_same_name_or_with_a_suffix(
    tmp_path: Path, mask_folder: str, suffix: str
) -> None:
    masks = {"b": mask((16, 20)), "a": mask((33, 17))}
    source = open_source(picture_folder(tmp_path, masks, mask_folder=mask_folder, suffix=suffix))
    assert source.case_names == ("a", "b")
    case = source.read("a")
    np.testing.assert_array_equal(case.image[0], picture((33, 17), seed=1))
    np.testing.assert_array_equal(case.label, masks["a"] == 255)
    assert (str(case.image.dtype), str(case.label.dtype), case.spacing) == ("float32", "uint8", (1.0, 1.0))


def test_pictures_and_masks_may_share_one_folder(tmp_path: Path) -> None:
    for name in ("x", "y"):
        save_png(tmp_path / f"{name}.png", picture())
        save_png(tmp_path / f"{name}_mask.png", mask())
    (tmp_path / "README.txt").write_text("passed over", encoding="utf-8")
    assert open_source(tmp_path).case_names == ("x", "y")


def test_a_picture_that_is_itself_called_mask_pairs_with_the_mask_of_the_same_name(tmp_path: Path) -> None:
    source = open_source(picture_folder(tmp_path, {"a": mask(), "b_mask": mask()}))
    assert source.case_names == ("a", "b_mask")


@pytest.mark.parametrize("value", [1, 255, 7])
def test_masks_of_zero_and_one_other_value_become_two_classes(tmp_path: Path, value: int) -> None:
    source = open_source(picture_folder(tmp_path, {"a": mask((16, 20), 0, value)}))
    assert source.classes == ("background", "foreground")
    assert np.unique(source.read("a").label).tolist() == [0, 1]


def test_what_values_mean_is_decided_over_all_masks(tmp_path: Path) -> None:
    source = open_source(picture_folder(tmp_path, {"blank": BLANK, "full": FULL, "both": mask()}))
    assert source.read("blank").label.max() == 0
    assert source.read("full").label.min() == 1


def test_a_mask_of_one_bit_is_a_mask_of_two_values(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask()})
    Image.fromarray(mask()).convert("1").save(folder / "masks" / "a.png")
    np.testing.assert_array_equal(open_source(folder).read("a").label, mask() == 255)


def test_more_than_two_values_need_labels_and_the_refusal_shows_how(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask((16, 20), 0, 100), "b": mask((16, 20), 0, 200)})
    check_refused(folder, r"hold 3 values \(0, 100, 200\).*--labels background=0,class1=100,class2=200")


def test_masks_without_zero_need_labels(tmp_path: Path) -> None:
    check_refused(
        picture_folder(tmp_path, {"a": mask((16, 20), 1, 2)}), r"2 values \(1, 2\).*--labels background=1,class1=2"
    )


@pytest.mark.parametrize("only", [BLANK, FULL])
def test_masks_that_all_hold_one_value_are_refused(tmp_path: Path, only: np.ndarray) -> None:
    check_refused(picture_folder(tmp_path, {"a": only, "b": only}), r"1 value \(\d+\); there is nothing to tell apart")


def test_labels_name_the_values_in_their_order(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask((16, 20), 0, 100, 200), "b": BLANK})
    source = open_source(folder, labels={"b": 200, "a": 100})
    assert source.classes == ("background", "a", "b")
    np.testing.assert_array_equal(source.read("a").label, mask((16, 20), 0, 1, 2))


def test_labels_may_say_that_another_value_is_the_background(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask((16, 20), 0, 255)})
    source = open_source(folder, labels={"cell": 0, "background": 255})
    np.testing.assert_array_equal(source.read("a").label, mask((16, 20), 1, 0))


def test_a_value_without_a_label_is_refused_with_its_file(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask(), "odd": mask((16, 20), 0, 100, 255)})
    check_refused(
        folder, r"odd\.png: holds 1 value \(100\) that no class has \(known: 0 background, 255 cell\)", {"cell": 255}
    )


@pytest.mark.parametrize("labels", [{}, {"background": 0}, {"a": 0}, {"a": 1, "b": 1}, {"a": 5, "background": 5}])
def test_labels_without_a_class_or_with_a_value_twice_are_refused(tmp_path: Path, labels: dict[str, int]) -> None:
    check_refused(picture_folder(tmp_path, {"a": mask()}), "each with a value of its own", labels)


def test_colour_pictures_have_three_channels(tmp_path: Path) -> None:
    source = open_source(picture_folder(tmp_path, {"a": mask()}, channels=3))
    assert source.channels == ("red", "green", "blue")
    np.testing.assert_array_equal(source.read("a").image, np.moveaxis(picture((16, 20, 3)), -1, 0))


def test_an_opaque_alpha_channel_is_dropped(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask()}, channels=3)
    opaque = np.dstack([picture((16, 20, 3)), np.full((16, 20), 255, np.uint8)])
    save_png(folder / "images" / "a.png", opaque)
    np.testing.assert_array_equal(open_source(folder).read("a").image, np.moveaxis(opaque[..., :3], -1, 0))


def test_transparent_pixels_are_refused(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask()})
    save_png(folder / "images" / "a.png", picture((16, 20, 4)))
    check_refused(folder, r"a\.png: has transparent pixels")


def test_a_palette_stands_for_colours_in_a_picture_and_for_indices_in_a_mask(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask()})
    indices = Image.fromarray(mask((16, 20), 0, 1, 2)).convert("L")
    palette = Image.fromarray(np.array(indices), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(folder / "images" / "a.png")
    palette.save(folder / "masks" / "a.png")
    case = open_source(folder, labels={"one": 1, "two": 2}).read("a")
    np.testing.assert_array_equal(case.label, mask((16, 20), 0, 1, 2))
    assert case.image[:, 0, 0].tolist() == [10, 20, 30]
    assert case.image[:, -1, 0].tolist() == [70, 80, 90]


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask()})
    deep = (picture().astype(np.uint16) * 250) + 3
    save_png(folder / "images" / "a.png", deep)
    np.testing.assert_array_equal(open_source(folder).read("a").image[0], deep)


def test_mixed_channels_are_refused(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask(), "b": mask()})
    save_png(folder / "images" / "b.png", picture((16, 20, 3)))
    check_refused(folder, r"b\.png: has channels red, green, blue, but a\.png has grey")


def test_grey_levels_stored_as_colours_are_read_as_grey_levels(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask()})
    save_png(folder / "masks" / "a.png", np.dstack([mask()] * 3))
    np.testing.assert_array_equal(open_source(folder).read("a").label, mask() == 255)


def test_pictures_without_mask_and_masks_without_picture_are_listed_and_counted(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {f"c{number}": mask() for number in range(8)})
    for number in range(7):
        (folder / "masks" / f"c{number}.png").unlink()
    save_png(folder / "masks" / "stray.png", mask())
    check_refused(
        folder,
        r"7 images \(c0\.png, c1\.png, c2\.png, c3\.png, c4\.png, \.\.\.\) without a mask "
        r"and 1 mask \(stray\.png\) without an image",
    )


def test_two_masks_for_one_picture_are_refused(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask()})
    save_png(folder / "masks" / "a_mask.png", mask())
    check_refused(folder, r"a_mask\.png: image 'a' has another mask, a\.png")


def test_names_that_differ_in_their_ending_alone_are_refused(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask()})
    (folder / "images" / "a.PNG").write_bytes((folder / "images" / "a.png").read_bytes())
    if len(list((folder / "images").iterdir())) == 1:
        pytest.skip("this file system does not tell a.png from a.PNG")
    check_refused(folder, r"1 name \(a\) stands for two files")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = picture_folder(tmp_path, {"a": mask()})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    check_refused(folder, r"a\.png: .*decompression bomb.*cut it into tiles")


def test_an_empty_picture_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    check_refused(tmp_path, r"images: holds no image file")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "set", {"a": mask()})
    save_png(tmp_path / "elsewhere.png", picture())
    (folder / "images" / "a.png").unlink()
    (folder / "images" / "a.png").symlink_to(tmp_path / "elsewhere.png")
    check_refused(folder, r"images/a\.png: leaves the dataset's folder")


@pytest.mark.parametrize("name", ["a:b", 'say "x"', "x ", "tab\there", "a*"])
def test_a_name_that_is_no_file_name_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    check_refused(picture_folder(tmp_path, {name: mask()}), "cannot name a case")


def test_the_identity_changes_with_a_file_and_with_the_labels(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask(), "b": mask()})
    before = open_source(folder).identity
    assert open_source(folder).identity == before
    assert open_source(folder, labels={"x": 255}).identity != before
    stat = (folder / "masks" / "b.png").stat()
    os.utime(folder / "masks" / "b.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    assert open_source(folder).identity != before


def test_the_real_nuclei_read_like_pillow(test_data: Path) -> None:
    source = open_source(test_data / "nuclei_dsb2018")
    assert (len(source.case_names), source.channels) == (240, ("grey",))
    assert source.classes == ("background", "foreground")
    shapes = set()
    for name in source.case_names[::40]:
        case = source.read(name)
        image = np.array(Image.open(test_data / "nuclei_dsb2018" / "images" / f"{name}.png"))
        truth = np.array(Image.open(test_data / "nuclei_dsb2018" / "masks" / f"{name}.png"))
        np.testing.assert_array_equal(case.image[0], image)
        np.testing.assert_array_equal(case.label, truth // 255)
        shapes.add(case.label.shape)
    assert len(shapes) > 1
