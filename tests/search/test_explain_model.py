"""``explain`` of a trained model: its own weights are examined, on the validation cases of one of its folds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from model_samples import TWO_D, cell_folder, quiet, trained
from safetensors.torch import load_file

from unetx_evaluators.insight import Replacement
from unetx_search.explain.explaining import Explained, explain
from unetx_space.errors import RequestError
from unetx_studies.explanation import explanation_text
from unetx_studies.model_folder import TRAINING, ModelFolder

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDED = replace(TWO_D, folds=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net of two folds, trained on eight pictures."""
    root = tmp_path_factory.mktemp("explained")
    cell_folder(root / "data")
    trained(root / "data", root / "model", FOLDED, width_factor=1.0)
    return root / "model"


def explained(model: Path, fold: int = 0, **changes: object) -> Explained:
    choices = replace(FOLDED, data=model.parent / "data", out=model.parent / "runs", fold=fold)
    how = {"console": quiet(), "gpus": 0} | changes
    return explain(str(model), choices, **how)  # type: ignore[arg-type]


def test_a_models_own_weights_are_examined_on_its_folds_validation_cases(model: Path) -> None:
    before = {file.name: file.read_bytes() for file in model.iterdir() if file.is_file()}
    done = explained(model, fold=1)
    assert done.folder == model / "explain" / "fold-1"
    assert {file.name: file.read_bytes() for file in model.iterdir() if file.is_file()} == before
    told = json.loads((done.folder / "explain.json").read_text())
    curve = json.loads((model / TRAINING).read_text())["folds"]["1"]
    assert told["dice"] == pytest.approx(curve["validation_dice"], abs=1e-3), "as its training scored it"
    assert [(skip["source"], skip["node"]) for skip in told["skips"]] == [("E0", "D0")]
    assert (told["twin_dice"], told["all_skips"], told["stages"]) == (None, None, [])
    text = explanation_text(done.architecture, done.findings)
    assert "no skips" not in text
    assert "has no twin without skips" in text
    assert (done.folder / "explain.svg").read_text().startswith("<svg")


def test_a_skip_cut_by_zero_weights_has_no_effect_and_new_weights_are_examined_anew(
    model: Path, tmp_path: Path
) -> None:
    """The same folder of parts serves both, by the checksums of the weights."""
    first = explained(model, folder=tmp_path / "parts").findings
    assert any(change is not None and change.mean != 0.0 for change in first.skips[0].dice.values())
    changed = tmp_path / "changed"
    shutil.copytree(model, changed, ignore=shutil.ignore_patterns("explain", "runs"))
    folder = ModelFolder.load(changed)
    weights = load_file(folder.weights_file(0))
    width = folder.architecture.backbone.widths[0]
    name = "decoder.D0.block.conv1.weight"
    assert weights[name].shape[1] == 2 * width
    for half in (slice(0, width), slice(width, None)):
        one = weights[name].clone()
        one[:, half] = 0.0
        folder.add_weights(0, {**weights, name: one})
        choices = replace(FOLDED, data=model.parent / "data", out=model.parent / "runs")
        found = explain(str(changed), choices, console=quiet(), gpus=0, folder=tmp_path / "parts").findings
        [skip] = found.skips
        changes = {way: change.mean for way, change in skip.dice.items() if change is not None}
        assert set(changes) == set(Replacement)
        if not any(changes.values()):
            return
    pytest.fail("cutting neither half of the fusion's channels cut the skip")


def test_a_model_on_other_data_or_asked_to_be_trained_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is trained already: leave --seeds and --steps out"):
        explained(model, steps=3)
    cell_folder(tmp_path / "other", n_cases=9)
    choices = replace(FOLDED, data=tmp_path / "other", out=tmp_path / "runs")
    with pytest.raises(RequestError, match="was trained on other data, or on the same ones prepared otherwise"):
        explain(str(model), choices, console=quiet(), gpus=0)
    shutil.copytree(model, tmp_path / "part", ignore=shutil.ignore_patterns("*fold1*", "explain"))
    with pytest.raises(RequestError, match="fold 1 was asked for"):
        explain(str(tmp_path / "part"), replace(choices, fold=1), console=quiet(), gpus=0)
