"""A bundle has what MONAI asks for, needs nothing of ours, and prepares images as the search did."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle.config_parser import ConfigParser
from monai.bundle.utils import DEFAULT_METADATA
from PIL import Image

from unetx_evaluators.tasks.preprocessing import ChannelNormalisation, normalised
from unetx_space import PRESETS, Architecture, RequestError, build, isotropic_backbone, loads
from unetx_studies.export import Exported, export, traced
from unetx_studies.export import monai_bundle as monai_bundle_module
from unetx_studies.export.model import Model

CT = ChannelNormalisation("ct", mean=40.0, std=30.0, low=-50.0, high=120.0)
SCHEMES = (
    CT,
    ChannelNormalisation("case"),
    ChannelNormalisation("range"),
    ChannelNormalisation("rgb"),
    ChannelNormalisation("none"),
)


def architecture(dims: Any, *channels: ChannelNormalisation, classes: tuple[str, ...] = ("background", "organ")) -> Any:
    backbone = isotropic_backbone(dims, in_channels=len(channels), n_levels=2, base_width=2)
    task = {
        "name": "a task",
        "patch": [8] * dims,
        "spacing": [1.0] * dims,
        "channels": [f"c{i}" for i in range(len(channels))],
        "classes": list(classes),
        "normalisation": [asdict(channel) for channel in channels],
    }
    return Architecture(backbone, PRESETS["u-net"].genome(2), provenance={"task": task})


@pytest.fixture(scope="module")
def planar(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("bundles") / "net"
    return export(architecture(2, CT, CT), folder, format="monai-bundle", seed=4)


def opened(path: Path) -> Any:
    return nib.load(path)


def canonical(path: Path) -> Any:
    """The voxels in RAS+."""
    return np.asarray(nib.as_closest_canonical(opened(path)).dataobj)  # type: ignore[no-untyped-call]


def parsed(bundle: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> ConfigParser:
    monkeypatch.chdir(bundle)  # where the bundle is run, so that its scripts are found
    monkeypatch.syspath_prepend(bundle)
    monkeypatch.delitem(sys.modules, "scripts", raising=False)
    monkeypatch.delitem(sys.modules, "scripts.network", raising=False)
    parser = ConfigParser()
    parser.read_config("configs/inference.json")
    parser.read_meta("configs/metadata.json")
    parser.update(changes)
    return parser


def test_a_bundle_holds_what_monai_asks_for(planar: Exported) -> None:
    names = {str(path.relative_to(planar.path)) for path in planar.path.rglob("*") if path.is_file()}
    assert names == {
        "LICENSE", "architecture.json", "configs/inference.json", "configs/logging.conf", "configs/metadata.json",
        "docs/README.md", "models/model.onnx", "models/model.pt", "models/model.pt2", "scripts/__init__.py",
        "scripts/network.py",
    }  # fmt: skip
    metadata = json.loads((planar.path / "configs/metadata.json").read_text())
    assert DEFAULT_METADATA.keys() <= metadata.keys()
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "organ"}
    assert loads((planar.path / "architecture.json").read_text()) == architecture(2, CT, CT)
    assert planar.max_difference is not None
    assert planar.max_difference <= 1e-5
    assert sorted(path.name for path in planar.path.parent.iterdir()) == ["net"]


def test_its_network_and_weights_are_those_of_the_architecture(
    planar: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = parsed(planar.path, monkeypatch).get_parsed_content("network_def")
    network.load_state_dict(torch.load("models/model.pt", weights_only=True))
    image = torch.randn(1, 2, 13, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network.eval()(image), build(architecture(2, CT, CT), seed=4).eval()(image))


@pytest.mark.parametrize("how", SCHEMES, ids=lambda how: how.scheme)
def test_images_are_prepared_as_for_the_search(how: ChannelNormalisation) -> None:
    values = np.random.default_rng(0).normal(30, 60, (6, 7, 5)).astype(np.float32)
    transforms = monai_bundle_module._normalisation([asdict(how)])
    parser = ConfigParser({"chain": {"_target_": "Compose", "transforms": transforms}})
    found = parser.get_parsed_content("chain")({"image": torch.from_numpy(values[None])})["image"]
    np.testing.assert_allclose(np.asarray(found)[0], normalised(values, how), rtol=2e-4, atol=2e-5)


def test_a_folder_of_pictures_is_read_the_right_way_round(
    planar: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(1).integers(1, 255, (9, 12, 2), dtype=np.uint8)
    Image.fromarray(pixels, mode="LA").save(tmp_path / "p.png")
    dataset = parsed(planar.path, monkeypatch, dataset_dir=str(tmp_path), device="cpu").get_parsed_content("dataset")
    expected = [normalised(channel.astype(np.float32), CT) for channel in np.moveaxis(pixels, -1, 0)]
    np.testing.assert_allclose(np.asarray(dataset[0]["image"]), expected, rtol=1e-5, atol=1e-5)


def test_a_volume_is_turned_and_comes_back_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "pt2"):  # what their own tests look at
        monkeypatch.setattr(traced, f"write_{name}", lambda model, path: path.write_text(""))
        monkeypatch.setattr(traced, f"run_{name}", lambda path, image, model: model.network(image))
    whole = ChannelNormalisation("none")
    bundle = export(architecture(3, whole), tmp_path / "net", format="monai-bundle").path
    affine = np.array([[0, 0, -1.0, 10], [-1.0, 0, 0, 5], [0, 1.0, 0, -7], [0, 0, 0, 1]])
    volume = np.zeros((10, 9, 8), np.float32)
    volume[1:9, 2:8, 1:7] = np.random.default_rng(2).normal(9, 1, (8, 6, 6))
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "v.nii.gz")  # type: ignore[no-untyped-call]
    parser = parsed(bundle, monkeypatch, dataset_dir=str(tmp_path), device="cpu", output_dir=str(tmp_path / "out"))
    item = parser.get_parsed_content("dataset")[0]
    turned = canonical(tmp_path / "v.nii.gz")
    inside = (
        turned[1:7, 1:9, 2:8]
        if (turned[1:7, 1:9, 2:8] != 0).all()
        else turned[np.ix_(*map(np.unique, np.nonzero(turned)))]
    )
    np.testing.assert_allclose(np.asarray(item["image"])[0], inside, rtol=1e-5)
    image = item["image"]
    logits = torch.stack([torch.full(image.shape[1:], 0.5), image[0].as_tensor() - 9.0])
    item["pred"] = type(image)(logits, meta=image.meta, applied_operations=image.applied_operations)
    parser.get_parsed_content("postprocessing")(item)
    written = opened(tmp_path / "out/v_seg.nii.gz")
    np.testing.assert_allclose(written.affine, affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj).squeeze(), volume > 9.5)


def test_channels_normalised_in_different_ways_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"different ways \(case, ct\).*choose the format onnx or pt2"):
        export(architecture(2, CT, SCHEMES[1]), tmp_path / "net", format="monai-bundle")
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_a_strangers_document_is_evaluated_by_monai() -> None:
    hostile = "$__import__('os').abort()"
    named = architecture(2, CT, classes=("background", hostile))
    task = {**named.provenance["task"], "name": hostile, "channels": ["@device"]}
    model = Model(replace(named, provenance={"task": task}), 0, None, None, lambda words: None)
    text = json.dumps(monai_bundle_module._metadata(model))
    assert not set("$@%") & set(text)


@pytest.mark.parametrize(
    "changes",
    [{"spacing": ["$abort()", 1.0]}, {"normalisation": [{**asdict(CT), "low": "$abort()"}]}, {"normalisation": [7]}],
)
def test_a_task_that_no_search_wrote_is_refused_by_name(changes: dict[str, Any], tmp_path: Path) -> None:
    plain = architecture(2, CT)
    changed = replace(plain, provenance={"task": {**plain.provenance["task"], **changes}})
    with pytest.raises(RequestError, match=r"provenance\.task is not as a search writes it"):
        export(changed, tmp_path / "net", format="monai-bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_export_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/work.txt").write_text("years")
    with pytest.raises(RequestError, match="is no export of ours"):
        export(architecture(2, CT), tmp_path / "mine", format="monai-bundle", force=True)
    assert (tmp_path / "mine/work.txt").read_text() == "years"
