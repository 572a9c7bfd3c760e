"""MetaImage and NRRD: read as the same volume in NIfTI is, and refused where SimpleITK alone would pass damage over."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from task_samples import check_refused, describe_nnunet, label_map, save_nifti, save_png, volume

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources import ReadingOptions, open_source

SimpleITK: Any = pytest.importorskip("SimpleITK")

SHAPE = (16, 18, 12)
ENDINGS = [".mha", ".mhd", ".nrrd"]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
ASKEW = np.array([[0.0, -1.0, 0.0], [0.8, 0.0, 0.6], [0.6, 0.0, -0.8]])
"""Directions of the stored axes in the patient (columns), LPS."""
SPACING, ORIGIN = (0.5, 0.75, 3.0), (5.0, -6.0, 7.0)


def save_itk(file: Path, array: Any, *, packed: bool = True) -> None:
    """``[x, y, z]``, or channels last, at ASKEW."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(np.swapaxes(array, 0, 2)), isVector=array.ndim == 4)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(ASKEW.ravel().tolist())
    SimpleITK.WriteImage(image, str(file), packed)


def itk_folder(root: Path, ending: str, n_cases: int = 3, *, packed: bool = True) -> Path:
    for seed in range(n_cases):
        save_itk(root / "images" / f"v{seed}{ending}", volume(SHAPE, seed), packed=packed)
        save_itk(root / "masks" / f"v{seed}{ending}", label_map(SHAPE, 2), packed=packed)
    return root


def as_nifti(root: Path) -> Path:
    """The same cases, by the definition of their headers: mm in LPS are direction times spacing times index."""
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ ASKEW @ np.diag(SPACING)
    affine[:3, 3] = LPS_TO_RAS @ ORIGIN
    save_nifti(root / "images" / "v1.nii.gz", volume(SHAPE, 1), affine)
    save_nifti(root / "masks" / "v1.nii.gz", label_map(SHAPE, 2), affine)
    return root


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_volume_reads_as_its_twin_in_nifti(tmp_path: Path, ending: str, packed: bool) -> None:
    source = open_source(itk_folder(tmp_path / "itk", ending, packed=packed))
    case, twin = source.read("v1"), open_source(as_nifti(tmp_path / "nifti")).read("v1")
    assert source.problems == ()
    np.testing.assert_array_equal(case.image, twin.image)
    np.testing.assert_array_equal(case.label, twin.label)
    assert case.spacing == pytest.approx(twin.spacing)


def test_an_image_in_nifti_pairs_with_a_mask_in_metaimage(tmp_path: Path) -> None:
    folder = as_nifti(tmp_path)
    (folder / "masks" / "v1.nii.gz").unlink()
    save_itk(folder / "masks" / "v1.seg.nrrd", label_map(SHAPE, 2))
    assert open_source(folder).read("v1").label.max() == 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_nnunets_layout_takes_the_format(tmp_path: Path, ending: str) -> None:
    for seed in range(3):
        for channel in range(2):
            save_itk(tmp_path / "imagesTr" / f"v{seed}_{channel:04d}{ending}", volume(SHAPE, channel))
        save_itk(tmp_path / "labelsTr" / f"v{seed}{ending}", label_map(SHAPE, 2))
    describe_nnunet(tmp_path, labels={"background": 0, "organ": 1}, file_ending=ending, numTraining="3")
    source = open_source(tmp_path)
    assert (source.channels, source.case_names, source.problems) == (("CT", "CT"), ("v0", "v1", "v2"), ())
    assert source.read("v2").image.shape[0] == 2


def test_components_of_a_voxel_are_channels(tmp_path: Path) -> None:
    both = np.stack([volume(SHAPE, 0), volume(SHAPE, 1)], axis=-1)
    folder = itk_folder(tmp_path, ".nrrd", 1)
    plain = open_source(folder).read("v0").image
    save_itk(folder / "images" / "v0.nrrd", both)
    source = open_source(folder)
    assert source.channels == ("channel 0", "channel 1")
    np.testing.assert_array_equal(source.read("v0").image[0], plain[0])


def test_a_flat_image_is_a_picture(tmp_path: Path) -> None:
    for part, array in (("images", volume((16, 18, 1))[:, :, 0]), ("masks", label_map((16, 18, 1), 2)[:, :, 0])):
        (tmp_path / part).mkdir()
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.T.copy()), str(tmp_path / part / "p.mha"))
    source = open_source(tmp_path)
    assert (source.dims, source.read("p").image.shape) == (2, (1, 16, 18))


def test_a_changed_voxel_file_beside_the_header_changes_the_identity(tmp_path: Path) -> None:
    folder = itk_folder(tmp_path, ".mhd", 1, packed=False)
    source = open_source(folder)
    assert source.n_bytes > 5 * np.prod(SHAPE)  # float32 and uint8
    raw = folder / "images" / "v0.raw"
    before = source.identity
    raw.write_bytes(raw.read_bytes() + b"\0")
    assert open_source(folder).identity != before


def spoil(folder: Path, how: str) -> None:
    """The image of case v1."""
    file = next(file for file in (folder / "images").glob("v1.*") if file.suffix in ENDINGS)
    data = bytearray(file.read_bytes())
    if how == "cut":
        data = data[:-200]
    elif how == "damaged":
        data[-100] ^= 255
    elif how == "empty":
        data = bytearray()
    elif how == "text":
        data = bytearray(b"hello\n" * 9)
    elif how == "other":
        data = bytearray(re.sub(rb"ElementDataFile = .*", b"ElementDataFile = ../../secret", bytes(data)))
    elif how == "list":
        data = bytearray(re.sub(rb"ElementDataFile = .*", b"ElementDataFile = LIST\n/etc/passwd", bytes(data)))
    elif how == "detached":
        data = bytearray(data.replace(b"\n\n", b"\ndata file: /etc/passwd\n\n", 1))
    elif how == "huge":
        data = bytearray(re.sub(rb"DimSize = .*", b"DimSize = 20000 20000 20000", bytes(data)))
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("ending", "how", "reason"),
    [
        (".mha", "cut", r"v1\.mha: cannot be read as MetaImage"),
        (".mha", "damaged", r"v1\.mha: cannot be read as MetaImage \(.*incorrect data check\)"),
        (".mha", "empty", r"v1\.mha: is empty \(0 bytes\)"),
        (".mha", "text", r"v1\.mha: cannot be read as MetaImage \(its header ends without ElementDataFile\)"),
        (".mha", "huge", r"v1\.mha: claims 20000x20000x20000 voxels .* decompression bomb"),
        (".mhd", "other", r"v1\.mhd: keeps its voxels in '\.\./\.\./secret', and not in a file of that name beside it"),
        (".mhd", "list", r"v1\.mhd: keeps its voxels in 'LIST'"),
        (".nrrd", "cut", r"v1\.nrrd: cannot be read as NRRD"),
        (".nrrd", "text", r"v1\.nrrd: cannot be read as NRRD"),
        (".nrrd", "detached", r"v1\.nrrd: keeps its voxels in another file"),
    ],
)
def test_what_is_damaged_or_reaches_elsewhere_is_refused_without_a_line_of_the_library(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], ending: str, how: str, reason: str
) -> None:
    folder = itk_folder(tmp_path, ending)
    spoil(folder, how)
    check_refused(folder, reason)
    assert capfd.readouterr() == ("", "")


def test_voxels_that_end_early_in_a_file_of_their_own_are_refused(tmp_path: Path) -> None:
    folder = itk_folder(tmp_path, ".mhd", packed=False)
    raw = folder / "images" / "v1.raw"
    raw.write_bytes(raw.read_bytes()[:-1])
    n_bytes = 4 * int(np.prod(SHAPE))  # float32
    check_refused(folder, rf"its voxels take {n_bytes} bytes, {n_bytes - 1} are there")


def test_a_nifti_file_called_metaimage_is_told(tmp_path: Path) -> None:
    folder = itk_folder(tmp_path, ".mha")
    save_nifti(tmp_path / "x.nii.gz", volume(SHAPE))
    (tmp_path / "x.nii.gz").rename(folder / "images" / "v1.mha")
    check_refused(folder, r"v1\.mha: is compressed \(gzip\), .* rename it to end in \.nii\.gz")
    save_png(tmp_path / "y.png", volume((8, 8)).astype(np.uint8))
    (tmp_path / "y.png").rename(folder / "images" / "v1.mha")
    check_refused(folder, r"v1\.mha: is a PNG, whatever its name says; rename it to end in \.png")


def test_masks_without_names_for_their_values_are_met_with_what_is_proposed_for_others(tmp_path: Path) -> None:
    folder = itk_folder(tmp_path, ".mha")
    for seed in range(3):
        save_itk(folder / "masks" / f"v{seed}.mha", label_map(SHAPE, 4))
    with pytest.raises(DataError, match=r"4 values.*--threshold 0.*--labels"):
        _ = open_source(folder).classes
    divided = open_source(folder, reading=ReadingOptions(threshold=0)).read("v1").label
    named = open_source(folder, labels={"a": 1, "b": 2, "c": 3}).read("v1").label
    assert named.max() == 3
    np.testing.assert_array_equal(divided, named > 0)
    with pytest.raises(DataError, match="the mask of a volume holds numbers, no colours"):
        open_source(folder, labels={"a": "#ff0000"}).read("v1")


def test_channels_and_mask_of_a_folder_for_each_case_pair(tmp_path: Path) -> None:
    for case in ("c1", "c2"):
        for word, array in (("t1", volume(SHAPE, 1)), ("t2", volume(SHAPE, 2)), ("seg", label_map(SHAPE, 2))):
            save_itk(tmp_path / case / f"{case}_{word}.nrrd", array)
    source = open_source(tmp_path)
    assert (source.case_names, source.channels) == (("c1", "c2"), ("t1", "t2"))
    assert source.read("c1").image.shape[0] == 2


def test_voxels_beside_their_header_may_be_a_link_that_the_user_vouches_for(tmp_path: Path) -> None:
    folder = itk_folder(tmp_path / "set", ".mhd")
    for file in sorted(folder.glob("*/*.*raw")):
        (tmp_path / file.parent.name).mkdir(exist_ok=True)
        file.symlink_to(file.rename(tmp_path / file.parent.name / file.name))
    check_refused(folder, "--follow-links")
    source = open_source(folder, reading=ReadingOptions(follow_links=True))
    assert source.classes == ("background", "foreground")
    np.testing.assert_array_equal(source.read("v1").image, open_source(as_nifti(tmp_path / "nifti")).read("v1").image)
    assert str(tmp_path) in source.identity


WITHOUT = """
import sys, json
from importlib import util
real = util.find_spec
util.find_spec = lambda name, *more: None if name == "SimpleITK" else real(name, *more)
from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources import open_source
for folder in sys.argv[1:]:
    try:
        open_source(folder)
    except DataError as error:
        print(json.dumps(str(error)))
"""


def test_without_the_reader_the_refusal_says_how_to_install_it(tmp_path: Path) -> None:
    describe_nnunet(tmp_path / "nnunet", file_ending=".mha")
    (tmp_path / "list").mkdir()
    pairs = [{"image": "a.nrrd", "label": "b.nrrd"}]
    (tmp_path / "list" / "list.json").write_text(json.dumps({"training": pairs}), encoding="utf-8")
    folders = [itk_folder(tmp_path / "folder", ".mha"), tmp_path / "nnunet", tmp_path / "list"]
    answer = subprocess.run(
        [sys.executable, "-c", WITHOUT, *map(str, folders)], capture_output=True, text=True, check=True
    )
    told = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(told) == len(folders)
    assert all('pip install "unetx-search[simpleitk]"' in text for text in told)
