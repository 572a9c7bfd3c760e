"""What leaves in another format answers as the network itself does, or does not leave."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import networkx as nx
import pytest
import torch
from safetensors.torch import save_file
from sampled_architectures import KINDS, sampled
from torch import Tensor

from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.documents import loads
from unetx_space.errors import RequestError, UnetxError
from unetx_space.genome import Attention, DecoderNode, Genome, decoder, encoder, plain_coarser
from unetx_space.network import build
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS
from unetx_space.presets import PRESETS, unet
from unetx_studies.drawing import to_svg
from unetx_studies.export import FORMATS, Exported, export, traced
from unetx_studies.export import formats as formats_module
from unetx_studies.export.model import Model
from unetx_studies.weights import load_weights

PATCHES: dict[int, tuple[int, ...]] = {2: (37, 34), 3: (19, 20, 17)}
SMALL = Architecture(
    isotropic_backbone(2, n_levels=2, base_width=4),
    unet(2),
    provenance={"study": "s", "trial": 3, "task": {"patch": [16, 13]}},
)


Genes = tuple[str, Attention, str, str]
"""Upsampler, attention, fusion, alignment."""

COMMON: tuple[Genes, ...] = (
    ("linear", Attention("se", "source"), "sum", "max"),
    ("transposed", Attention("cbam", "block"), "concat", "average"),
    ("pixel-shuffle", Attention("scse", "fused"), "concat", "max"),
)
GATED: tuple[Genes, ...] = (
    ("nearest", Attention("attention-gate", "source"), "mean", "strided-conv"),
    ("nearest-conv", Attention("attention-gate-grid", "source"), "bifpn", "space-to-depth"),
    ("linear-conv", Attention("cca", "source"), "gated", "max"),
    ("transposed-k4", Attention("coordinate", "fused"), "sum", "max"),
)
COMPOSED: tuple[Genes, ...] = (
    ("transposed-se", Attention("simam", "fused"), "concat", "strided-conv"),
    ("pixel-shuffle-eca", Attention("scse-add", "block"), "gated", "average"),
    ("carafe", Attention(), "concat", "max"),
    ("dysample", Attention("eca", "source"), "mean", "max"),
)


def varied(dims: Literal[2, 3], genes: tuple[Genes, ...] = COMMON) -> Architecture:
    """A node for each of the genes, deepest first, each reading every encoder stage that it may."""
    n_levels = len(genes) + 1
    nodes = []
    for level, (upsampler, attention, fusion, alignment) in zip(reversed(range(len(genes))), genes, strict=True):
        coarser = plain_coarser(level, n_levels)
        sources = tuple(stage for stage in map(encoder, range(n_levels)) if stage != coarser)
        nodes.append(DecoderNode(decoder(level), coarser, sources, attention, upsampler, fusion, alignment))
    backbone = isotropic_backbone(dims, n_levels=n_levels, base_width=4, in_channels=2, out_channels=3)
    return Architecture(backbone, Genome(tuple(nodes)))


def deformable(dims: Literal[2, 3]) -> Architecture:
    node = DecoderNode(decoder(0), encoder(1), (encoder(0),), Attention("eca", "source"), "deformable")
    return Architecture(isotropic_backbone(dims, n_levels=2, base_width=4), Genome((node,)))


def save_trained(architecture: Architecture, path: Path) -> None:
    """Weights far from the initial ones, so that offsets and gates do something."""
    generator = torch.Generator().manual_seed(1)
    state = build(architecture, seed=1).state_dict()
    save_file(
        {name: value + 0.2 * torch.randn(value.shape, generator=generator) for name, value in state.items()}, path
    )


TRACED = ("onnx", "pt2")


def answer(name: str, path: Path, image: Tensor, architecture: Architecture, weights: Path | None = None) -> Tensor:
    """What an export says to an image."""
    run = FORMATS[name].run
    assert run is not None
    return run(path, image, Model(architecture, 0, weights, None, lambda words: None))


def assert_alike(found: Tensor, expected: Tensor) -> None:
    """No logit differs by more than 1e-5 of the largest, or of 1 where all are smaller."""
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def check(name: str, architecture: Architecture, folder: Path) -> None:
    """The file agrees with torch within 1e-5 for batches of one and of three, with weights that were loaded."""
    target, weights = folder / f"net{FORMATS[name].suffix}", folder / "weights.safetensors"
    save_trained(architecture, weights)
    patch = PATCHES[architecture.backbone.dims]
    exported = export(architecture, target, weights=weights, patch=patch)
    assert (exported.path, exported.format) == (target, name)
    network = build(architecture)
    load_weights(network, weights)
    generator = torch.Generator().manual_seed(2)
    for batch in (1, 3):
        image = torch.randn(batch, architecture.backbone.in_channels, *patch, generator=generator)
        with torch.no_grad():
            expected = network.eval()(image)
        assert torch.isfinite(expected).all()
        assert expected.std() > 0.01
        assert_alike(answer(name, target, image, architecture, weights), expected)
    scripts = [exported.runner.name] if exported.runner else []
    assert sorted(path.name for path in folder.iterdir()) == sorted([target.name, weights.name, *scripts])


PLANAR = {"common": varied(2), "gated": varied(2, GATED), "composed": varied(2, COMPOSED), "deformable": deformable(2)}


def test_every_operator_of_the_catalogue_is_covered_here() -> None:
    nodes = [node for architecture in PLANAR.values() for node in architecture.genome.nodes]
    assert {node.upsampler for node in nodes} == set(UPSAMPLERS)
    assert {node.attention.type for node in nodes} == set(ATTENTIONS)
    assert {node.fusion for node in nodes} == set(FUSIONS)
    assert {node.alignment for node in nodes} == set(ALIGNMENTS)


@pytest.mark.parametrize("name", TRACED)
@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(architecture, id=genes, marks=[] if genes == "common" else pytest.mark.slow)
        for genes, architecture in PLANAR.items()
    ],
)
def test_a_2d_network_answers_alike_in_every_format(name: str, architecture: Architecture, tmp_path: Path) -> None:
    check(name, architecture, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
@pytest.mark.parametrize(
    "architecture", [varied(3), varied(3, GATED), varied(3, COMPOSED), deformable(3)], ids=list(PLANAR)
)
def test_a_3d_network_answers_alike_in_every_format(name: str, architecture: Architecture, tmp_path: Path) -> None:
    check(name, architecture, tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """SMALL in every traced format."""
    folder = tmp_path_factory.mktemp("small")
    return {name: export(SMALL, folder / f"{name}.bin", format=name, seed=7) for name in TRACED}


@pytest.mark.parametrize("name", TRACED)
def test_the_file_carries_its_architecture_and_the_patch_it_was_searched_with(
    name: str, small: dict[str, Exported]
) -> None:
    exported = small[name]
    assert exported.patch == (16, 13)
    if name == "onnx":
        import onnx

        notes = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    else:
        notes = {"unetx.architecture": "", "unetx.patch": ""}
        with exported.path.open("rb") as file:
            torch.export.load(file, extra_files=notes)
    assert notes["unetx.patch"] == "16x13"
    again = loads(notes["unetx.architecture"])
    assert again == SMALL
    assert again.provenance == SMALL.provenance


@pytest.mark.parametrize("name", TRACED)
def test_sizes_stay_open_along_axes_where_the_patch_is_a_multiple_of_the_stride(
    name: str, small: dict[str, Exported]
) -> None:
    """The weights are the initial ones of the seed, as there are no others."""
    assert small[name].multiples == (2, None)
    network = build(SMALL, seed=7).eval()
    for height in (4, 16, 48):
        image = torch.randn(2, 1, height, 13, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            torch.testing.assert_close(answer(name, small[name].path, image, SMALL), network(image))
            assert not torch.allclose(network(image), build(SMALL).eval()(image))


def test_an_exported_onnx_file_passes_the_checker_of_onnx_itself(small: dict[str, Exported]) -> None:
    import onnx

    model = onnx.load(small["onnx"].path)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["logits"]
    batch, channels, height, width = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param == "batch"
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert (channels.dim_value, height.dim_param, width.dim_value) == (1, "2*height", 13)


def test_each_step_is_told_as_it_begins(tmp_path: Path) -> None:
    told: list[str] = []
    export(SMALL, tmp_path / "net.pt2", tell=told.append)
    assert [words.partition(" ")[0] for words in told] == ["building", "tracing", "writing", "running"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "pt2", "nnunet"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(25))
def test_random_architectures_answer_alike_in_every_format(
    seed: int, dims: Literal[2, 3], name: str, tmp_path: Path
) -> None:
    """Sizes that are no multiples of the strides included; ``test_torch_file`` has the fourth format."""
    architecture, patch = sampled(seed, dims, KINDS[seed % len(KINDS)])
    exported = export(architecture, tmp_path / "net", format=name, patch=patch)
    assert exported.max_difference is not None
    assert exported.max_difference <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "pt2", "monai-bundle", "nnunet"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_answer_alike_in_every_format(preset: str, dims: Literal[2, 3], name: str, tmp_path: Path) -> None:
    architecture = Architecture(isotropic_backbone(dims, n_levels=3, base_width=4), PRESETS[preset].genome(3))
    exported = export(architecture, tmp_path / "net", format=name, patch=(16, 13, 12)[:dims])
    assert exported.max_difference is not None
    assert exported.max_difference <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("architecture", PLANAR.values(), ids=PLANAR)
def test_an_onnx_file_answers_alike_for_every_size_that_it_takes(architecture: Architecture, tmp_path: Path) -> None:
    patch = tuple(2 * n for n in architecture.backbone.factor(0, architecture.backbone.n_levels - 1))
    exported = export(architecture, tmp_path / "net.onnx", patch=patch)
    network = build(architecture).eval()
    generator = torch.Generator().manual_seed(2)
    for factor in (2, 3):
        size = [n * factor // 2 for n in patch]
        image = torch.randn(1, architecture.backbone.in_channels, *size, generator=generator)
        with torch.no_grad():
            assert_alike(answer("onnx", exported.path, image, architecture), network(image))


@pytest.mark.parametrize("name", [name for name, known in FORMATS.items() if not known.run])
def test_what_holds_no_network_needs_no_patch_and_is_for_other_programs(name: str, tmp_path: Path) -> None:
    exported = export(replace(SMALL, provenance={}), tmp_path / f"net{FORMATS[name].suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"net.{name}"]
    assert (exported.patch, exported.max_difference) == (None, None)
    text = exported.path.read_text(encoding="utf-8")
    match name:
        case "json":
            assert loads(text) == SMALL
        case "svg":
            assert text == to_svg(replace(SMALL, provenance={}))
        case "dot":
            arrows = set(re.findall(r'"(\w+)" -> "(\w+)"', text))
            assert arrows == {("E0", "E1"), ("E1", "D0"), ("E0", "D0")}
        case "graphml":
            graph = nx.read_graphml(exported.path)
            assert set(graph.edges) == {("E0", "E1"), ("E1", "D0"), ("E0", "D0")}
            assert graph.nodes["D0"]["level"] == 0


@pytest.mark.parametrize("name", ["torch", "svg"])
def test_what_is_there_already_stays_unless_it_may_be_replaced(name: str, tmp_path: Path) -> None:
    target = tmp_path / f"net{FORMATS[name].suffix}"
    target.write_text("older")
    with pytest.raises(RequestError, match=r"is there already; replace it with --force"):
        export(SMALL, target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.read_text() == "older"
    export(SMALL, target, force=True)
    assert target.read_bytes() != b"older"


def test_neither_a_folder_nor_a_link_is_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "link.svg").symlink_to("elsewhere")
    for name, kind in (("folder", "a folder"), ("link", "a link")):
        with pytest.raises(RequestError, match=f"is {kind}, which is not replaced"):
            export(SMALL, tmp_path / f"{name}.svg", force=True)


def test_a_script_of_the_users_own_is_not_replaced_by_the_runner(tmp_path: Path) -> None:
    (tmp_path / "net_run.py").write_text("mine")
    with pytest.raises(RequestError, match=r"net_run\.py is there already"):
        export(SMALL, tmp_path / "net.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["net_run.py"]


def broken(change: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "decoder.D0.block.conv1.weight"
    assert name in state
    changes = {
        "missing": {k: v for k, v in state.items() if k != name},
        "shape": state | {name: torch.zeros(2, 2)},
        "dtype": state | {name: state[name].long()},
        "extra": state | {"decoder.D0.block.conv9.weight": torch.zeros(1)},
    }
    return changes[change]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("missing", r"decoder\.D0\.block\.conv1\.weight is missing"),
        ("shape", r"decoder\.D0\.block\.conv1\.weight has shape \[2, 2\], expected \[4, 8, 3, 3\]"),
        ("dtype", r"decoder\.D0\.block\.conv1\.weight holds torch\.int64"),
        ("extra", r"unknown parameter 'decoder\.D0\.block\.conv9\.weight'; did you mean 'decoder\.D0\.block\.conv"),
    ],
)
def test_weights_that_do_not_fit_are_refused_naming_the_first_parameter(
    tmp_path: Path, change: str, problem: str
) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(broken(change, dict(build(SMALL).state_dict())), weights)
    with pytest.raises(RequestError, match=rf"w\.safetensors does not fit.*{problem}"):
        export(SMALL, tmp_path / "net.pt2", weights=weights)
    assert list(tmp_path.iterdir()) == [weights]


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"not weights at all")
    for name, problem in (("w.safetensors", "no safetensors file"), ("nowhere", "cannot be read")):
        with pytest.raises(RequestError, match=problem):
            export(SMALL, tmp_path / "net.pt2", weights=tmp_path / name)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"format": "onxx"}, "did you mean 'onnx'"),
        ({"target": "net.pb"}, r"ends in none of \.py, \.onnx, \.pt2"),
        ({"target": "folder/net.pt2"}, "no folder"),
        ({"patch": (16, 16, 16)}, "one per axis"),
        ({"patch": (0, 16)}, "at least one voxel"),
        ({"patch": (2, 2)}, "bottleneck"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, object], problem: str
) -> None:
    target = tmp_path / str(options.pop("target", "net.pt2"))
    with pytest.raises(RequestError, match=problem):
        export(SMALL, target, **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_without_a_patch_anywhere_the_way_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--patch"):
        export(replace(SMALL, provenance={}), tmp_path / "net.pt2")


def test_without_the_extra_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RequestError, match=r'onnxruntime.*pip install "unetx-search\[export\]"'):
        export(SMALL, tmp_path / "net.onnx")
    export(SMALL, tmp_path / "net.pt2")  # needs nothing beyond torch


def test_a_file_whose_answer_differs_is_not_kept_and_an_older_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "net.pt2"
    target.write_text("older")
    right = FORMATS["pt2"]
    assert right.run is not None
    run = right.run
    wrong = replace(right, run=lambda path, image, model: run(path, image, model) + 1e-2)
    monkeypatch.setitem(formats_module.FORMATS, "pt2", wrong)
    with pytest.raises(UnetxError, match=r"logits differ from torch's by 0\.0\d+, more than 1e-05"):
        export(SMALL, target, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]
    assert target.read_text() == "older"


def test_weights_beyond_the_limit_of_onnx_are_refused_with_the_other_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traced, "MAX_ONNX_BYTES", 100)
    with pytest.raises(RequestError, match="use pt2"):
        export(SMALL, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
