"""Images to be predicted: how files are grouped, what is refused, and that masks lie on the images' own grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from task_samples import FLIPPED, OBLIQUE, Array, nib, picture, save_nifti, save_pages, save_png, volume

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.files import read_image
from unetx_evaluators.tasks.sources.images import list_images

SIDEWAYS = np.array([[0, 0, 2.5, -3], [-0.8, 0, 0, 7], [0, 1.1, 0, 2], [0, 0, 0, 1]])
"""Stored with the patient's front first, then the head, then the right."""


def names(place: Path, *channels: str, dims: int = 2) -> list[tuple[str, list[str]]]:
    return [(one.name, [file.name for file in one.files]) for one in list_images(place, dims, channels)]


def test_files_are_images_unless_nnunets_names_make_them_channels(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        save_png(tmp_path / f"{name}.png", picture())
    assert names(tmp_path, "t1", "t2") == [("a", ["a_0000.png", "a_0001.png"]), ("b", ["b_0000.png", "b_0001.png"])]
    one_each = [(name, [f"{name}.png"]) for name in ("a_0000", "a_0001", "b_0000", "b_0001")]
    assert names(tmp_path, "t1") == one_each, "of one channel each: four images, numbered by whoever named them"


def test_a_lone_first_channel_is_called_like_its_case(tmp_path: Path) -> None:
    save_png(tmp_path / "a_0000.png", picture())
    save_png(tmp_path / "b_0000.tif", picture((16, 20, 3)))
    assert names(tmp_path / "a_0000.png", "grey") == [("a", ["a_0000.png"])]
    assert names(tmp_path / "b_0000.tif", "red", "green", "blue") == [("b", ["b_0000.tif"])]


@pytest.mark.parametrize(
    ("files", "channels", "dims", "reason"),
    [
        ({"a.png": (16, 20, 3)}, ("grey",), 2, r"a.png: a.png holds 3 channels .* reads 1 channel \(grey\)"),
        ({"a_0000.png": (16, 20)}, ("t1", "t2"), 2, r"a_0000.png holds 1 channel .* called CASE_0000, CASE_0001"),
        ({"a_0000.png": (16, 20), "a_0001.png": (8, 8)}, ("t1", "t2"), 2, "a_0001.png: is 8x8, but a_0000.png"),
        ({"a.png": (16, 20)}, ("CT",), 3, "a.png: is 2D, and the model reads 3D images"),
        ({"a.png": (16, 20), "a.tif": (16, 20)}, ("grey",), 2, "a.tif: is image 'a' like a.png"),
        ({}, ("grey",), 2, "holds no image; those are read that end in .nii.gz"),
    ],
)
def test_images_that_do_not_fit_are_refused_by_name(
    files: dict[str, tuple[int, ...]], channels: tuple[str, ...], dims: int, reason: str, tmp_path: Path
) -> None:
    for name, shape in files.items():
        save_png(tmp_path / name, picture(shape))
    with pytest.raises(DataError, match=reason):
        list_images(tmp_path, dims, channels)


def test_a_format_that_is_not_read_is_refused_with_its_converter(tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(DataError, match="dcm2niix"):
        list_images(tmp_path, 3, ("CT",))


@pytest.mark.parametrize(
    "affine", [np.eye(4), FLIPPED, OBLIQUE, SIDEWAYS], ids=["plain", "flipped", "oblique", "sideways"]
)
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"])
def test_a_mask_made_in_our_orientation_lies_where_the_image_does(affine: Array, ending: str, tmp_path: Path) -> None:
    """The marker is the image's brightest voxel; the mask is what is bright, written and read again."""
    stored = np.zeros((9, 7, 5), np.float32)
    stored[6, 2, 1] = 100
    file = tmp_path / f"a{ending}"
    if ending.startswith(".nii"):
        save_nifti(file, stored, affine)
    else:
        SimpleITK = pytest.importorskip("SimpleITK")
        image = SimpleITK.GetImageFromArray(stored.T)
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        lps = np.diag([-1.0, -1.0, 1.0])
        image.SetSpacing(lengths.tolist())
        orthogonal, _, back = np.linalg.svd(lps @ affine[:3, :3] / lengths)
        image.SetDirection((orthogonal @ back).ravel().tolist())
        image.SetOrigin((lps @ affine[:3, 3]).tolist())
        SimpleITK.WriteImage(image, str(file))
    (one,) = list_images(file, 3, ("CT",))
    mask = (one.read()[0] > 50).astype(np.uint8)
    target = tmp_path / "masks" / one.mask_name
    target.parent.mkdir()
    one.write_mask(target, mask)
    before, after = read_image(file), read_image(target)
    np.testing.assert_array_equal(after[1][0], mask)
    assert before[0].corners is not None
    assert after[0].corners is not None
    np.testing.assert_allclose(after[0].corners, before[0].corners, atol=1e-4)
    if ending.startswith(".nii"):
        opened, original = nib.load(target), nib.load(file)
        assert np.argwhere(np.asarray(opened.dataobj)).tolist() == [[6, 2, 1]]
        np.testing.assert_array_equal(opened.affine, original.affine)
        assert opened.get_data_dtype() == np.uint8


def test_probabilities_are_stored_as_the_image_is(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", volume((6, 5, 4)), SIDEWAYS)
    (one,) = list_images(tmp_path, 3, ("CT",))
    room = one.create_arrays(tmp_path / "a.npy", 2)
    room[1] = one.read()[0]
    del room
    stored = np.load(tmp_path / "a.npy")
    np.testing.assert_array_equal(stored[1], np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj))
    assert not stored[0].any()


def test_a_volume_of_one_slice_and_a_picture_of_two_axes_keep_their_shape(tmp_path: Path) -> None:
    for name, shape in (("flat", (6, 5)), ("thin", (6, 1, 4)), ("four", (6, 5, 4, 2))):
        save_nifti(tmp_path / f"{name}.nii.gz", volume(shape), FLIPPED)
        channels = ("a", "b") if name == "four" else ("a",)
        (one,) = list_images(tmp_path / f"{name}.nii.gz", 3 if name == "four" else 2, channels)
        one.write_mask(tmp_path / f"{name}_mask.nii.gz", (one.read()[0] > 100).astype(np.uint8))
        written = np.asarray(nib.load(tmp_path / f"{name}_mask.nii.gz").dataobj)
        first = np.asarray(nib.load(tmp_path / f"{name}.nii.gz").dataobj).reshape(*shape[:3], -1)[..., 0]
        np.testing.assert_array_equal(written, (first > 100).reshape(shape[:3]))


@pytest.mark.parametrize(("name", "mask_name"), [("a.jpg", "a.png"), ("a.bmp", "a.png"), ("a.tif", "a.tif")])
def test_masks_of_pictures_are_lossless(name: str, mask_name: str, tmp_path: Path) -> None:
    save_png(tmp_path / name, picture())
    (one,) = list_images(tmp_path, 2, ("grey",))
    assert one.mask_name == mask_name
    values = np.array([0, 128, 255], np.uint8)[picture(seed=1) % 3]
    one.write_mask(tmp_path / f"mask_{mask_name}", values)
    np.testing.assert_array_equal(read_image(tmp_path / f"mask_{mask_name}")[1][0], values)


def test_a_tiff_of_several_pages_gets_a_mask_of_as_many(tmp_path: Path) -> None:
    save_pages(tmp_path / "a.tif", picture((4, 16, 20)))
    (one,) = list_images(tmp_path, 3, ("grey",))
    values = (picture((4, 16, 20), 1) > 128).astype(np.uint16) * np.uint16(1000)
    one.write_mask(tmp_path / "m.tif", values)
    np.testing.assert_array_equal(read_image(tmp_path / "m.tif")[1][0], values)
