from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from task_samples import (
    COLOURS,
    channels_last_folder,
    deep_tiff_folder,
    mask,
    msd_folder,
    nnunet_folder,
    photograph_folder,
    picture_folder,
)

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks import DemoSource
from unetx_evaluators.tasks.sources import Source, open_source
from unetx_evaluators.tasks.task import IGNORED


def test_the_layout_is_recognised(tmp_path: Path) -> None:
    pictures = open_source(picture_folder(tmp_path / "nuclei", {"a": mask()}))
    volumes = open_source(str(msd_folder(tmp_path / "brains")))
    assert (pictures.layout, pictures.dims, pictures.name) == ("image/mask folder", 2, "nuclei")
    assert (volumes.layout, volumes.dims, volumes.name) == ("MSD folder", 3, "Sample")
    assert volumes.origin == f"MSD folder {tmp_path / 'brains'}"


SOURCES: dict[str, Callable[[Path], Source]] = {
    "pictures": lambda folder: open_source(picture_folder(folder, {"b": mask(), "a": mask()})),
    "volumes": lambda folder: open_source(msd_folder(folder)),
    "nnunet": lambda folder: open_source(nnunet_folder(folder)),
    "photographs": lambda folder: open_source(photograph_folder(folder), labels=COLOURS),
    "deep": lambda folder: open_source(deep_tiff_folder(folder)),
    "4d": lambda folder: open_source(channels_last_folder(folder)),
    "demo": lambda _: DemoSource(n_cases=3),
}


@pytest.mark.parametrize("layout", SOURCES)
def test_every_source_keeps_the_contract(tmp_path: Path, layout: str) -> None:
    source = SOURCES[layout](tmp_path)
    assert list(source.case_names) == sorted(set(source.case_names))
    assert source.classes[0] == "background"
    for name in source.case_names:
        case, again = source.read(name), pickle.loads(pickle.dumps(source)).read(name)
        assert case.image.shape == (len(source.channels), *case.label.shape)
        assert case.label.ndim == len(case.spacing) == source.dims
        assert (str(case.image.dtype), str(case.label.dtype)) == ("float32", "uint8")
        assert case.label[case.label != IGNORED].max() < len(source.classes)
        np.testing.assert_array_equal(case.image, again.image)
        np.testing.assert_array_equal(case.label, again.label)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: there is nothing at this path"):
        open_source(tmp_path / "nowhere")


def test_a_file_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(b"")
    with pytest.raises(DataError, match="a dataset is a folder, this is a file"):
        open_source(tmp_path / "scan.nii")


def test_an_unknown_layout_is_told_with_what_was_found_and_what_is_known(tmp_path: Path) -> None:
    for name in "abcdefg":
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"found 7 entries \(a/, b/, c/, d/, e/, \.\.\.\)") as error:
        open_source(tmp_path)
    assert "MSD folder" in str(error.value)
    assert "image/mask folder" in str(error.value)
    assert len(str(error.value).splitlines()) < 10


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder is empty"):
        open_source(tmp_path)


def test_labels_for_a_dataset_that_names_its_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="already names the labels; leave --labels out"):
        open_source(msd_folder(tmp_path), labels={"a": 1})
