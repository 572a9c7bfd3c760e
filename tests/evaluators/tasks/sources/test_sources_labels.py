from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from task_samples import (
    COLOURS,
    check_refused,
    label_map,
    mask,
    photograph_folder,
    picture,
    picture_folder,
    save_nifti,
    save_png,
)
from task_samples import channels_last_folder as volumes_folder

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources import ClassMap, open_source, parse_labels
from unetx_evaluators.tasks.sources.labels import as_integers
from unetx_evaluators.tasks.task import IGNORED
from unetx_space.errors import RequestError

FILE = Path("mask.png")


def test_labels_are_parsed() -> None:
    assert parse_labels("background=0, left lung =100,b=200") == {"background": 0, "left lung": 100, "b": 200}
    assert parse_labels("cell=#FF0000,border=#00ff80") == {"cell": "#ff0000", "border": "#00ff80"}


@pytest.mark.parametrize(
    "text",
    ["", "a", "a=", "=1", "a=-1", "a=1.5", "a=1,,b=2", "a=70000", "a=0x1", "a=1=2", "a=#ff", "a=red", "a=#gg0000"],
)
def test_labels_that_are_no_names_with_values_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--labels is NAME=VALUE"):
        parse_labels(text)


def test_a_label_named_several_times_has_several_values() -> None:
    assert parse_labels("cell=2,cell=1,b=#00ff00,b=#0000ff") == {"cell": (2, 1), "b": ("#00ff00", "#0000ff")}
    class_map = ClassMap.from_labels({"cell": (5, 1), "border": 3, "ignore": (254, 255)})
    assert class_map.names == ("background", "cell", "border")
    values = np.array([0, 1, 3, 5, 254, 255])
    assert class_map.encode(values, FILE, "").tolist() == [0, 1, 2, 1, IGNORED, IGNORED]


@pytest.mark.parametrize("text", ["a=1,a=1", "a=1,b=1", "a=0", "a=1,ignore=1", "a=3,b=3,b=4"])
def test_a_value_that_several_labels_name_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="each with a value of its own"):
        ClassMap.from_labels(parse_labels(text))


def test_background_and_ignore_may_be_written_with_a_capital() -> None:
    assert parse_labels("Background=7,Cell=0,IGNORE=255") == {"background": 7, "Cell": 0, "ignore": 255}
    assert ClassMap.from_labels({"Background": 0, "Ball": 1}).names == ("background", "Ball")


def test_values_and_colours_do_not_mix() -> None:
    with pytest.raises(DataError, match="all values or all colours"):
        ClassMap.from_labels({"a": 1, "b": "#ff0000"})


@pytest.mark.parametrize("labels", [{"a": 3, "ignore": 3}, {"ignore": 0, "a": 1}, {"ignore": 255}])
def test_what_is_ignored_has_a_value_of_its_own_and_is_no_class(labels: dict[str, int]) -> None:
    with pytest.raises(DataError, match="each with a value of its own"):
        ClassMap.from_labels(labels)


def test_as_many_classes_as_a_byte_holds_beside_the_ignored_are_encoded() -> None:
    class_map = ClassMap.from_labels({f"c{n}": n for n in range(1, 255)} | {"ignore": 1000})
    values = np.array([0, 1, 254, 1000], np.uint16)
    assert class_map.encode(values, FILE, "").tolist() == [0, 1, 254, IGNORED]
    with pytest.raises(DataError, match="at most 254"):
        ClassMap.from_labels({f"c{n}": n for n in range(1, 256)})


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 65535), min_size=2, max_size=6, unique=True), st.integers(0, 10_000), st.booleans())
def test_encoding_follows_a_plain_lookup(values: list[int], seed: int, floating: bool) -> None:
    background, ignored, *others = values if len(values) > 2 else [*values, 70_000]
    labels = {f"c{n}": value for n, value in enumerate(others)} | {"background": background, "ignore": ignored}
    class_map = ClassMap.from_labels(labels)
    drawn = np.random.default_rng(seed).choice([background, ignored, *others], size=(5, 7))
    expected = {background: 0, ignored: IGNORED} | {value: n for n, value in enumerate(sorted(others), start=1)}
    encoded = class_map.encode(drawn.astype(np.float64 if floating else np.int64), FILE, "")
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, np.vectorize(expected.get)(drawn))


def test_masks_larger_than_are_encoded_at_once_name_every_strange_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetx_evaluators.tasks.sources.labels._ENCODED_AT_ONCE", 7)
    class_map = ClassMap.from_labels({"a": 1})
    grid = np.arange(60).reshape(3, 4, 5) % 2
    np.testing.assert_array_equal(class_map.encode(np.asfortranarray(grid), FILE, ""), grid)
    grid[0, 0, 0], grid[2, 3, 4] = 9, 4
    with pytest.raises(DataError, match=r"2 values \(4, 9\) that no class has \(known: 0 background, 1 a\); mend"):
        class_map.encode(grid, FILE, "mend it")


def test_an_ignored_value_of_a_mask_becomes_255(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask((16, 20), 0, 7, 200)})
    source = open_source(folder, labels=parse_labels("cell=7,ignore=200"))
    assert source.classes == ("background", "cell")
    np.testing.assert_array_equal(source.read("a").label, mask((16, 20), 0, 1, 255))


def test_colour_masks_are_read_by_the_colours_of_labels(tmp_path: Path) -> None:
    folder = photograph_folder(tmp_path)
    source = open_source(folder, labels=COLOURS)
    assert (source.classes, source.channels, source.dims) == (
        ("background", "border", "cell"),
        ("red", "green", "blue"),
        2,
    )
    for name in source.case_names:
        case = source.read(name)
        colours = np.array(Image.open(folder / "masks" / f"{name}.png"))
        photograph = np.array(Image.open(folder / "images" / f"{name}.jpg"))
        np.testing.assert_array_equal(case.label == 2, (colours == (255, 0, 0)).all(axis=-1))
        np.testing.assert_array_equal(case.label == 1, (colours == (0, 255, 128)).all(axis=-1))
        np.testing.assert_array_equal(case.image, np.moveaxis(photograph, -1, 0))


def test_the_colours_found_are_listed_with_a_line_that_can_be_pasted(tmp_path: Path) -> None:
    folder = photograph_folder(tmp_path)
    with pytest.raises(DataError, match=r"3 colours \(#000000, #00ff80, #ff0000\)") as error:
        _ = open_source(folder).classes
    pasted = str(error.value).rpartition("--labels ")[2]
    source = open_source(folder, labels=parse_labels(pasted))
    assert source.classes == ("background", "class1", "class2")
    assert np.unique(source.read("photo0").label).tolist() == [0, 1, 2]


def test_a_colour_without_a_label_is_refused_with_its_file(tmp_path: Path) -> None:
    check_refused(
        photograph_folder(tmp_path, 1),
        r"photo0\.png: holds 1 colour \(#00ff80\) that no class has \(known: #000000 background, #ff0000 cell\)",
        {"cell": "#ff0000"},
    )


def test_a_colour_mask_where_labels_give_values_is_refused(tmp_path: Path) -> None:
    check_refused(photograph_folder(tmp_path, 1), r"photo0\.png: is a colour mask; .*--labels", {"cell": 1})


def test_palettes_and_grey_levels_have_colours_too(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask(), "b": mask()})
    palette = Image.fromarray(mask((16, 20), 0, 1), mode="P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(folder / "masks" / "a.png")
    source = open_source(folder, labels={"cell": "#ffffff"})
    for name in ("a", "b"):
        np.testing.assert_array_equal(source.read(name).label, mask((16, 20), 0, 1))


def test_an_ignored_colour_becomes_255(tmp_path: Path) -> None:
    source = open_source(photograph_folder(tmp_path, 1), labels={"cell": "#ff0000", "ignore": "#00ff80"})
    assert source.classes == ("background", "cell")
    assert np.unique(source.read("photo0").label).tolist() == [0, 1, IGNORED]


def test_numbers_of_more_than_8_bits_are_no_colours(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask()})
    save_png(folder / "masks" / "a.png", mask().astype(np.uint16) * 4)
    check_refused(folder, r"a\.png: holds grey levels of more than 8 bits, no colours", {"cell": "#ffffff"})


def test_a_nifti_mask_has_no_colours(tmp_path: Path) -> None:
    check_refused(
        volumes_folder(tmp_path), r"v0\.nii\.gz: the mask of a volume holds numbers, no colours", {"a": "#ff0000"}
    )


def test_labels_name_the_values_of_nifti_masks(tmp_path: Path) -> None:
    folder = volumes_folder(tmp_path, 1)
    save_nifti(folder / "masks" / "v0.nii.gz", label_map((14, 12, 9), 3) * 50)
    np.testing.assert_array_equal(
        open_source(folder, labels={"a": 50, "ignore": 100}).read("v0").label,
        np.array([0, 1, 255])[label_map((14, 12, 9), 3)],
    )


def test_thousands_of_colours_are_counted_and_few_shown(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask((50, 60))})
    save_png(folder / "masks" / "a.png", picture((50, 60, 3)))
    check_refused(folder, r"hold \d{4} colours \((#[0-9a-f]{6}, ){5}\.\.\.\)")


@pytest.mark.parametrize("scale", [255 * np.float32(1 / 255), 0.9995, np.float32(1.0009), 0.9999999])
def test_values_that_a_scale_leaves_beside_a_whole_number_are_read_as_it(tmp_path: Path, scale: float) -> None:
    whole = label_map((14, 12, 9), 2)
    np.testing.assert_array_equal(as_integers(whole * scale, tmp_path), whole)


@pytest.mark.parametrize(("value", "kind"), [("0.99", np.float32), ("2.0021", np.float64), ("1.25", np.float64)])
def test_a_value_that_is_refused_is_told_unrounded(tmp_path: Path, value: str, kind: type) -> None:
    with pytest.raises(DataError, match=rf"whole numbers, this one {value}; was it resampled"):
        as_integers(np.array([0, value], dtype=kind), tmp_path)
