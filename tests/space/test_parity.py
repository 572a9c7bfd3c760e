"""References equal what they reproduce: outputs with MONAI's weights, parameters and multiply-adds to the last one.

Counts are those of the reference implementations, instantiated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.dynunet import DynUNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unetx_space import PRESETS, Architecture, Backbone, build, cost, faults
from unetx_space.network import SkipUNet
from unetx_space.references import (
    LEFT_OUT,
    REFERENCES,
    VGG_WIDTHS,
    attention_unet_2018,
    basic_unet,
    basic_unet_plus_plus,
    dynunet,
    dynunet_residual,
    nnunet,
    nnunet_resenc,
    unet_3_plus_2020,
    unet_2015,
)

Dims = Literal[2, 3]


# Giving one network the weights of the other


def drawn_anew(network: nn.Module) -> nn.Module:
    """In float64 with every parameter random, so that no start value hides a term."""
    generator = torch.Generator().manual_seed(4)
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = max(1, parameter[0].numel())
            value = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(value if parameter.ndim == 1 else value * (2 / fan_in) ** 0.5)
    return network


def give(ours: nn.Module, theirs: Iterable[nn.Module], order: Sequence[int] | None = None) -> None:
    """Copy their parameters, in order of execution; ``order`` says which input channel of theirs each of ours is."""
    values = [value for module in theirs for value in module.parameters()]
    parameters = list(ours.parameters())
    assert [parameter.shape for parameter in parameters] == [value.shape for value in values]
    with torch.no_grad():
        for i, (parameter, value) in enumerate(zip(parameters, values, strict=True)):
            parameter.copy_(value[:, order] if i == 0 and order is not None else value)


def concat_order(ours: Sequence[str], theirs: Sequence[str], width: dict[str, int]) -> list[int]:
    """For every channel of our concatenation of named maps, its place in theirs."""
    start, total = {}, 0
    for name in theirs:
        start[name], total = total, total + width[name]
    return [start[name] + i for name in ours for i in range(width[name])]


def conv_macs(network: nn.Module, x: Tensor, run: Callable[[Tensor], Any] | None = None) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        (run or network)(x)
    total: int = counter.get_total_flops()
    assert total % 2 == 0
    return total // 2


def n_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def image(size: tuple[int, ...], channels: int = 2) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def twin(architecture: Architecture) -> SkipUNet:
    assert not faults(architecture)
    return build(architecture).double()


# MONAI, outputs and all


def give_basic_encoder(ours: SkipUNet, theirs: Sequence[nn.Module]) -> None:
    for level, stage in enumerate(theirs):
        give(ours.encoder[f"E{level}"], [stage])


@pytest.mark.parametrize(
    ("size", "widths"),
    [((33, 47), (3, 3, 6, 12, 24)), ((60, 44), (2, 4, 8, 16, 32)), ((33, 18, 35), (2, 4, 8, 16, 32))],
)
def test_basic_unet_equals_monais(size: tuple[int, ...], widths: tuple[int, ...]) -> None:
    dims: Dims = 2 if len(size) == 2 else 3
    theirs = drawn_anew(BasicUNet(dims, 2, 3, (*widths, widths[1])))
    decoder_widths = (widths[1], *widths[1:4])
    ours = twin(basic_unet(dims, in_channels=2, out_channels=3, widths=widths, decoder_widths=decoder_widths))
    give_basic_encoder(ours, [theirs.get_submodule(n) for n in ("conv_0", "down_1", "down_2", "down_3", "down_4")])
    for level in range(4):
        node, reference = ours.decoder[f"D{level}"], theirs.get_submodule(f"upcat_{level + 1}")
        give(node.get_submodule("upsampler"), [reference.get_submodule("upsample")])
        give(node.get_submodule("block"), [reference.get_submodule("convs")])
    give(ours.head, [theirs.get_submodule("final_conv")])
    x = image(size)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-9)
    assert n_parameters(ours) == n_parameters(theirs) == cost(ours.architecture, size).n_parameters
    assert conv_macs(theirs, x[:1]) == conv_macs(ours, x[:1]) == cost(ours.architecture, size).conv_macs


@pytest.mark.parametrize("size", [(33, 47), (33, 18, 20)])
def test_basic_unet_plus_plus_equals_monais(size: tuple[int, ...]) -> None:
    dims: Dims = 2 if len(size) == 2 else 3
    widths = (3, 3, 6, 12, 24)
    theirs = drawn_anew(BasicUNetPlusPlus(dims, 2, 3, (*widths, 3), deep_supervision=True))
    ours = twin(basic_unet_plus_plus(dims, in_channels=2, out_channels=3, widths=widths))
    give_basic_encoder(ours, [theirs.get_submodule(f"conv_{level}_0") for level in range(5)])
    for level in range(4):
        for column in range(1, 5 - level):
            node, reference = ours.decoder[f"D{level}_{column}"], theirs.get_submodule(f"upcat_{level}_{column}")
            give(node.get_submodule("upsampler"), [reference.get_submodule("upsample")])
            earlier = [f"D{level}.{k}" for k in range(1, column)]
            names = [f"E{level}", *earlier, "up"]
            order = concat_order([*earlier, f"E{level}", "up"], names, dict.fromkeys(names, widths[level]))
            give(node.get_submodule("block"), [reference.get_submodule("convs")], order)
    for column in range(1, 5):
        head = ours.head if column == 4 else ours.side_heads[f"D0_{column}"]
        give(head, [theirs.get_submodule(f"final_conv_0_{column}")])
    x = image(size)
    expected = theirs(x)  # X^{0,1} to X^{0,4}
    torch.testing.assert_close(ours.forward_all(x), expected[::-1], rtol=0, atol=1e-9)
    torch.testing.assert_close(ours(x), expected[-1], rtol=0, atol=1e-9)
    assert n_parameters(ours) == n_parameters(theirs) == cost(ours.architecture, size).n_parameters
    assert conv_macs(theirs, x[:1]) == conv_macs(ours, x[:1], ours.forward_all)
    assert conv_macs(ours, x[:1]) == cost(ours.architecture, size).conv_macs


def give_dynunet(ours: SkipUNet, theirs: nn.Module, widths: Sequence[int]) -> None:
    def parts(block: nn.Module) -> list[nn.Module]:
        names = ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3")
        return [block.get_submodule(name) for name in names if hasattr(block, name)]

    downs, ups = theirs.get_submodule("downsamples"), theirs.get_submodule("upsamples")
    stages = [theirs.get_submodule("input_block"), *downs.children(), theirs.get_submodule("bottleneck")]
    for level, stage in enumerate(stages):
        give(ours.encoder[f"E{level}"], parts(stage))
    for level, reference in enumerate(reversed(list(ups.children()))):
        node = ours.decoder[f"D{level}"]
        give(node.get_submodule("upsampler"), [reference.get_submodule("transp_conv")])
        order = concat_order(["skip", "up"], ["up", "skip"], {"skip": widths[level], "up": widths[level]})
        give(node.get_submodule("block"), parts(reference.get_submodule("conv_block")), order)
    give(ours.head, [theirs.get_submodule("output_block")])


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("size", "strides"),
    [
        ((32, 48), [(1, 1), (2, 2), (2, 2), (2, 2)]),
        ((12, 16, 24), [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 1)]),
    ],
)
def test_dynunet_equals_monais(size: tuple[int, ...], strides: list[tuple[int, ...]], residual: bool) -> None:
    dims: Dims = 2 if len(size) == 2 else 3
    kernels, widths = [(3,) * dims] * 4, (4, 8, 16, 20)
    theirs = drawn_anew(DynUNet(dims, 2, 3, kernels, strides, strides[1:], filters=widths, res_block=residual))
    backbone = Backbone(dims, 2, 3, widths, tuple(strides))
    if residual:
        backbone = Backbone(dims, 2, 3, widths, tuple(strides), encoder_block="residual", encoder_depth=1)
    ours = twin(Architecture(backbone, PRESETS["nnu-net"].genome(4)))
    give_dynunet(ours, theirs, widths)
    x = image(size)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-9)
    assert n_parameters(ours) == n_parameters(theirs) == cost(ours.architecture, size).n_parameters
    assert conv_macs(theirs, x[:1]) == conv_macs(ours, x[:1]) == cost(ours.architecture, size).conv_macs


# Counts of the references, instantiated


@pytest.mark.parametrize(
    ("architecture", "n_parameters"),
    [
        (basic_unet(2), 1_978_466),
        (basic_unet(3), 5_749_410),
        (basic_unet(widths=VGG_WIDTHS, decoder_widths=(128, 128, 256, 512)), 31_333_826),
        (basic_unet_plus_plus(2), 2_410_312),
        (basic_unet_plus_plus(3), 6_979_976),
        (dynunet(3), 31_189_410),
        (dynunet(2), 20_611_170),
        (dynunet_residual(3), 31_419_010),
        (nnunet(3), 31_195_594),
        (nnunet(2, n_levels=8), 46_324_558),
        (nnunet_resenc(3), 102_349_770),
        (unet_2015(), 34_527_041),
        (attention_unet_2018(), 34_878_573),
        (unet_3_plus_2020(), 26_971_777),
    ],
)
def test_parameters_are_those_of_the_reference(architecture: Architecture, n_parameters: int) -> None:
    assert not faults(architecture)
    assert cost(architecture, (256,) * architecture.backbone.dims).n_parameters == n_parameters


@pytest.mark.parametrize(
    ("architecture", "size", "macs"),
    [
        (basic_unet(2), (64, 64), 309_198_848),
        (basic_unet(3), (32, 32, 32), 4_672_192_512),
        (dynunet(2), (64, 64), 888_537_088),
        (nnunet(3), (64, 64, 64), 59_653_947_392),
        (unet_2015(), (64, 64), 4_084_203_520),
        (attention_unet_2018(), (64, 64), 4_151_558_144),
        (unet_3_plus_2020(), (64, 64), 12_353_273_856),
        # MONAI runs all four heads of UNet++ in every forward pass; ours runs the last, of 32 channels to 2 classes.
        (basic_unet_plus_plus(2), (64, 64), 1_017_774_080 - 3 * 64 * 64 * 32 * 2),
        (basic_unet_plus_plus(3), (32, 32, 32), 19_635_372_032 - 3 * 32**3 * 32 * 2),
    ],
)
def test_multiply_adds_are_those_of_the_reference(architecture: Architecture, size: tuple[int, ...], macs: int) -> None:
    assert cost(architecture, size).conv_macs == macs


# UNet 3+ and U_Net written out by hand, which no installed package has


def stage(w: dict[str, Tensor], path: str, x: Tensor, n_convs: int) -> Tensor:
    """3 x 3 convolution with bias, batch normalisation with fresh statistics in evaluation, ReLU."""
    for i in range(1, n_convs + 1):
        x = F.conv2d(x, w[f"{path}.conv{i}.weight"], w[f"{path}.conv{i}.bias"], padding=1)
        x = F.relu(_fresh_norm(x, w, f"{path}.norm{i}"))
    return x


def _fresh_norm(x: Tensor, w: dict[str, Tensor], path: str) -> Tensor:
    scale, shift = (w[f"{path}.{name}"].reshape(1, -1, 1, 1) for name in ("weight", "bias"))
    y: Tensor = x / (1 + 1e-5) ** 0.5 * scale + shift
    return y


def upsampled(w: dict[str, Tensor], path: str, x: Tensor, mode: str) -> Tensor:
    x = F.interpolate(x, scale_factor=2, mode=mode)
    x = F.conv2d(x, w[f"{path}.upsampler.conv.weight"], w[f"{path}.upsampler.conv.bias"], padding=1)
    return F.relu(_fresh_norm(x, w, f"{path}.upsampled.norm"))


def random_twin(architecture: Architecture) -> tuple[SkipUNet, dict[str, Tensor]]:
    network = twin(architecture).eval()
    drawn_anew(network)
    return network, dict(network.state_dict())


def test_unet_3_plus_equals_its_figure() -> None:
    """Figure 2 of the paper for three levels: pooled, equal and interpolated sources, each through a convolution."""
    network, w = random_twin(unet_3_plus_2020(widths=(2, 3, 4)))
    x = image((12, 8), channels=3)
    e0 = stage(w, "encoder.E0", x, 2)
    e1 = stage(w, "encoder.E1", F.max_pool2d(e0, 2), 2)
    e2 = stage(w, "encoder.E2", F.max_pool2d(e1, 2), 2)
    parts = [stage(w, "decoder.D1.sources.E0.projection", F.max_pool2d(e0, 2), 1)]
    parts += [stage(w, "decoder.D1.sources.E1.projection", e1, 1), upsampled(w, "decoder.D1", e2, "bilinear")]
    d1 = stage(w, "decoder.D1.block", torch.cat(parts, 1), 1)
    big = F.interpolate(e2, scale_factor=4, mode="bilinear")
    parts = [stage(w, "decoder.D0.sources.E0.projection", e0, 1), stage(w, "decoder.D0.sources.E2.projection", big, 1)]
    d0 = stage(w, "decoder.D0.block", torch.cat([*parts, upsampled(w, "decoder.D0", d1, "bilinear")], 1), 1)
    assert d0.shape[1] == 3 * 2
    torch.testing.assert_close(network(x), F.conv2d(d0, w["head.weight"], w["head.bias"], padding=1))


def test_unet_2015_equals_its_forward_pass() -> None:
    network, w = random_twin(unet_2015(widths=(2, 4)))
    x = image((6, 8), channels=3)
    e0 = stage(w, "encoder.E0", x, 2)
    e1 = stage(w, "encoder.E1", F.max_pool2d(e0, 2), 2)
    d0 = stage(w, "decoder.D0.block", torch.cat([e0, upsampled(w, "decoder.D0", e1, "nearest")], 1), 2)
    torch.testing.assert_close(network(x), F.conv2d(d0, w["head.weight"], w["head.bias"]))


# The table itself


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("dims", [2, 3])
def test_every_reference_is_valid_in_2d_and_3d_and_survives_its_document(name: str, dims: Dims) -> None:
    architecture = REFERENCES[name](dims, in_channels=1, out_channels=2)
    assert not faults(architecture, (128,) * dims)
    assert not set(LEFT_OUT) & set(REFERENCES)
    assert Backbone.from_json(architecture.backbone.to_json()) == architecture.backbone
