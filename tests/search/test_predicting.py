"""Masks for a folder of images: by parts, continued, with what is told beside, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from model_samples import THREE_D, TWO_D, cell_folder, organ_folder, predicted, trained
from PIL import Image
from task_samples import (
    channels_last_folder,
    deep_tiff_folder,
    nib,
    nnunet_folder,
    photograph_folder,
    save_nifti,
    save_png,
    volume,
)

from unetx_evaluators.tasks.sources.images import list_images
from unetx_evaluators.tasks.sources.mask_values import read_mask
from unetx_search.data_choices import DataChoices
from unetx_space.errors import RequestError


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cell_folder(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def model(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "cells"
    trained(cells, path, TWO_D, mirror=True)
    return path


@pytest.fixture(scope="module")
def organs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data and a model of them."""
    root = tmp_path_factory.mktemp("organs")
    data = organ_folder(root / "data")
    trained(data, root / "model", THREE_D)
    return data, root / "model"


def masks_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_parts_predict_each_image_once_and_give_what_one_process_gives(
    cells: Path, model: Path, tmp_path: Path
) -> None:
    whole = predicted(model, cells / "images", tmp_path / "whole")
    parts = [predicted(model, cells / "images", tmp_path / "parts", num_parts=3, part_id=part) for part in range(3)]
    assert [len(part.written) for part in parts] == [3, 3, 2]
    assert sum(len(part.written) for part in parts) == len(whole.written) == 8
    assert masks_in(tmp_path / "parts") == masks_in(tmp_path / "whole")


def test_what_is_there_is_left_and_the_rest_is_predicted(cells: Path, model: Path, tmp_path: Path) -> None:
    predicted(model, cells / "images", tmp_path, num_parts=2, part_id=0)
    save_png(tmp_path / "c0.png", np.full((20, 30), 200, np.uint8))
    before = (tmp_path / "c0.png").read_bytes()
    (tmp_path / ".unfinished-0-abc").mkdir()
    done = predicted(model, cells / "images", tmp_path, continue_=True)
    assert (done.n_kept, len(done.written)) == (4, 4)
    assert (tmp_path / "c0.png").read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {f"c{number}.png" for number in range(8)}
    predicted(model, cells / "images" / "c0.png", tmp_path)
    assert Image.open(tmp_path / "c0.png").size == Image.open(cells / "images" / "c0.png").size


def test_a_prediction_that_was_broken_off_leaves_no_half_mask(
    cells: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(self: object, file: Path, values: object) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("unetx_evaluators.tasks.sources.images.ImageFiles.write_mask", break_off)
    with pytest.raises(KeyboardInterrupt):
        predicted(model, cells / "images", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_volumes_keep_affine_and_shape_and_masks_the_datasets_values(organs: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = organs
    done = predicted(model, data / "imagesTr", tmp_path, save_probabilities=True, statistics=tmp_path / "told.json")
    told = json.loads((tmp_path / "told.json").read_text())["images"]
    assert len(told) == len(done.written) == 6
    for file, one in zip(done.written, told, strict=True):
        mask, image = nib.load(file), nib.load(data / "imagesTr" / file.name)
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert mask.shape == image.shape
        values = np.asarray(mask.dataobj)
        probabilities = np.load(tmp_path / f"{one['image']}_probabilities.npy")
        np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
        assert (probabilities.argmax(axis=0) == values).mean() > 0.999, "ties aside"
        voxel = abs(np.linalg.det(image.affine[:3, :3]))
        for value, found in enumerate(one["classes"].values(), start=1):
            assert found["voxels"] == (values == value).sum()
            assert found["mm3"] == pytest.approx(found["voxels"] * voxel, rel=0.02), "of slightly sheared axes"


def test_pictures_have_the_values_of_the_datasets_masks(cells: Path, model: Path, tmp_path: Path) -> None:
    predicted(model, cells / "images", tmp_path / "out", preview=tmp_path / "preview.png")
    values = {int(value) for file in (tmp_path / "out").iterdir() for value in np.unique(np.asarray(Image.open(file)))}
    assert values <= {0, 200}
    with Image.open(tmp_path / "preview.png") as page:
        assert page.format == "PNG"
        assert page.size[0] > 3 * 256, "eight images in three columns"


def test_images_of_other_channels_and_dimensions_are_refused_by_name(
    cells: Path, model: Path, organs: tuple[Path, Path], tmp_path: Path
) -> None:
    save_nifti(tmp_path / "v" / "scan.nii.gz", volume())
    save_png(tmp_path / "c" / "photo.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(RequestError, match=r"scan\.nii\.gz: is 3D, and the model reads 2D images"):
        predicted(model, tmp_path / "v", tmp_path / "out")
    with pytest.raises(RequestError, match=r"photo\.png: photo\.png holds 3 channels"):
        predicted(model, tmp_path / "c", tmp_path / "out")
    with pytest.raises(RequestError, match=r"c0\.png: is 2D, and the model reads 3D images"):
        predicted(organs[1], cells / "images", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_masks_that_would_overwrite_their_images_are_refused(cells: Path, model: Path) -> None:
    before = masks_in(cells / "images")
    with pytest.raises(RequestError, match="the mask would overwrite its image"):
        predicted(model, cells / "images", cells / "images")
    assert masks_in(cells / "images") == before


def test_an_image_without_its_mask_is_refused_before_anything_is_predicted(
    cells: Path, model: Path, tmp_path: Path
) -> None:
    save_png(tmp_path / "masks" / "c0.png", np.zeros((20, 30), np.uint8))
    with pytest.raises(RequestError, match=r"holds no mask for image 'c1'; it is called c1\.png"):
        predicted(model, cells / "images", tmp_path / "out", masks=tmp_path / "masks")
    assert not (tmp_path / "out").exists()


def test_the_command_line_trains_and_predicts_with_nnunets_names(run: Run, cells: Path) -> None:
    words = ("--patch", "16x16", "--levels", 2, "--base-width", 4, "--batch-size", 2, "--device", "cpu", "--threads", 1)
    code, out, err = run("train", "u-net", "--data", cells, "-o", "model", "--steps", 4, "--validations", 2, *words)
    assert code == 0, err
    assert "2 test cases with the last weights" in out
    assert "step 2 of 4  loss" in err
    code, out, err = run(
        "predict", "model", "-i", cells / "images", "-o", "masks", "-f", "0", "--disable_tta", "-num_parts", 2,
        "-part_id", 1, "--continue", "--masks", cells / "masks", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert "masks: 4 masks written" in out
    assert "Dice on the original voxels" in out
    assert sorted(file.name for file in Path("masks").iterdir()) == [
        "c1.png", "c3.png", "c5.png", "c7.png", "scores-part1.json",
    ]  # fmt: skip


FORMATS: dict[str, tuple[Callable[[Path], Path], str, dict[str, Any]]] = {
    "photographs with colour masks": (
        photograph_folder, "images", {"labels": "background=#000000,cell=#ff0000,border=#00ff80", "patch": (16, 16)},
    ),
    "grey TIFF of 16 bits": (deep_tiff_folder, "images", {"patch": (16, 16)}),
    "volumes of three channels": (channels_last_folder, "images", {"patch": (8, 8, 8)}),
    "slices of volumes": (organ_folder, "imagesTr", {"dims": 2, "patch": (8, 8)}),
    "volumes with other voxels": (organ_folder, "imagesTr", {"spacing": (1.3, 0.7, 2.0), "patch": (8, 8, 8)}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_masks_of_every_kind_of_data_are_read_back_as_the_datasets_own(name: str, tmp_path: Path) -> None:
    make, images, said = FORMATS[name]
    data = make(tmp_path / "data")
    choices = DataChoices(levels=2, base_width=4, **said)
    done = trained(data, tmp_path / "model", choices, steps=2)
    found = predicted(tmp_path / "model", data / images, tmp_path / "out")
    plan = done.model.plan
    assert len(found.written) == len(list((data / images).iterdir()))
    for mask, one in zip(found.written, list_images(data / images, plan.source_dims, plan.channels), strict=True):
        header, values = read_mask(mask, plan.masks.mask_kind)
        label = plan.masks.encode(values, mask, "")
        assert label.shape == header.shape == one.read().shape[1:]
        assert label.max() < len(plan.classes)
    tests = {one["case"]: one["original_dice"] for one in done.scores["test"]["cases"]}
    again = predicted(tmp_path / "model", data / images, tmp_path / "out", masks=next(data.glob("[ml]a[sb]*")))
    assert again.scores_json is not None
    assert tests.items() <= {one["case"]: one["original_dice"] for one in again.scores_json["cases"]}.items()


def test_a_folder_of_nnunets_gives_a_mask_for_each_case_and_counts_no_ignored_voxel(tmp_path: Path) -> None:
    data = nnunet_folder(tmp_path / "data")
    done = trained(data, tmp_path / "model", DataChoices(levels=2, base_width=4, patch=(8, 8, 4)), steps=2)
    found = predicted(tmp_path / "model", data / "imagesTr", tmp_path / "out", masks=data / "labelsTr")
    assert [file.name for file in found.written] == [f"ct_{number:03d}.nii.gz" for number in range(6)]
    assert found.scores_json is not None
    rows = found.scores_json["cases"]
    assert all(one in rows for one in done.scores["test"]["cases"])
    mask, truth = (
        np.asarray(nib.load(folder / "ct_000.nii.gz").dataobj) for folder in (tmp_path / "out", data / "labelsTr")
    )
    counted = truth != 3
    both, either = (((mask == 1) & (truth == 1))[counted].sum(), ((mask == 1)[counted].sum() + (truth == 1).sum()))
    (organ,) = (one for one in rows if (one["case"], one["class"]) == ("ct_000", "organ"))
    assert organ["original_dice"] == pytest.approx(2 * both / either)


def test_an_image_that_cannot_be_used_keeps_no_other_from_its_mask(organs: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        voxels = volume((12, 12, 12))
        voxels[3, 3, 3] = np.nan if name == "b" else 0
        save_nifti(tmp_path / "in" / f"{name}.nii.gz", voxels)
    with pytest.raises(RequestError, match=r"b\.nii\.gz: 1 of 1728 voxels are NaN"):
        predicted(organs[1], tmp_path / "in", tmp_path / "out", statistics=tmp_path / "told.json")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz"]
    assert [one["image"] for one in json.loads((tmp_path / "told.json").read_text())["images"]] == ["a", "c"]


def test_statistics_of_a_continued_prediction_are_those_of_all_images(cells: Path, model: Path, tmp_path: Path) -> None:
    whole = predicted(model, cells / "images", tmp_path / "out")
    (tmp_path / "out" / "c3.png").unlink()
    assert predicted(model, cells / "images", tmp_path / "out", continue_=True).statistics == whole.statistics


def test_more_parts_than_images_are_no_fault(cells: Path, model: Path, tmp_path: Path) -> None:
    done = predicted(model, cells / "images", tmp_path / "out", num_parts=20, part_id=15, preview=tmp_path / "p.png")
    assert (done.written, done.n_kept) == ([], 0)


def test_places_that_cannot_be_written_are_refused_beforehand(cells: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(RequestError, match="-o is a folder for the masks, and this is a file"):
        predicted(model, cells / "images", tmp_path / "file")
    with pytest.raises(RequestError, match=r"--preview .* is a file in a folder that is there"):
        predicted(model, cells / "images", tmp_path / "out", preview=tmp_path / "no" / "p.png")
    assert not (tmp_path / "out").exists()
