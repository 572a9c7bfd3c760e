"""SkipUNet: names, sizes, initial values, gradients, wiring, and every way it travels."""

from __future__ import annotations

import copy
import hashlib
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetx_space.architecture import Architecture
from unetx_space.backbone import DOWNSAMPLINGS, Downsampling, isotropic_backbone
from unetx_space.errors import RequestError
from unetx_space.genome import NO_ATTENTION, Attention, DecoderNode, Genome, decoder, encoder
from unetx_space.network import SkipUNet, build, module_of
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS, Spec

in_2d_and_3d = pytest.mark.parametrize(("dims", "size"), [(2, (33, 47)), (3, (17, 33, 23))])


def rich(dims: Literal[2, 3], downsampling: Downsampling = "strided-conv") -> Architecture:
    """Five levels that use every operator of every family, sources from above and below included."""
    backbone = replace(isotropic_backbone(dims, n_levels=5, base_width=4), downsampling=downsampling)
    d, e, at = decoder, encoder, Attention.parse
    nodes = (
        DecoderNode(d(3), e(4), (e(3), e(0)), at("cbam@fused"), "deformable", "concat", "max"),
        DecoderNode(d(2), d(3), (e(2), e(4)), at("se@source"), "pixel-shuffle", "sum", "max"),
        DecoderNode(d(1), d(2), (e(0), e(1), e(3)), at("eca@block"), "linear", "concat", "average"),
        DecoderNode(d(0), d(1), (e(0), e(2)), at("scse@source"), "transposed", "concat", "max"),
    )
    return Architecture(backbone, Genome(nodes))


def image(architecture: Architecture, *size: int, batch: int = 1) -> Tensor:
    shape = (batch, architecture.backbone.in_channels, *size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def _squares(maps: list[Tensor]) -> Tensor:
    return torch.stack([y.square().sum() for y in maps]).sum()


def digest(network: nn.Module) -> str:
    content = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        content.update(name.encode())
        content.update(value.numpy().tobytes())
    return content.hexdigest()


@pytest.mark.parametrize("family", [ATTENTIONS, UPSAMPLERS, FUSIONS, ALIGNMENTS])
def test_every_operator_of_the_catalogue_has_a_module_and_is_found_under_its_name(family: Mapping[str, Spec]) -> None:
    for name, spec in family.items():
        assert spec.name == name
        assert issubclass(module_of(spec), nn.Module)


@pytest.mark.parametrize("downsampling", DOWNSAMPLINGS)
@pytest.mark.parametrize("size", [(64, 32), (65, 97), (17, 40, 23)])
def test_the_output_has_the_inputs_size(size: tuple[int, ...], downsampling: Downsampling) -> None:
    dims: Literal[2, 3] = 2 if len(size) == 2 else 3
    architecture = rich(dims, downsampling)
    with torch.no_grad():
        assert build(architecture)(image(architecture, *size, batch=2)).shape == (2, 2, *size)


def test_the_smallest_input_leaves_two_voxels_at_the_bottleneck() -> None:
    architecture = rich(2)
    assert build(architecture)(image(architecture, 3, 17)).shape == (1, 2, 3, 17)


def test_parameter_names_say_where() -> None:
    names = set(build(rich(2)).state_dict())
    assert {
        "encoder.E0.conv1.weight",
        "encoder.E4.norm2.bias",
        "decoder.D0.upsampler.transposed.weight",
        "decoder.D0.sources.E0.attention.channel.squeeze.weight",
        "decoder.D1.sources.E3.projection.weight",
        "decoder.D1.block_attention.conv.weight",
        "decoder.D3.fused_attention.spatial.bias",
        "decoder.D3.block.conv1.weight",
        "head.weight",
        "head.bias",
    } <= names
    assert not any(
        name.endswith(("conv1.bias", "conv2.bias", "projection.bias")) and "sources" in name for name in names
    )


def test_nested_nodes_are_named_with_an_underscore() -> None:
    nodes = (
        DecoderNode(decoder(1, 1), encoder(2), (encoder(1),)),
        DecoderNode(decoder(0, 1), encoder(1), (encoder(0),)),
        DecoderNode(decoder(0, 2), decoder(1, 1), (encoder(0), decoder(0, 1))),
    )
    network = build(Architecture(isotropic_backbone(2, n_levels=3, base_width=2), Genome(nodes)))
    assert list(network.decoder) == ["D1_1", "D0_1", "D0_2"]
    assert network(torch.zeros(1, 1, 9, 10)).shape == (1, 2, 9, 10)


def test_knobs_of_the_backbone_show_in_the_names() -> None:
    whole = rich(2)
    backbone = replace(
        whole.backbone,
        encoder_block="resnet-d",
        encoder_depth=(1, 2, 2, 2, 2),
        decoder_depth=1,
        conv_bias=True,
        source_width=3,
        normalise_upsampled=True,
        deep_supervision=True,
    )
    names = set(build(replace(whole, backbone=backbone)).state_dict())
    assert {
        "stem.conv1.weight",
        "encoder.E0.block1.conv1.bias",
        "encoder.E1.block1.shortcut.conv.weight",
        "encoder.E4.block2.norm2.weight",
        "decoder.D0.block.conv1.bias",
        "decoder.D0.upsampler.transposed.bias",
        "decoder.D0.upsampled.norm.weight",
        "decoder.D0.sources.E2.projection.conv1.weight",
        "decoder.D0.sources.E2.projection.norm1.bias",
        "side_heads.D3.weight",
    } <= names
    assert not names & {"encoder.E0.block2.conv1.weight", "decoder.D0.block.conv2.weight", "side_heads.D0.weight"}


def test_deep_supervision_gives_the_logits_of_every_level_the_output_first() -> None:
    whole = rich(2)
    supervised = build(replace(whole, backbone=replace(whole.backbone, deep_supervision=True)))
    x = image(whole, 33, 47)
    everything = supervised.forward_all(x)
    assert [tuple(y.shape[2:]) for y in everything] == [(33, 47), (17, 24), (9, 12), (5, 6)]
    assert torch.equal(everything[0], supervised(x))
    plain = build(whole)  # the heads of other levels change nothing else
    assert torch.equal(plain(x), everything[0])
    assert len(plain.forward_all(x)) == 1
    _squares(everything).backward()  # type: ignore[no-untyped-call]
    assert all(head.weight.grad is not None for head in supervised.side_heads.values())


def test_an_architecture_with_faults_is_refused_with_all_of_them() -> None:
    good = rich(2)
    nodes = tuple(replace(node, upsampler="trasposed", fusion="conat") for node in good.genome.nodes[:1])
    with pytest.raises(RequestError, match=r"(?s)nodes\[0\].upsampler.*'transposed'.*nodes\[0\].fusion.*'concat'"):
        build(replace(good, genome=Genome(nodes + good.genome.nodes[1:])))


# Initial values


def test_initial_values_depend_on_the_seed_alone_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = build(rich(2), seed=3), build(rich(2), seed=3), build(rich(2), seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert digest(first) == digest(second)
    assert digest(first) != digest(other)


def test_initial_values_are_the_same_in_another_process() -> None:
    program = "from test_network import build, digest, rich; print(digest(build(rich(3), seed=7)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest(build(rich(3), seed=7))


def test_designs_that_share_a_part_share_its_names_and_initial_values() -> None:
    whole = rich(2)
    finest = replace(whole.genome[decoder(0)], sources=(), attention=NO_ATTENTION)
    genome = Genome(tuple(finest if node.ref == decoder(0) else node for node in whole.genome.nodes))
    ours, theirs = build(whole).state_dict(), build(replace(whole, genome=genome)).state_dict()
    shared = {name for name in ours.keys() & theirs.keys() if ours[name].shape == theirs[name].shape}
    assert {name for name in theirs if name not in shared} == {"decoder.D0.block.conv1.weight"}  # it reads fewer maps
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)


def test_weights_have_the_variance_of_kaiming() -> None:
    network = Architecture(
        isotropic_backbone(2, n_levels=2, base_width=64), Genome((DecoderNode(decoder(0), encoder(1)),))
    )
    weights = build(network).state_dict()
    for name, fan_in in [
        ("encoder.E1.conv2.weight", 9 * 128),
        ("decoder.D0.upsampler.transposed.weight", 128),  # each fine voxel reads one coarse one
    ]:
        assert weights[name].std().item() == pytest.approx((2 / 1.0001 / fan_in) ** 0.5, rel=0.02)
    assert (weights["encoder.E1.norm1.weight"] == 1).all()


def test_statistics_of_batch_normalisation_start_fresh() -> None:
    whole = rich(2)
    network = build(replace(whole, backbone=replace(whole.backbone, norm="batch")))
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "num_batches_tracked")):
            assert value.abs().max() == 0
        if name.endswith("running_var"):
            assert (value == 1).all()


# What it computes


def block(weights: dict[str, Tensor], path: str, x: Tensor, stride: int = 1) -> Tensor:
    for i, step in ((1, stride), (2, 1)):
        x = F.conv2d(x, weights[f"{path}.conv{i}.weight"], stride=step, padding=1)
        x = F.leaky_relu(F.instance_norm(x), 0.01)  # scale 1 and shift 0 at the start
    return x


def test_the_wiring_equals_the_same_design_written_out_by_hand() -> None:
    nodes = (
        DecoderNode(decoder(1), encoder(2), (encoder(1), encoder(0)), Attention("eca", "block"), "linear"),
        DecoderNode(decoder(0), decoder(1), (encoder(0), encoder(2)), NO_ATTENTION, "transposed", "sum"),
    )
    network = build(Architecture(isotropic_backbone(2, n_levels=3, base_width=3), Genome(nodes)))
    w, x = dict(network.state_dict()), torch.randn(2, 1, 9, 14)
    e0 = block(w, "encoder.E0", x)
    e1 = block(w, "encoder.E1", e0, 2)  # 5 x 7
    e2 = block(w, "encoder.E2", e1, 2)  # 3 x 4
    pooled = F.conv2d(F.max_pool2d(e0, 2, ceil_mode=True), w["decoder.D1.sources.E0.projection.weight"])
    up = F.conv2d(e2, w["decoder.D1.upsampler.projection.weight"])
    up = F.interpolate(up, scale_factor=2, mode="bilinear")[:, :, :5, :7]
    d1 = block(w, "decoder.D1.block", torch.cat([pooled, e1, up], 1))  # ECA starts as the identity
    small = F.conv2d(e2, w["decoder.D0.sources.E2.projection.weight"])
    up = F.conv_transpose2d(d1, w["decoder.D0.upsampler.transposed.weight"], stride=2)[:, :, :9, :14]
    d0 = block(w, "decoder.D0.block", e0 + F.interpolate(small, size=(9, 14), mode="bilinear") + up)
    torch.testing.assert_close(network(x), F.conv2d(d0, w["head.weight"], w["head.bias"]))


@pytest.mark.parametrize("placement", ["source", "fused", "block"])
def test_a_closed_gate_silences_exactly_its_placement(placement: str) -> None:
    node = DecoderNode(decoder(0), encoder(1), (encoder(0),), Attention.parse(f"se@{placement}"))
    network = build(Architecture(isotropic_backbone(2, n_levels=2, base_width=4), Genome((node,))))
    seen: dict[str, Tensor] = {}
    decoder_node = network.decoder["D0"]
    for name in ("fusion", "fused_attention", "block_attention"):
        part = decoder_node.get_submodule(name)
        part.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output}))
    for name, parameter in network.named_parameters():
        if name.endswith("excite.bias"):
            parameter.data.fill_(-1e4)
        if name.endswith("D0.block.norm2.bias"):
            parameter.data.fill_(1)  # otherwise the block would make nothing of nothing
    network(torch.randn(1, 1, 8, 8))
    silent = {
        "source": seen["fusion"][:, :4].abs().max() == 0,
        "fused": seen["fused_attention"].abs().max() == 0,
        "block": seen["block_attention"].abs().max() == 0,
    }
    assert [place for place, is_silent in silent.items() if is_silent] == [placement]
    assert seen["fusion"][:, 4:].abs().max() > 0  # the upsampled map comes last and is no source


# How it travels


def test_a_network_can_be_copied_pickled_and_restored_from_its_state() -> None:
    architecture = rich(2)
    network, x = build(architecture, seed=1), image(architecture, 33, 47)
    expected = network(x)
    restored = build(architecture, seed=2)
    restored.load_state_dict(network.state_dict())
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), restored):
        assert isinstance(twin, SkipUNet)
        assert twin.architecture == architecture
        assert torch.equal(twin(x), expected)


@pytest.mark.parametrize(("dims", "size"), [(2, (33, 47)), (3, (33, 34, 35))])
def test_it_runs_in_bfloat16_autocast_and_learns(dims: Literal[2, 3], size: tuple[int, ...]) -> None:
    """In 3D with 3 voxels at the bottleneck: for 2, a lone bfloat16 nn.Conv3d of torch 2.13 on a CPU has values from
    elsewhere in memory in its weight gradient at times."""
    architecture = rich(dims)
    network, x = build(architecture), image(architecture, *size)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x)
    exact = network(x)
    assert (y.float() - exact).abs().mean() < 0.1 * exact.std()
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@in_2d_and_3d
def test_channels_last_gives_the_same_output(dims: Literal[2, 3], size: tuple[int, ...]) -> None:
    architecture, layout = rich(dims), {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    network, x = build(architecture), image(architecture, *size)
    expected = network(x)
    got = network.to(memory_format=layout)(x.to(memory_format=layout))  # type: ignore[call-overload]
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("dims", "size"), [(2, (33, 47)), pytest.param(3, (17, 33, 23), marks=pytest.mark.slow)])
def test_torch_export_gives_the_same_output(dims: Literal[2, 3], size: tuple[int, ...]) -> None:
    architecture = rich(dims)
    network, x = build(architecture).eval(), image(architecture, *size)
    program = torch.export.export(network, (x,))
    torch.testing.assert_close(program.module()(x), network(x))


@pytest.mark.slow
@in_2d_and_3d
def test_onnx_runtime_gives_the_same_output(dims: Literal[2, 3], size: tuple[int, ...], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    architecture = rich(dims)
    network, x = build(architecture).eval(), image(architecture, *size)
    program = torch.onnx.export(network, (x,), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    program.save(tmp_path / "network.onnx")
    session = runtime.InferenceSession(tmp_path / "network.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(got, network(x).detach().numpy(), rtol=1e-3, atol=1e-4)
