"""What leaves for nnU-Net is built and called as nnU-Net does that, and answers as the network itself."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sampled_architectures import KINDS, Kind, sampled

from unetx_space import PRESETS, Architecture, Backbone, RequestError, build, isotropic_backbone
from unetx_studies.export import export
from unetx_studies.export.nnunet_plans import merged

FLAT = replace(isotropic_backbone(3, n_levels=4, base_width=2), strides=((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)))
"""Of volumes ``[x, y, z]`` with thick slices."""


def plans_of_nnunet(name: str, patch: list[int], **changes: object) -> dict[str, Any]:
    """What nnU-Net writes, as far as it is read here; by hand."""
    configuration = {"data_identifier": f"nnUNetPlans_{name}", "patch_size": patch, "batch_size": 2, "architecture": {}}
    return {
        "dataset_name": "Dataset004_Hippocampus",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "configurations": {name: configuration, "other": {}},
        **changes,
    }


def exported(architecture: Architecture, folder: Path, **options: Any) -> dict[str, Any]:
    export(architecture, folder, format="nnunet", **options)
    found: dict[str, Any] = json.loads((folder / "plans.json").read_text())
    return found


def network_of(plans: dict[str, Any], name: str, backbone: Backbone, *, deep_supervision: bool) -> Any:
    """As ``nnunetv2.utilities.get_network_from_plans`` makes it."""
    architecture = plans["configurations"][name]["architecture"]
    module, _, class_name = architecture["network_class_name"].rpartition(".")
    kind = getattr(importlib.import_module(module), class_name)
    arguments = {**architecture["arch_kwargs"], "deep_supervision": deep_supervision}
    return kind(input_channels=backbone.in_channels, num_classes=backbone.out_channels, **arguments)


def scales(strides: list[list[int]]) -> list[list[float]]:
    """nnU-Net's of the targets for deep supervision (``nnUNetTrainer._get_deep_supervision_scales``)."""
    return [list(scale) for scale in 1 / np.cumprod(np.vstack(strides), axis=0)][:-1]


def test_nnunet_gets_the_network_on_its_own_axes_with_a_head_for_every_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = Architecture(FLAT, PRESETS["u-net"].genome(4))
    ours = exported(architecture, tmp_path / "net")
    plans = merged(plans_of_nnunet("3d_fullres", [6, 40, 41]), ours)
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["patch_size"] == [8, 40, 48]  # multiples of 4, 8, 8
    assert configuration["data_identifier"] == "nnUNetPlans_3d_fullres"
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert kwargs["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    monkeypatch.syspath_prepend(tmp_path / "net")
    network = network_of(plans, "3d_fullres", FLAT, deep_supervision=True)
    image = torch.randn(1, 1, 8, 40, 48, generator=torch.Generator().manual_seed(0))  # [z, y, x]
    with torch.no_grad():
        answers = network.eval()(image)
        whole = build(architecture).eval()(image.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    wanted = [[round(n * s) for n, s in zip((8, 40, 48), scale, strict=True)] for scale in scales(kwargs["strides"])]
    assert [list(answer.shape[2:]) for answer in answers] == wanted == [[8, 40, 48], [8, 20, 24], [4, 10, 12]]
    assert torch.equal(answers[0], whole)
    network.decoder.deep_supervision = False  # as nnU-Net switches it off to validate
    with torch.no_grad():
        assert torch.equal(network(image), whole)


@pytest.mark.parametrize(("forward", "axes"), [([0, 1, 2], [2, 1, 0]), ([1, 0, 2], [1, 2, 0])])
def test_axes_follow_the_transposition_of_the_plans(forward: list[int], axes: list[int], tmp_path: Path) -> None:
    """nnU-Net reads [z, y, x], which are axes 2, 1, 0 here, and takes them in the order that its plans say."""
    ours = exported(Architecture(FLAT, PRESETS["u-net"].genome(4)), tmp_path / "net", patch=(32, 48, 8))
    plans = merged(plans_of_nnunet("3d_fullres", [8, 8, 8], transpose_forward=forward), ours)
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["architecture"]["arch_kwargs"]["axes"] == axes
    assert configuration["patch_size"] == [(32, 48, 8)[axis] for axis in axes]


@pytest.mark.parametrize(("reader", "axes"), [("NaturalImage2DIO", [0, 1]), ("SimpleITKIO", [1, 0])])
def test_pictures_keep_their_axes_and_slices_of_volumes_turn(reader: str, axes: list[int], tmp_path: Path) -> None:
    planar = Architecture(isotropic_backbone(2, n_levels=2, base_width=2), PRESETS["no-skip"].genome(2))
    plans = merged(plans_of_nnunet("2d", [8, 8], image_reader_writer=reader), exported(planar, tmp_path / "net"))
    assert plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["axes"] == axes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", [pytest.param(n, marks=pytest.mark.slow if n else []) for n in range(5)])
def test_random_architectures_answer_alike(
    seed: int, dims: Literal[2, 3], kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, patch = sampled(seed, dims, kind)
    backbone = architecture.backbone
    ours = exported(architecture, tmp_path / "net", patch=patch)
    monkeypatch.syspath_prepend(tmp_path / "net")
    [name] = ours["configurations"]
    network = network_of(ours, name, backbone, deep_supervision=True)
    image = torch.randn(2, backbone.in_channels, *patch, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answers, expected = network.eval()(image), build(architecture).eval()(image)
    assert torch.equal(answers[0], expected)
    strides = ours["configurations"][name]["architecture"]["arch_kwargs"]["strides"]
    assert len(answers) == len(scales(strides))


def test_weights_leave_as_nnunet_reads_pretrained_ones(tmp_path: Path) -> None:
    architecture = Architecture(isotropic_backbone(2, n_levels=3, base_width=2), PRESETS["u-net"].genome(3))
    trained = build(architecture, seed=8).state_dict()
    save_file(trained, tmp_path / "w.safetensors")
    exported(architecture, tmp_path / "net", weights=tmp_path / "w.safetensors")
    found = torch.load(tmp_path / "net/weights.pth", weights_only=True)["network_weights"]
    assert all(torch.equal(found[name], value) for name, value in trained.items())
    assert {name for name in found if name not in trained} == {"side_heads.D1.weight", "side_heads.D1.bias"}


def test_other_channels_and_configurations_are_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = Architecture(isotropic_backbone(2, n_levels=2, base_width=3), PRESETS["u-net"].genome(2))
    ours = exported(architecture, tmp_path / "net")
    monkeypatch.syspath_prepend(tmp_path / "net")
    with pytest.raises(ValueError, match="reads 1 channels and tells 2 classes apart, the dataset has 4 and 2"):
        network_of(ours, "2d", replace(architecture.backbone, in_channels=4), deep_supervision=True)
    with pytest.raises(SystemExit, match="no configuration 2d"):
        merged(plans_of_nnunet("3d_fullres", [8, 8, 8]), ours)


def test_an_export_is_replaced_by_force_unless_it_holds_more_than_was_written(tmp_path: Path) -> None:
    planar = Architecture(isotropic_backbone(2, n_levels=2, base_width=2), PRESETS["u-net"].genome(2))
    other = replace(planar, genome=PRESETS["no-skip"].genome(2))
    first = exported(planar, tmp_path / "net")
    with pytest.raises(RequestError, match="replace it with --force"):
        exported(other, tmp_path / "net")
    (tmp_path / "net/mine.txt").write_text("years")
    with pytest.raises(RequestError, match=rf"also holds mine\.txt, {first['plans_name']}\.py; move that"):
        exported(other, tmp_path / "net", force=True)
    assert (tmp_path / "net/mine.txt").read_text() == "years"
    (tmp_path / "net/mine.txt").unlink()
    assert exported(planar, tmp_path / "net", force=True) == first
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_the_script_writes_new_plans_beside_those_of_nnunet(tmp_path: Path) -> None:
    planar = Architecture(isotropic_backbone(2, n_levels=2, base_width=2), PRESETS["u-net"].genome(2))
    ours = exported(planar, tmp_path / "net")
    before = json.dumps(plans_of_nnunet("2d", [9, 8]))
    (tmp_path / "nnUNetPlans.json").write_text(before)
    script = [sys.executable, str(tmp_path / "net/add_to_plans.py"), str(tmp_path / "nnUNetPlans.json")]
    subprocess.run(script, check=True, capture_output=True)
    assert (tmp_path / "nnUNetPlans.json").read_text() == before
    found = json.loads((tmp_path / f"{ours['plans_name']}.json").read_text())
    assert found == merged(json.loads(before), ours)
    assert found["configurations"]["2d"]["patch_size"] == [10, 8]
