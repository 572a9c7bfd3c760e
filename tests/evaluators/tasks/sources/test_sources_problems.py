"""Everything that is wrong is found in one go, and what is sound stays."""

from __future__ import annotations

import builtins
import io
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from task_samples import (
    check_refused,
    label_map,
    mask,
    msd_folder,
    nib,
    nnunet_folder,
    photograph_folder,
    picture,
    picture_folder,
    save_nifti,
    save_png,
    volume,
)

from unetx_evaluators.evaluation import DataError, DataErrors
from unetx_evaluators.tasks.sources import Source, open_source


def texts(source: Source) -> list[str]:
    return [str(problem) for problem in source.problems]


def test_every_problem_of_a_picture_folder_is_told_at_once(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "set", {name: mask() for name in "abcdefg"})
    save_png(folder / "masks" / "b.png", mask((16, 21)))
    save_png(folder / "images" / "c.png", picture((16, 20, 3)))
    (folder / "masks" / "d.png").unlink()
    (folder / "images" / "e.png").write_bytes(b"nothing")
    (folder / "images" / "f.png").rename(tmp_path / "f.png")
    (folder / "images" / "f.png").symlink_to(tmp_path / "f.png")
    (folder / "images" / "h.czi").write_bytes(b"")
    source = open_source(folder)
    assert source.case_names == ("a", "g")
    expected = [
        "h.czi",
        "leaves the dataset",
        "d.png) without a mask",
        "masks/b.png: the mask is 16x21, its image b.png is 16x20",
        "e.png: cannot be read",
        "c.png: has channels",
    ]
    for text in expected:
        assert sum(text in found for found in texts(source)) == 1, text
    assert len(source.problems) == len(expected)
    assert pickle.loads(pickle.dumps(source)).case_names == source.case_names


def test_every_problem_of_a_description_is_told_at_once(tmp_path: Path) -> None:
    pairs = [{"image": f"imagesTr/a{n}.nii.gz", "label": f"labelsTr/a{n}.nii.gz"} for n in range(6)]
    folder = msd_folder(tmp_path, 6, training=[*pairs, pairs[0], {"image": "../x.nii.gz", "label": "y.nii.gz"}, {}])
    (folder / "labelsTr" / "a1.nii.gz").unlink()
    (folder / "imagesTr" / "a2.nii.gz").write_bytes(b"no volume")
    save_nifti(folder / "labelsTr" / "a3.nii.gz", label_map((16, 18, 13)))
    save_nifti(folder / "labelsTr" / "a4.nii.gz", label_map(), np.diag([1.0, 1, 2, 1]))
    source = open_source(folder)
    assert source.case_names == ("a0", "a5")
    expected = [
        "a0' twice",
        "leaves the dataset",
        "training[8]",
        "not there",
        "a2.nii.gz: cannot",
        "16x18x13",
        "lies elsewhere",
    ]
    for text in expected:
        assert sum(text in found for found in texts(source)) == 1, text
    assert len(source.problems) == len(expected)


def test_when_no_case_is_left_all_problems_are_raised(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask(), "b": mask()})
    for name in "ab":
        (folder / "images" / f"{name}.png").write_bytes(b"nothing")
    with pytest.raises(DataErrors) as error:
        open_source(folder)
    assert len(error.value.errors) == 2


def test_most_cases_decide_which_channels_are_the_odd_ones(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {name: mask() for name in "abc"}, channels=3)
    save_png(folder / "images" / "a.png", picture())
    source = open_source(folder)
    assert (source.case_names, source.channels) == (("b", "c"), ("red", "green", "blue"))
    assert "a.png: has channels grey, but b.png has red, green, blue" in texts(source)[0]


def test_a_mask_that_cannot_be_read_hides_no_other_finding(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {name: mask((64, 64)) for name in "abc"})
    save_png(folder / "masks" / "b.png", picture((64, 64)) // 128)
    whole = (folder / "masks" / "b.png").read_bytes()
    (folder / "masks" / "b.png").write_bytes(whole[: len(whole) // 2])
    source = open_source(folder)
    assert source.classes == ("background", "foreground")
    assert source.read("a").label.max() == 1
    with pytest.raises(DataError, match=r"b\.png: cannot be read as PNG"):
        source.read("b")


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"aB": mask(), "Ab": mask()})
    if len(list((folder / "images").iterdir())) == 1:
        pytest.skip("this file system does not tell aB.png from Ab.png")
    check_refused(folder, r"'aB' differs from 'Ab' in upper and lower case alone")


def test_names_that_differ_in_format_alone_are_refused(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask(), "b": mask()})
    save_png(folder / "images" / "a.tif", picture())
    source = open_source(folder)
    assert source.case_names == ("b",)
    assert any("1 name (a) stands for two files each (a.png, a.tif)" in text for text in texts(source))


def test_images_in_folders_below_are_told_rather_than_left_out(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask()})
    save_png(folder / "images" / "patient2" / "b.png", picture())
    check_refused(folder, r"images: 1 folder \(patient2\) below it holds images")


def test_a_nifti_image_does_not_pair_with_a_picture(tmp_path: Path) -> None:
    save_nifti(tmp_path / "images" / "a.nii.gz", volume((16, 20)))
    save_png(tmp_path / "masks" / "a.png", mask((16, 20)))
    check_refused(tmp_path, "volumes and pictures order their axes differently")


def test_the_size_of_the_files_is_known(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path, 2)
    sizes = [file.stat().st_size for part in ("imagesTr", "labelsTr") for file in (folder / part).iterdir()]
    assert open_source(folder).n_bytes == sum(sizes)


@pytest.mark.parametrize("ending", [".nhdr", ".mgz", ".czi", ".npy", ".webp", ".h5", ".svs"])
def test_known_formats_that_are_not_read_are_named_with_a_converter(tmp_path: Path, ending: str) -> None:
    folder = picture_folder(tmp_path, {"a": mask()})
    (folder / "images" / f"b{ending}").write_bytes(b"")
    check_refused(folder, rf"found 1 other file \(b\{ending}\); (convert|write)")


@pytest.mark.parametrize("name", ["scan.dcm", "IM0001", "1.2.840.113619", "DICOMDIR"])
@pytest.mark.parametrize("where", [".", "patient1/series2"])
def test_dicom_is_recognised_and_refused_with_a_converter(tmp_path: Path, name: str, where: str) -> None:
    (tmp_path / where).mkdir(parents=True, exist_ok=True)
    (tmp_path / where / name).write_bytes(bytes(128) + b"DICM" + bytes(50))
    check_refused(tmp_path, rf"{name}: is a DICOM file, which is not read; .*dcm2niix")


def test_dicom_among_images_is_refused_with_a_converter(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path, {"a": mask()})
    (folder / "images" / "IM7").write_bytes(bytes(128) + b"DICM")
    check_refused(folder, r"found 1 other file \(IM7\); .*dcm2niix")


def test_a_dicom_file_is_refused_as_dicom(tmp_path: Path) -> None:
    (tmp_path / "slice").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DataError, match="dcm2niix"):
        open_source(tmp_path / "slice")


def test_nnunet_version_1_is_recognised(tmp_path: Path) -> None:
    folder = msd_folder(tmp_path, 2)
    for name in ("a0", "a1"):
        (folder / "imagesTr" / f"{name}.nii.gz").rename(folder / "imagesTr" / f"{name}_0000.nii.gz")
    check_refused(folder, "nnU-Net version 1.*nnUNetv2_convert_old_nnUNet_dataset")


def test_reading_a_case_opens_each_of_its_files_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [
        open_source(nnunet_folder(tmp_path / "n")),
        open_source(photograph_folder(tmp_path / "p"), labels={"x": "#ff0000", "y": "#00ff80"}),
    ]
    for source in sources:
        source.read(source.case_names[1])  # imports done
    opened: Counter[str] = Counter()
    plain = io.open

    def counted(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened[str(file)] += 1
        return plain(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", counted)
    monkeypatch.setattr(io, "open", counted)
    for source in sources:
        source.read(source.case_names[0])
    of_cases = {file: count for file, count in opened.items() if file.startswith(str(tmp_path))}
    assert sorted(of_cases.values()) == [1] * 5


def test_opening_decodes_no_voxel(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path, 2, shape=(40, 40, 40))
    for file in (folder / "imagesTr").iterdir():
        file.write_bytes(file.read_bytes()[:8000])
    assert open_source(folder).case_names == ("ct_000", "ct_001")
    check_refused(folder, r"ct_000_0000\.nii\.gz: cannot be read as NIfTI")
    assert nib.load(folder / "imagesTr" / "ct_000_0000.nii.gz").shape == (40, 40, 40)
