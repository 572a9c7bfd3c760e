"""Indexed masks: what a number stands for is in the palette, and palettes may differ from file to file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from task_samples import Array, check_refused, describe_nnunet, mask, picture, picture_folder, save_png

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources import ReadingOptions, open_source, parse_labels

BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0)
Colour = tuple[int, int, int]


def indexed(indices: Array, *colours: Colour) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8)).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([part for colour in colours for part in colour])
    return image


def folder_of(root: Path, masks: list[Image.Image], ending: str = ".png") -> Path:
    (root / "masks").mkdir(parents=True)
    for number, drawn in enumerate(masks):
        save_png(root / "images" / f"c{number}.png", picture((16, 20), number))
        drawn.save(root / "masks" / f"c{number}{ending}")
    return root


SHOWN = mask((16, 20), 0, 1)


def same(root: Path, masks: list[Image.Image], ending: str = ".png") -> None:
    """Every case shows ``SHOWN``."""
    source = open_source(folder_of(root, masks, ending))
    assert source.classes == ("background", "foreground")
    for name in source.case_names:
        np.testing.assert_array_equal(source.read(name).label, SHOWN)


@pytest.mark.parametrize("ending", [".png", ".gif", ".tif"])
def test_colours_decide_where_palettes_differ(tmp_path: Path, ending: str) -> None:
    same(tmp_path, [indexed(SHOWN, BLACK, WHITE), indexed(1 - SHOWN, WHITE, BLACK)], ending)


def test_colours_decide_where_index_0_is_not_black(tmp_path: Path) -> None:
    same(tmp_path, [indexed(1 - SHOWN, WHITE, BLACK)] * 2)


def test_quantised_masks_are_read_by_colour(tmp_path: Path) -> None:
    white = Image.fromarray(SHOWN * 255).convert("RGB")
    same(tmp_path, [white.quantize(2), white.convert("P", palette=Image.Palette.ADAPTIVE, colors=2)])


def test_indices_stay_where_all_palettes_agree_and_0_is_black(tmp_path: Path) -> None:
    same(tmp_path, [indexed(SHOWN, BLACK, RED), indexed(SHOWN, BLACK, RED, GREEN)])


def test_indices_stay_beside_a_mask_that_holds_background_alone(tmp_path: Path) -> None:
    blank = indexed(np.zeros_like(SHOWN), BLACK, GREEN)
    source = open_source(folder_of(tmp_path, [indexed(SHOWN, BLACK, RED), blank]))
    assert [int(source.read(name).label.max()) for name in source.case_names] == [1, 0]


def test_indexed_masks_beside_grey_ones_mean_what_leaves_the_fewest_values(tmp_path: Path) -> None:
    same(tmp_path / "white", [indexed(SHOWN, BLACK, WHITE), Image.fromarray(SHOWN * 255)])
    same(tmp_path / "index", [indexed(SHOWN, BLACK, RED), Image.fromarray(SHOWN)])


def test_the_labels_that_are_proposed_for_differing_palettes_are_right(tmp_path: Path) -> None:
    shown = mask((16, 20), 0, 1, 2)
    folder = folder_of(
        tmp_path, [indexed(shown, BLACK, RED, GREEN), indexed(np.array([0, 2, 1])[shown], BLACK, GREEN, RED)]
    )
    with pytest.raises(DataError, match=r"3 colours \(#000000, #00ff00, #ff0000\)") as error:
        _ = open_source(folder).classes
    source = open_source(folder, labels=parse_labels(str(error.value).rpartition("--labels ")[2]))
    for name in source.case_names:  # classes in the order of their colours: green, red
        np.testing.assert_array_equal(source.read(name).label, np.array([0, 2, 1])[shown])


def test_numbers_do_not_name_what_differing_palettes_mean(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [indexed(SHOWN, BLACK, RED), indexed(SHOWN, RED, BLACK)])
    with pytest.raises(DataError, match=r"palettes of the masks differ.*--labels background=#000000,class1=#ff0000"):
        _ = open_source(folder, labels={"cell": 1}).classes


def test_differing_palettes_of_a_described_dataset_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [indexed(SHOWN, BLACK, RED), indexed(SHOWN, RED, BLACK)])
    (folder / "masks").rename(folder / "labelsTr")
    (folder / "images").rename(folder / "imagesTr")
    for file in sorted((folder / "imagesTr").iterdir()):
        file.rename(file.with_name(f"{file.stem}_0000.png"))
    describe_nnunet(folder, channel_names={"0": "g"}, labels={"background": 0, "cell": 1}, file_ending=".png")
    with pytest.raises(DataError, match=r"palettes of the masks differ.*save them with one palette"):
        _ = open_source(folder).classes


def test_a_threshold_takes_a_palette_by_its_brightest_part(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [indexed(SHOWN, BLACK, RED), indexed(1 - SHOWN, GREEN, BLACK)])
    source = open_source(folder, reading=ReadingOptions(threshold=0))
    for name in source.case_names:
        np.testing.assert_array_equal(source.read(name).label, SHOWN)


def test_the_identity_tells_that_palettes_were_compared(tmp_path: Path) -> None:
    assert '"palettes"' in open_source(folder_of(tmp_path / "p", [indexed(SHOWN, BLACK, RED)])).identity
    assert '"palettes"' not in open_source(picture_folder(tmp_path / "grey", {"a": mask()})).identity


def test_a_bmp_that_would_be_read_as_one_of_1_bit_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [indexed(SHOWN, BLACK, WHITE)], ".bmp")
    check_refused(folder, r"c0\.bmp: is a BMP of 8 bits with a palette of two colours")


def test_colours_of_an_instance_map_are_no_classes(tmp_path: Path) -> None:
    colours = [
        BLACK,
        *((40 * n, 255 - 20 * n, 60 + 10 * n) for n in range(1, 6)),
        *((n, 200, n) for n in range(100, 106)),
    ]
    drawn = indexed(np.arange(16 * 20).reshape(16, 20) % len(colours), *colours)
    folder = folder_of(tmp_path, [drawn.convert("RGB")])
    with pytest.raises(DataError, match=r"12 colours.*--threshold 0 makes everything but black foreground") as error:
        _ = open_source(folder).classes
    assert not re.search("class[0-9]=", str(error.value))
