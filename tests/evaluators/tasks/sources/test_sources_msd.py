from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from task_samples import check_refused, describe, label_map, msd_folder, nib, save_nifti, volume

from unetx_evaluators.tasks.sources import open_source


def replace_image(folder: Path, array: Any, affine: Any = None) -> Path:
    save_nifti(folder / "imagesTr" / "a1.nii.gz", array, affine)
    return folder


def replace_label(folder: Path, array: Any, affine: Any = None) -> Path:
    save_nifti(folder / "labelsTr" / "a1.nii.gz", array, affine)
    return folder


def test_a_case_reads_as_it_was_written(tmp_path: Path) -> None:
    source = open_source(msd_folder(tmp_path))
    case = source.read("a3")
    np.testing.assert_array_equal(case.image, volume(seed=3)[None])
    np.testing.assert_array_equal(case.label, label_map())
    assert (source.channels, source.classes) == (("MRI",), ("background", "front", "back"))
    assert (str(case.image.dtype), str(case.label.dtype), case.spacing) == ("float32", "uint8", (1.0, 1.0, 1.0))


def test_spacing_follows_the_axes_of_the_affine(tmp_path: Path) -> None:
    affine = np.diag([0.5, 0.75, 3.0, 1.0])
    folder = replace_label(replace_image(msd_folder(tmp_path), volume(), affine), label_map(), affine)
    assert open_source(folder).read("a1").spacing == pytest.approx((0.5, 0.75, 3.0))


def test_every_orientation_is_brought_to_ras(tmp_path: Path) -> None:
    image, label = volume(), label_map()
    straight = nib.Nifti1Image(image, np.diag([1.0, 2.0, 3.0, 1.0]))
    folder = msd_folder(tmp_path)
    to_lps = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt("SPL")
    )  # axes swapped and two of them flipped
    turned = straight.as_reoriented(to_lps)
    turned_label = nib.Nifti1Image(label, straight.affine).as_reoriented(to_lps)
    replace_image(folder, turned.get_fdata(dtype=np.float32), turned.affine)
    replace_label(folder, np.asarray(turned_label.dataobj), turned_label.affine)
    case = open_source(folder).read("a1")
    assert turned.shape != image.shape
    np.testing.assert_array_equal(case.image[0], image)
    np.testing.assert_array_equal(case.label, label)
    assert case.spacing == pytest.approx((1.0, 2.0, 3.0))


def test_the_scale_in_the_header_is_applied(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path)
    stored = nib.Nifti1Image(np.arange(16 * 18 * 12, dtype=np.int16).reshape(16, 18, 12), np.eye(4))
    stored.header.set_slope_inter(0.5, -7)
    nib.save(stored, folder / "imagesTr" / "a1.nii.gz")
    assert open_source(folder).read("a1").image[0, 0, 0, :3].tolist() == [-7.0, -6.5, -6.0]


def test_channels_come_first(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 2, modality={"0": "T1", "1": "T2"})
    both = np.stack([volume(seed=8), volume(seed=9)], axis=-1)
    for name in ("a0", "a1"):
        save_nifti(folder / "imagesTr" / f"{name}.nii.gz", both)
    source = open_source(folder)
    assert source.channels == ("T1", "T2")
    np.testing.assert_array_equal(source.read("a0").image, np.moveaxis(both, -1, 0))


def test_uncompressed_files_are_read(tmp_path: Path) -> None:
    save_nifti(tmp_path / "imagesTr" / "x.nii", volume())
    save_nifti(tmp_path / "labelsTr" / "x.nii", label_map())
    describe(tmp_path, [], training=[{"image": "imagesTr/x.nii", "label": "labelsTr/x.nii"}])
    np.testing.assert_array_equal(open_source(tmp_path).read("x").label, label_map())


def test_float_labels_that_are_whole_numbers_are_read(tmp_path: Path) -> None:
    folder = replace_label(msd_folder(tmp_path), label_map().astype(np.float32))
    np.testing.assert_array_equal(open_source(folder).read("a1").label, label_map())


def test_gaps_between_label_values_are_closed(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, labels={"5": "back", "0": "background", "2": "front"})
    for name in ("a0", "a1"):
        save_nifti(folder / "labelsTr" / f"{name}.nii.gz", np.array([0, 2, 5], np.uint8)[label_map()])
    source = open_source(folder)
    assert source.classes == ("background", "front", "back")
    np.testing.assert_array_equal(source.read("a1").label, label_map())


def with_voxels(value: float, n: int = 2) -> Any:
    """An image in which so many voxels have that value."""
    image = volume().astype(np.float64)
    image[3, 4, :n] = value
    return image


MOVED = np.eye(4) + 2.0 * np.eye(4, k=3)
"""By 2 mm along x."""

IMAGES = {
    "NaN": (with_voxels(np.nan), r"imagesTr/a1\.nii\.gz: 2 of 3456 voxels are NaN or infinite"),
    "infinite": (with_voxels(np.inf), r"2 of 3456 voxels are NaN or infinite"),
    "minus infinite": (with_voxels(-np.inf), r"2 of 3456 voxels are NaN or infinite"),
    "beyond float32": (with_voxels(1e300, 1), r"1 of 3456 voxels are NaN or infinite"),
    "empty": (np.zeros((0, 18, 12), np.float32), r"imagesTr/a1\.nii\.gz: is empty"),
    "channels": (
        volume((16, 18, 12, 2)),
        r"a1\.nii\.gz: holds 2 channels \(.*\), but 'modality' in dataset\.json names 1 channel \(MRI\)",
    ),
}
LABELS = {
    "interpolated": (label_map() * 0.5, None, r"a1\.nii\.gz: .*whole numbers, this one 0\.5"),
    "NaN": (np.where(label_map() == 2, np.nan, label_map()).astype(np.float32), None, r"labelsTr/a1\.nii\.gz: .*NaN"),
    "no class": (
        label_map(n_classes=5),
        None,
        r"a1\.nii\.gz: holds 2 values \(3, 4\) that no class has \(known: 0 background, 1 front, 2 back\)",
    ),
    "another shape": (
        label_map((16, 18, 13)),
        None,
        r"labelsTr/a1\.nii\.gz: the mask is 16x18x13, its image a1\.nii\.gz is 16x18x12",
    ),
    "elsewhere": (label_map(), MOVED, "lies elsewhere in the patient .*up to 2 mm"),
}


@pytest.mark.parametrize("what", IMAGES)
def test_an_image_that_cannot_be_trained_on_is_refused(tmp_path: Path, what: str) -> None:
    image, reason = IMAGES[what]
    check_refused(replace_image(msd_folder(tmp_path), image), reason)


@pytest.mark.parametrize("what", LABELS)
def test_a_label_map_that_does_not_fit_is_refused(tmp_path: Path, what: str) -> None:
    label, affine, reason = LABELS[what]
    check_refused(replace_label(msd_folder(tmp_path), label, affine), reason)


def test_rounding_in_the_affine_is_forgiven(tmp_path: Path) -> None:
    folder = replace_label(msd_folder(tmp_path), label_map(), np.eye(4) * (1 + 1e-4))
    assert open_source(folder).read("a1").label.max() == 2


@pytest.mark.parametrize("affine", [np.diag([0.0, 1, 1, 1]), np.full((4, 4), np.nan)])
def test_an_affine_without_a_spacing_is_refused(tmp_path: Path, affine: Any) -> None:
    folder = msd_folder(tmp_path)
    stored = nib.Nifti1Image(volume(), None)
    stored.header.set_sform(affine, code=1)
    nib.save(stored, folder / "imagesTr" / "a1.nii.gz")
    check_refused(folder, r"imagesTr/a1\.nii\.gz: its sform \(header fields srow_x, srow_y, srow_z\) gives no place")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_truncated_file_is_refused_with_its_name(tmp_path: Path, part: str, share: float) -> None:
    file = msd_folder(tmp_path) / part / "a1.nii.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    check_refused(tmp_path, rf"{part}/a1\.nii\.gz: {'cannot be read as NIfTI' if share else 'is empty'}")


OTHERS = [b"not a volume", gzip.compress(b"not a volume", mtime=0), gzip.compress(b"\0" * 1000, mtime=0)]


@pytest.mark.parametrize("content", OTHERS, ids=["text", "compressed-text", "compressed-zeros"])
def test_something_else_called_nifti_is_refused(tmp_path: Path, content: bytes) -> None:
    (msd_folder(tmp_path) / "imagesTr" / "a1.nii.gz").write_bytes(content)
    check_refused(tmp_path, r"imagesTr/a1\.nii\.gz: cannot be read as NIfTI")


def test_flipped_bits_in_the_compressed_data_are_refused(tmp_path: Path) -> None:
    file = msd_folder(tmp_path) / "imagesTr" / "a1.nii.gz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))
    check_refused(tmp_path, r"a1\.nii\.gz: cannot be read as NIfTI")


def test_a_slice_among_volumes_is_refused(tmp_path: Path) -> None:
    folder = replace_image(msd_folder(tmp_path), volume((16, 18)))
    check_refused(replace_label(folder, label_map((16, 18, 1))), r"a1\.nii\.gz: is 2D, but a0\.nii\.gz is 3D")


def test_missing_files_are_listed_and_counted(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path)
    (folder / "labelsTr" / "a1.nii.gz").unlink()
    (folder / "imagesTr" / "a3.nii.gz").unlink()
    check_refused(folder, r"lists 2 files \(labelsTr/a1\.nii\.gz, imagesTr/a3\.nii\.gz\) not there")


@pytest.mark.parametrize("path", ["../secret.nii.gz", "/etc/secret.nii.gz", "imagesTr/../../x.nii.gz"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    folder = msd_folder(tmp_path / "set", training=[{"image": path, "label": "labelsTr/a0.nii.gz"}])
    check_refused(folder, "leaves the dataset's folder")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path / "set")
    save_nifti(tmp_path / "elsewhere.nii.gz", volume())
    (folder / "imagesTr" / "a0.nii.gz").unlink()
    (folder / "imagesTr" / "a0.nii.gz").symlink_to(tmp_path / "elsewhere.nii.gz")
    check_refused(folder, r"imagesTr/a0\.nii\.gz: leaves the dataset's folder")


def test_a_case_listed_twice_is_refused(tmp_path: Path) -> None:
    pair = {"image": "imagesTr/a0.nii.gz", "label": "labelsTr/a0.nii.gz"}
    check_refused(msd_folder(tmp_path, training=[pair, pair]), "lists case 'a0' twice")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("modality", None, "'modality' maps numbers to names"),
        ("modality", {"0": "a", "2": "b"}, 'counts from "0" without gaps'),
        ("labels", {"background": 0, "front": 1}, "'labels' maps numbers to names"),
        ("labels", {"1": "front", "2": "back"}, "names 0 \\(the background\\)"),
        ("labels", {"0": "background"}, "at least one class"),
        ("labels", {"0": "background", "1": "x", "2": "x"}, "names each number once, and differently"),
        ("labels", {"0": "background", "1": "x", "01": "y"}, "names each number once, and differently"),
        ("training", [], "'training' lists"),
        ("training", "all", "'training' lists"),
        ("training", [{"image": "imagesTr/a0.nii.gz"}], r"training\[0\]\.label is a path"),
        ("training", ["imagesTr/a0.nii.gz"], r'training\[0\] is {"image": \.\.\., "label": \.\.\.}, got "imagesTr/a0'),
        (
            "training",
            [{"image": "a.czi", "label": "b.png"}],
            r"got 'a\.czi'; convert it to TIFF or NIfTI, with Bio-Formats",
        ),
        ("training", [{"image": "a.png", "label": "b.jpg"}], r"training\[0\]\.label, 'b\.jpg', is a JPEG"),
    ],
)
def test_a_description_that_is_not_in_the_decathlons_form_is_refused(
    tmp_path: Path, field: str, value: object, reason: str
) -> None:
    check_refused(msd_folder(tmp_path, 1, **{field: value}), reason)


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")])
def test_a_description_that_is_no_json_is_refused(tmp_path: Path, text: str | bytes) -> None:
    file = msd_folder(tmp_path, 1) / "dataset.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    check_refused(tmp_path, r"dataset\.json: cannot be read as JSON")


def test_a_description_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("[1]", encoding="utf-8")
    check_refused(tmp_path, "a JSON object is expected, this is a list")


def test_the_real_hippocampus_reads_like_nibabel(test_data: Path) -> None:
    folder = test_data / "hippocampus_msd"
    source = open_source(folder)
    assert source.case_names == tuple(sorted(Path(p["image"]).name[:-7] for p in _training(folder)))
    assert source.classes == ("background", "Anterior", "Posterior")
    for name in source.case_names[::30]:
        case = source.read(name)
        stored = nib.load(folder / "imagesTr" / f"{name}.nii.gz")
        truth = nib.load(folder / "labelsTr" / f"{name}.nii.gz")
        np.testing.assert_array_equal(case.image[0], stored.get_fdata().astype(np.float32))
        np.testing.assert_array_equal(case.label, truth.get_fdata())
        assert case.spacing == (1.0, 1.0, 1.0)


def _training(folder: Path) -> list[dict[str, str]]:
    pairs: list[dict[str, str]] = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["training"]
    return pairs
