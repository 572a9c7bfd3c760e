from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from task_samples import (
    FLIPPED,
    OBLIQUE,
    Array,
    channels_last_folder,
    check_refused,
    label_map,
    msd_folder,
    nib,
    place,
    save_nifti,
    uneven_folder,
    volume,
)

from unetx_evaluators.tasks.sources import open_source


def check_reads_like_nibabel(folder: Path, images: str = "imagesTr", labels: str = "labelsTr") -> None:
    """Every voxel and spacing as nibabel gives them in canonical orientation."""
    source = open_source(folder)
    assert source.problems == ()
    for name in source.case_names:
        case = source.read(name)
        image, label = (
            nib.as_closest_canonical(nib.load(folder / part / f"{name}.nii.gz")) for part in (images, labels)
        )
        plain = image.get_fdata().astype(np.float32)
        np.testing.assert_array_equal(case.image, np.moveaxis(plain, 3, 0) if plain.ndim == 4 else plain[None])
        np.testing.assert_array_equal(case.label, label.get_fdata())
        assert case.spacing == pytest.approx(nib.affines.voxel_sizes(image.affine))


@pytest.mark.parametrize("affine", [FLIPPED, OBLIQUE], ids=["flipped", "oblique"])
def test_volumes_askew_or_mirrored_read_like_nibabel(tmp_path: Path, affine: Array) -> None:
    check_reads_like_nibabel(place(msd_folder(tmp_path, 3), ["a0", "a2"], affine))


def test_a_volume_stored_from_right_to_left_is_turned(tmp_path: Path) -> None:
    folder = place(msd_folder(tmp_path, 2), ["a0"], FLIPPED)
    np.testing.assert_array_equal(open_source(folder).read("a0").label, label_map()[::-1])


def test_sizes_may_be_odd_and_differ_by_ten(tmp_path: Path) -> None:
    check_reads_like_nibabel(uneven_folder(tmp_path))


def test_channels_of_a_4d_volume_come_first(tmp_path: Path) -> None:
    folder = channels_last_folder(tmp_path)
    source = open_source(folder)
    assert (source.dims, source.channels) == (3, ("channel 0", "channel 1", "channel 2"))
    check_reads_like_nibabel(folder, "images", "masks")


def test_a_mask_may_be_called_mask_and_lie_beside_its_volume(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", volume())
    save_nifti(tmp_path / "a_mask.nii.gz", label_map(n_classes=2))
    source = open_source(tmp_path)
    assert (source.case_names, source.channels) == (("a",), ("intensity",))
    np.testing.assert_array_equal(source.read("a").label, label_map(n_classes=2))


@pytest.mark.parametrize("stored", [(16, 18), (16, 18, 1), (16, 1, 18), (1, 16, 18)])
def test_a_volume_of_one_slice_is_a_picture(tmp_path: Path, stored: tuple[int, ...]) -> None:
    image, label = volume((16, 18)), label_map((16, 18, 1), 2)[..., 0]
    affine = np.diag([-2.0, 3.0, 5.0, 1.0])
    save_nifti(tmp_path / "images" / "a.nii.gz", image.reshape(stored), affine)
    save_nifti(tmp_path / "masks" / "a.nii.gz", label.reshape(stored), affine)
    source = open_source(tmp_path)
    case = source.read("a")
    lengths = [length for length, n in zip((2.0, 3.0, 5.0), (*stored, 1), strict=False) if n > 1]
    turned = slice(None, None, -1) if stored[0] > 1 else slice(None)
    assert source.dims == 2
    assert case.spacing == pytest.approx(tuple(lengths))
    np.testing.assert_array_equal(case.image[0], image[turned])
    np.testing.assert_array_equal(case.label, label[turned])


def test_a_single_row_stays_a_volume(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", volume((16, 1, 1)))
    save_nifti(tmp_path / "a_mask.nii.gz", label_map((16, 1, 1), 2))
    assert open_source(tmp_path).read("a").image.shape == (1, 16, 1, 1)


@pytest.mark.parametrize("scaled", [False, True])
def test_whole_numbers_of_a_picture_keep_their_scale(tmp_path: Path, scaled: bool) -> None:
    stored = nib.Nifti1Image(np.arange(20, dtype=np.int16).reshape(4, 5), np.eye(4))
    if scaled:
        stored.header.set_slope_inter(0.5, -7)
    (tmp_path / "images").mkdir()
    nib.save(stored, tmp_path / "images" / "a.nii.gz")
    save_nifti(tmp_path / "masks" / "a.nii.gz", (np.arange(20).reshape(4, 5) > 9).astype(np.uint8))
    plain = nib.load(tmp_path / "images" / "a.nii.gz").get_fdata()
    np.testing.assert_array_equal(open_source(tmp_path).read("a").image[0], plain)


def test_version_2_and_big_endian_files_are_read(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 3)
    nib.save(nib.Nifti2Image(volume(), np.eye(4)), folder / "imagesTr" / "a0.nii.gz")
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(np.rint(volume()).astype(">i2"), np.eye(4), header), folder / "imagesTr" / "a1.nii.gz")
    check_reads_like_nibabel(folder)


def test_a_header_that_contradicts_itself_is_read_as_nibabel_reads_it(tmp_path: Path) -> None:
    """MONAI's own opening would take the qform instead, with 1 mm voxels and no turn."""
    folder = msd_folder(tmp_path, 2)
    for part, array in (("imagesTr", volume()), ("labelsTr", label_map())):
        stored = nib.Nifti1Image(array, np.eye(4))
        stored.set_sform(np.diag([-2.0, 2.0, 3.0, 1.0]), code=1, update_affine=True)
        stored.header.set_zooms((1.0, 1.0, 1.0))
        nib.save(stored, folder / part / "a0.nii.gz")
    assert open_source(folder).read("a0").spacing == pytest.approx((2.0, 2.0, 3.0))
    np.testing.assert_array_equal(open_source(folder).read("a0").image[0], volume()[::-1])


def test_a_mask_with_channels_is_refused(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 2)
    save_nifti(folder / "labelsTr" / "a0.nii.gz", np.stack([label_map()] * 2, axis=-1))
    check_refused(folder, r"labelsTr/a0\.nii\.gz: has 2 channels .*one number per voxel")


def test_channels_behind_an_axis_of_one_are_found(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 1, modality={"0": "a", "1": "b"})
    both = volume((16, 18, 12, 1, 2))
    save_nifti(folder / "imagesTr" / "a0.nii.gz", both)
    np.testing.assert_array_equal(open_source(folder).read("a0").image, np.moveaxis(both[:, :, :, 0], -1, 0))


def test_more_axes_than_space_and_channels_are_refused(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 2)
    save_nifti(folder / "imagesTr" / "a0.nii.gz", volume((4, 5, 6, 2, 3)))
    check_refused(folder, r"a0\.nii\.gz: has shape 4x5x6x2x3; an image is x\*y, x\*y\*z or x\*y\*z\*channels")


def test_colours_in_one_voxel_are_refused(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 2)
    colours = np.zeros((16, 18, 12), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    save_nifti(folder / "imagesTr" / "a0.nii.gz", colours)
    check_refused(folder, r"a0\.nii\.gz: holds values of type .*, not numbers")


def test_a_header_that_claims_too_much_is_refused_before_a_voxel_is_read(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 2)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((20_000, 20_000, 20_000))
    header["magic"], header["vox_offset"] = b"n+1", 352
    (folder / "imagesTr" / "a0.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    check_refused(folder, r"a0\.nii\.gz: claims 20000x20000x20000 voxels .*decompression bomb")


def test_a_file_that_goes_on_after_its_voxels_is_refused(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 2)
    file = folder / "imagesTr" / "a0.nii.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()) + bytes(3_000_000)))
    check_refused(folder, r"a0\.nii\.gz: cannot be read as NIfTI \(it goes on after the last voxel")


def test_a_file_that_is_not_compressed_but_cut_is_refused(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii", volume())
    save_nifti(tmp_path / "a_mask.nii", label_map(n_classes=2))
    whole = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(whole[: len(whole) // 2])
    check_refused(tmp_path, r"a\.nii: cannot be read as NIfTI")


def test_a_file_of_another_kind_than_its_name_says_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = msd_folder(tmp_path)
    file = folder / "imagesTr" / "a1.nii.gz"
    packed = file.read_bytes()
    contents = {
        gzip.decompress(packed): r"a1\.nii\.gz: is not compressed, though .* rename it to end in \.nii",
        b"\xff\xd8\xff\xe0": r"a1\.nii\.gz: is a JPEG, whatever its name says; rename it to end in \.jpg",
        b"<!DOCTYPE html>": "is a web page, as a failed download leaves it, whatever",
        b"version https://git-lfs.github.com/spec/v1": r"pointer of Git LFS, .*\(git lfs pull\)",
    }
    for data, reason in contents.items():
        file.write_bytes(data)
        check_refused(folder, reason)
    file.unlink()
    description = json.loads((folder / "dataset.json").read_text())
    description["training"][1]["image"] = "imagesTr/a1.nii"
    (folder / "dataset.json").write_text(json.dumps(description))
    for data, reason in (
        (packed, r"a1\.nii: is compressed \(gzip\), .* rename it to end in \.nii\.gz"),
        (b"\1" * 999, "cannot be read"),
    ):
        (folder / "imagesTr" / "a1.nii").write_bytes(data)
        check_refused(folder, reason)
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("codes", "field"),
    [((1, 0), "sform .*srow_x"), ((0, 0), r"header field pixdim \(sform_code and qform_code are 0\)")],
)
def test_the_header_field_that_gives_no_place_is_named(tmp_path: Path, codes: tuple[int, int], field: str) -> None:
    file = msd_folder(tmp_path) / "imagesTr" / "a1.nii.gz"
    data = bytearray(gzip.decompress(file.read_bytes()))
    data[252:256] = np.array([codes[1], codes[0]], "<i2").tobytes()  # qform_code, sform_code
    data[280:328] = bytes(48)  # srow_x to srow_z
    data[80:92] = np.array([1, 1, np.nan], "<f4").tobytes()  # pixdim[1] to [3]
    file.write_bytes(gzip.compress(bytes(data)))
    check_refused(tmp_path, rf"a1\.nii\.gz: its {field}")
