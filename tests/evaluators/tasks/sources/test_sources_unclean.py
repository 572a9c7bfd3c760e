"""Masks whose values are not the classes' own: edges, objects, floats. There is a way in, and it is proposed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from task_samples import Array, check_refused, label_map, mask, msd_folder, nib, picture, save_nifti, save_png
from task_samples import channels_last_folder as volumes_folder

from unetx_evaluators.evaluation import DataError, DataErrors, distinct_messages
from unetx_evaluators.tasks.sources import ReadingOptions, open_source, parse_labels
from unetx_evaluators.tasks.sources.labels import Threshold

SHAPE = (32, 32)
DISK = np.hypot(*(np.indices(SHAPE) - 15.5)) < 10


def folder_of(root: Path, masks: Sequence[Array], ending: str = ".png") -> Path:
    for number, drawn in enumerate(masks):
        save_png(root / "images" / f"c{number}.png", picture(drawn.shape[:2], number))
        save_png(root / "masks" / f"c{number}{ending}", drawn)
    return root


def grey(shown: Array, value: int = 255) -> Array:
    return np.asarray(shown * value, dtype=np.uint8)


def blurred(value: int = 255) -> Array:
    small = Image.fromarray(grey(DISK, value)).resize((24, 24), Image.Resampling.BILINEAR)
    return np.array(small.resize(SHAPE, Image.Resampling.BILINEAR))


def through_jpeg(drawn: Array) -> Array:
    stream = BytesIO()
    Image.fromarray(drawn).save(stream, "JPEG", quality=70)
    return np.array(Image.open(stream))


def proposed(folder: Path) -> ReadingOptions:
    """What the refusal proposes as threshold."""
    source = open_source(folder)
    with pytest.raises(DataError, match="--threshold ") as error:
        _ = source.classes
    told = re.search(r"--threshold ([0-9.]+)", str(error.value))
    assert told
    assert str(error.value).count("\n") == 0
    return ReadingOptions(threshold=float(told[1]))


OBJECTS = np.repeat(np.repeat(np.arange(16).reshape(4, 4), 8, axis=0), 8, axis=1).astype(np.uint16)
UNCLEAN = {
    "antialiased": ([blurred(), blurred()], DISK),
    "dim": ([blurred(100)], DISK),
    "compressed": ([through_jpeg(grey(DISK)), np.zeros(SHAPE, np.uint8)], DISK),
    "compressed colours": ([through_jpeg(np.dstack([grey(DISK)] * 3))], DISK),
    "two brightnesses": ([grey(DISK, 1), grey(DISK, 255)], DISK),
    "one off": ([np.where(np.indices(SHAPE).sum(axis=0) == 0, 1, grey(DISK, 254)).astype(np.uint8), grey(DISK)], DISK),
    "objects": ([OBJECTS], OBJECTS > 0),
    "few objects": ([np.minimum(OBJECTS, 3)], OBJECTS > 0),
    "floats": ([np.clip(12 - np.hypot(*(np.indices(SHAPE) - 15.5)), 0, 4).astype(np.float32) / 4], DISK),
}


@pytest.mark.parametrize("kind", UNCLEAN)
def test_the_threshold_that_is_proposed_reads_the_masks(tmp_path: Path, kind: str) -> None:
    masks, shown = UNCLEAN[kind]
    folder = folder_of(tmp_path, masks, ".tif" if masks[0].dtype.kind == "f" else ".png")
    source = open_source(folder, reading=proposed(folder))
    assert source.classes == ("background", "foreground")
    assert (source.read("c0").label != shown).mean() < 0.02  # edges may move by a pixel


@pytest.mark.parametrize("kind", ["antialiased", "compressed", "one off", "objects"])
def test_values_that_are_no_classes_are_not_proposed_as_such(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError) as error:
        _ = open_source(folder_of(tmp_path, UNCLEAN[kind][0])).classes
    assert "class1=" not in str(error.value)


def test_jpeg_masks_are_told_once_with_a_threshold_that_reads_them(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [grey(DISK)] * 5, ".jpg")
    with pytest.raises(DataError, match=r": 5 masks \(c0\.jpg, .* are each a JPEG.*--threshold 127 makes"):
        open_source(folder)
    source = open_source(folder, reading=ReadingOptions(threshold=127))
    np.testing.assert_array_equal(source.read("c3").label, DISK)


def test_a_label_that_255_sets_apart_is_proposed_as_ignored(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [mask((16, 20), 0, 1, 2, 255)])
    with pytest.raises(DataError, match=r"--labels background=0,class1=1,class2=2,ignore=255$"):
        _ = open_source(folder).classes


def test_several_values_may_be_one_class(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [grey(DISK, 1), grey(DISK, 255)])
    source = open_source(folder, labels=parse_labels("cell=1,cell=255"))
    np.testing.assert_array_equal(source.read("c0").label, source.read("c1").label)


def test_values_that_no_label_can_name_are_not_proposed_as_labels(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [np.where(DISK, 1, -1).astype(np.int32)], ".tif")
    with pytest.raises(DataError, match=r"2 values \(-1, 1\); save them with values from 0 to 65535"):
        _ = open_source(folder).classes


def test_labels_and_a_threshold_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leave --labels out"):
        open_source(folder_of(tmp_path, [grey(DISK)]), labels={"a": 1}, reading=ReadingOptions(threshold=3))


def test_a_threshold_reads_volumes_and_is_part_of_the_identity(tmp_path: Path) -> None:
    folder = volumes_folder(tmp_path, 1)
    save_nifti(folder / "masks" / "v0.nii.gz", label_map((14, 12, 9), 3))
    sources = [open_source(folder, reading=ReadingOptions(threshold=level)) for level in (0, 1)]
    for level, source in enumerate(sources):
        np.testing.assert_array_equal(source.read("v0").label, label_map((14, 12, 9), 3) > level)
    assert sources[0].identity != sources[1].identity


def test_a_mask_of_one_bit_is_black_and_white_to_a_threshold(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [grey(DISK), grey(DISK)])
    Image.fromarray(grey(DISK)).convert("1").save(folder / "masks" / "c1.png")
    source = open_source(folder, reading=ReadingOptions(threshold=127))
    np.testing.assert_array_equal(source.read("c1").label, source.read("c0").label)


def test_a_described_dataset_takes_no_threshold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="already names the labels; leave --threshold out"):
        open_source(msd_folder(tmp_path), reading=ReadingOptions(threshold=0))


def test_what_is_neither_above_nor_below_is_refused() -> None:
    assert Threshold(0.5).encode(np.array([0, 0.5, 0.6]), Path("m"), "").tolist() == [0, 0, 1]
    with pytest.raises(DataError, match="holds NaN"):
        Threshold(0.5).encode(np.array([np.nan]), Path("m"), "")


def test_a_label_map_that_its_header_scales_is_read(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 1, labels={"0": "background", "1": "front"})
    shown = label_map(n_classes=2)
    scaled = nib.Nifti1Image(shown * 255, np.eye(4))
    scaled.header.set_slope_inter(1 / 255, 0)
    file = folder / "labelsTr" / "a0.nii.gz"
    nib.save(scaled, file)
    assert np.asarray(nib.load(file).dataobj).max() != 1
    np.testing.assert_array_equal(open_source(folder).read("a0").label, shown)


def test_a_reason_that_holds_for_many_files_is_told_once_with_their_number() -> None:
    errors = [DataError(f"/data/c{number}.png: is broken; mend it") for number in range(6)]
    other = DataError("/data/x.png: is empty")
    assert distinct_messages([*errors[:2], other]) == [str(errors[0]), str(errors[1]), str(other)]
    told = "/data/c0.png: is broken; mend it (the same of 5 more: c1.png, c2.png, c3.png, ...)"
    assert distinct_messages([other, *errors]) == [str(other), told]
    assert str(DataErrors([other, *errors])) == f"{other}\n{told}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xd8\xff\xe0", r"is a JPEG, whatever its name says; rename it to end in \.jpg"),
        (b"\x1f\x8b\x08", r"is compressed \(gzip\), though its name does not say so; unpack it"),
        (b"GIF89a nonsense", r"is a GIF, whatever its name says; rename it to end in \.gif"),
        (b"RIFF\0\0\0\0WEBP", "is a WebP.*convert it to PNG"),
        (b"\0" * 128 + b"DICM", "is a DICOM file.*dcm2niix"),
        (b"\0" * 344 + b"n+1\0", r"is a NIfTI volume.*rename it to end in \.nii"),
        (b"NRRD0004", "is an NRRD volume"),
        (b"version https://git-lfs.github.com/spec/v1", "is a pointer of Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html>", "is a web page, as a failed download leaves it, .*get the file itself"),
        (b"", r"is empty \(0 bytes\)"),
        (b"\x89PNG broken", r"cannot be read as PNG \(.*copy or export it again"),
    ],
)
def test_a_file_that_is_something_else_is_told_as_what_it_is(tmp_path: Path, content: bytes, told: str) -> None:
    folder = folder_of(tmp_path, [grey(DISK)])
    (folder / "images" / "c0.png").write_bytes(content)
    check_refused(folder, rf"c0\.png: {told}")
