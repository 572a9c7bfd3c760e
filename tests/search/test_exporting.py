"""A trained model on its way out: with its own weights and preparation, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_samples import TWO_D, cell_folder, copied, predicted, trained
from PIL import Image

from unetx_search.models.exporting import with_weights
from unetx_space.documents import load
from unetx_space.errors import RequestError
from unetx_studies.export import export
from unetx_studies.export.runner import Model
from unetx_studies.model_folder import ModelFolder


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cell_folder(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def model(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of intensities that are normalised by those of all training cases, which the file must tell the runner."""
    path = tmp_path_factory.mktemp("models") / "model"
    trained(cells, path, replace(TWO_D, normalisation="ct"), steps=20, learning_rate=0.01)
    return path


def test_an_exported_model_segments_as_predict_does(model: Path, cells: Path, tmp_path: Path) -> None:
    architecture, weights = with_weights(model, None)
    exported = export(architecture, tmp_path / "net.pt2", weights=weights)
    assert exported.patch == ModelFolder.load(model).plan.patch
    assert exported.max_difference is not None
    assert exported.max_difference <= 1e-5
    runner = Model(exported.path)
    assert [how["scheme"] for how in runner.normalisation] == ["ct"]
    predicted(model, cells / "images", tmp_path / "masks")
    for number in range(8):
        image = np.asarray(Image.open(cells / "images" / f"c{number}.png"))
        mask = np.asarray(Image.open(tmp_path / "masks" / f"c{number}.png"))
        assert set(np.unique(mask)) == {0, 200}, "something is found, and something is not"
        assert (runner.segment(image[None], (1.0, 1.0)) == (mask == 200)).mean() >= 0.995


def test_a_model_of_several_folds_is_asked_for_one(model: Path, tmp_path: Path) -> None:
    folds = copied(model, tmp_path / "folds")
    (folds / "weights-fold1.safetensors").write_bytes((folds / "weights-fold0.safetensors").read_bytes())
    with pytest.raises(RequestError, match=r"has folds 0, 1, .* such as --weights .*weights-fold0\.safetensors"):
        with_weights(folds, None)
    chosen = folds / "weights-fold1.safetensors"
    assert with_weights(folds, chosen) == (ModelFolder.load(model).architecture, chosen)
    for file in folds.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(RequestError, match="has no weights yet"):
        with_weights(folds, None)


def test_an_architecture_file_leaves_as_before(model: Path) -> None:
    assert with_weights(model / "architecture.json", None) == (load(model / "architecture.json"), None)


def test_damaged_weights_and_those_of_another_design_of_the_same_shapes_are_not_exported(
    model: Path, tmp_path: Path
) -> None:
    architecture, weights = with_weights(model, None)
    assert weights is not None
    other = replace(architecture, backbone=replace(architecture.backbone, negative_slope=0.3))
    with pytest.raises(RequestError, match=r"weights-fold0\.safetensors: was trained with another architecture"):
        export(other, tmp_path / "net.py", weights=weights)
    damaged = bytearray(weights.read_bytes())
    damaged[-3] ^= 0x40
    (tmp_path / "damaged.safetensors").write_bytes(bytes(damaged))
    with pytest.raises(RequestError, match=r"damaged\.safetensors is damaged: its numbers"):
        export(architecture, tmp_path / "net.py", weights=tmp_path / "damaged.safetensors")
    assert not (tmp_path / "net.py").exists()
    assert export(architecture, tmp_path / "net.py", weights=weights).max_difference == 0
