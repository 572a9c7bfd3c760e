from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from task_samples import mask, msd_folder, picture_folder

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks import DemoSource
from unetx_evaluators.tasks.sources import Source, open_source, parse_labels
from unetx_space.errors import RequestError


def test_the_layout_is_recognised(tmp_path: Path) -> None:
    pictures = open_source(picture_folder(tmp_path / "nuclei", {"a": mask()}))
    volumes = open_source(str(msd_folder(tmp_path / "brains")))
    assert (pictures.layout, pictures.dims, pictures.name) == ("image/mask folder", 2, "nuclei")
    assert (volumes.layout, volumes.dims, volumes.name) == ("MSD folder", 3, "Sample")
    assert volumes.origin == f"MSD folder {tmp_path / 'brains'}"


SOURCES: dict[str, Callable[[Path], Source]] = {
    "pictures": lambda folder: open_source(picture_folder(folder, {"b": mask(), "a": mask()})),
    "volumes": lambda folder: open_source(msd_folder(folder)),
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
        assert case.label.max() < len(source.classes)
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


def test_labels_are_parsed() -> None:
    assert parse_labels("background=0, left lung =100,b=200") == {"background": 0, "left lung": 100, "b": 200}


@pytest.mark.parametrize("text", ["", "a", "a=", "=1", "a=-1", "a=1.5", "a=1,,b=2", "a=70000", "a=0x1", "a=1=2"])
def test_labels_that_are_no_names_with_values_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--labels is NAME=VALUE"):
        parse_labels(text)


def test_a_label_named_twice_is_refused() -> None:
    with pytest.raises(RequestError, match="'a' twice"):
        parse_labels("a=1,a=2")
