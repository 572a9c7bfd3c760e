"""Blocks of encoder stages and decoder nodes, against the same written out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from all_pairs import all_pairs
from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import Tensor, nn

from unetx_space.backbone import ENCODER_BLOCKS, NORMS, EncoderBlock, Norm
from unetx_space.initial_values import initialise
from unetx_space.network import BLOCK_MODULES
from unetx_space.operators.blocks import NORMS as NORM_MODULES
from unetx_space.operators.blocks import NormAct, PlainStage, ResidualBlock, ResidualStage, Style, group_count
from unetx_space.operators.nd import conv


def normalised(x: Tensor) -> Tensor:
    """Instance normalisation from its definition."""
    variance, mean = torch.var_mean(x, tuple(range(2, x.ndim)), correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def activated(x: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, slope * x)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (6, 6), (7, 7), (8, 8), (11, 1), (12, 6), (32, 8), (90, 6)])
def test_group_count_is_the_largest_divisor_up_to_eight(channels: int, groups: int) -> None:
    assert group_count(channels) == groups


def test_there_is_a_module_for_every_norm_and_for_every_block() -> None:
    assert set(NORM_MODULES) == set(NORMS)
    assert list(BLOCK_MODULES) == list(ENCODER_BLOCKS)


@pytest.mark.parametrize(("dims", "channels", "channels_last"), all_pairs([2, 3], [1, 3, 8], [False, True]))
def test_the_instance_norm_is_torchs_in_the_layout_of_its_input(dims: int, channels: int, channels_last: bool) -> None:
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[dims] if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    ours = NORM_MODULES["instance"](channels, dims)
    reference = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims](channels, affine=True)
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(2, channels, *(7, 6, 5)[:dims]).contiguous(memory_format=layout).requires_grad_()
    y = ours(x)
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y, reference(x), rtol=0, atol=0)
    weight = torch.randn_like(y)
    for one, other in zip(
        torch.autograd.grad((y * weight).sum(), [x, *ours.parameters()]),
        torch.autograd.grad((reference(x) * weight).sum(), [x, *reference.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_stage_stays_channels_last_throughout(dims: int) -> None:
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    stage = PlainStage(2, 4, (2,) * dims, Style()).to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(2, 2, *(8, 8, 8)[:dims]).contiguous(memory_format=layout)
    assert all(y.is_contiguous(memory_format=layout) for y in _outputs(stage, x))


def _outputs(stage: nn.Sequential, x: Tensor) -> list[Tensor]:
    outputs = []
    for part in stage:
        x = part(x)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize(("kind", "norm", "pool"), all_pairs(ENCODER_BLOCKS, NORMS, [False, True]))
def test_a_strided_block_rounds_up_and_a_pooling_one_down(kind: EncoderBlock, norm: Norm, pool: bool) -> None:
    expected = (3, 4, 2) if pool else (4, 4, 3)
    for c_in in (3, 6):
        stage = BLOCK_MODULES[kind](c_in, 6, (2, 1, 3), Style(norm), depth=2, pool=pool)
        assert stage(torch.randn(2, c_in, 7, 4, 8)).shape == (2, 6, *expected)


@pytest.mark.parametrize(("pool", "depth", "slope"), all_pairs([False, True], [1, 2, 3], [0.0, 0.01, 0.1]))
def test_a_plain_stage_is_convolution_normalisation_activation_over_and_over(
    pool: bool, depth: int, slope: float
) -> None:
    torch.manual_seed(0)
    stage = PlainStage(2, 3, (2, 2), Style(negative_slope=slope), depth=depth, pool=pool)
    x = torch.randn(1, 2, 8, 8)
    y = F.max_pool2d(x, 2) if pool else x
    for i in range(1, depth + 1):
        weight = stage.get_parameter(f"conv{i}.weight")
        y = F.conv2d(y, weight, stride=2 if i == 1 and not pool else 1, padding=1)
        y = activated(normalised(y), slope)
    torch.testing.assert_close(stage(x), y)


def test_biases_and_slopes_are_those_of_the_style() -> None:
    assert {name for name, _ in PlainStage(1, 2, (1, 1), Style(conv_bias=True)).named_parameters()} == {
        f"{part}{i}.{kind}" for part in ("conv", "norm") for i in (1, 2) for kind in ("weight", "bias")
    }
    assert "conv1.bias" not in dict(PlainStage(1, 2, (1, 1), Style()).named_parameters())
    x = torch.tensor([[[[-1.0, 1.0]]]])
    assert NormAct(1, 2, Style(negative_slope=0.1))(x)[0, 0, 0].tolist() == pytest.approx([-0.1, 1.0], abs=1e-5)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2), (1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("c_in", [3, 5])
def test_a_residual_block_equals_monais(c_in: int, stride: tuple[int, ...]) -> None:
    dims = len(stride)
    torch.manual_seed(1)
    reference = UnetResBlock(dims, c_in, 5, 3, stride, ("instance", {"affine": True}))
    ours = ResidualBlock(c_in, 5, stride, Style())
    assert list(map(_shape, ours.parameters())) == list(map(_shape, _in_our_order(reference)))
    with torch.no_grad():
        for parameter, value in zip(ours.parameters(), _in_our_order(reference), strict=True):
            parameter.copy_(value.uniform_(-1, 1))
    x = torch.randn(2, c_in, *(9, 7, 6)[:dims])
    torch.testing.assert_close(ours(x), reference(x), rtol=1e-5, atol=1e-5)


def _shape(parameter: Tensor) -> torch.Size:
    return parameter.shape


def _in_our_order(block: nn.Module) -> list[nn.Parameter]:
    names = ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3")
    parts = [getattr(block, name) for name in names if hasattr(block, name)]
    return [parameter for part in parts for parameter in part.parameters()]


@pytest.mark.parametrize(("c_in", "stride"), [(2, 2), (2, 1), (3, 2), (3, 1)])
def test_a_resnet_d_block_pools_its_shortcut(c_in: int, stride: int) -> None:
    """Bag of tricks, figure 2c: average pooling, then a 1x1 convolution where the width changes."""
    torch.manual_seed(2)
    block = ResidualBlock(c_in, 3, (stride, stride), Style(negative_slope=0.1), pool_shortcut=True)
    x = torch.randn(2, c_in, 8, 6)
    y = activated(normalised(F.conv2d(x, block.conv1.weight, stride=stride, padding=1)), 0.1)
    y = normalised(F.conv2d(y, block.conv2.weight, padding=1))
    shortcut = F.avg_pool2d(x, stride)
    if c_in != 3:
        shortcut = normalised(F.conv2d(shortcut, block.get_parameter("shortcut.conv.weight")))
    torch.testing.assert_close(block(x), activated(y + shortcut, 0.1))


def test_shortcuts_never_have_a_bias() -> None:
    block = ResidualBlock(2, 3, (2, 2), Style(conv_bias=True))
    assert {name for name, _ in block.named_parameters() if "conv" in name} == {
        "conv1.weight",
        "conv1.bias",
        "conv2.weight",
        "conv2.bias",
        "shortcut.conv.weight",
    }


def test_a_residual_stage_starts_as_its_shortcuts() -> None:
    stage = ResidualStage(3, 3, (1, 1), Style(), depth=3)
    initialise(stage, seed=0)
    x = torch.randn(1, 3, 5, 6).abs()
    torch.testing.assert_close(stage(x), x)


@pytest.mark.parametrize("kind", ENCODER_BLOCKS)
def test_every_weight_of_a_block_learns_after_the_first_step(kind: EncoderBlock) -> None:
    """Behind the zero scale at the start nothing moves yet; one step of that scale sets it free."""
    stage = BLOCK_MODULES[kind](2, 3, (2, 2), Style(), depth=2, pool=False)
    initialise(stage, seed=0)
    optimiser = torch.optim.SGD(stage.parameters(), lr=0.1)
    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        optimiser.zero_grad()
        stage(x).square().sum().backward()
        optimiser.step()
    for name, parameter in stage.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
@pytest.mark.parametrize("stride", [2, (1, 2), (3, 2)])
def test_a_strided_pointwise_convolution_and_its_gradients_are_torchs(
    stride: int | tuple[int, int], size: tuple[int, int]
) -> None:
    module = conv(2, 3, 5, 1, stride=stride).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    assert module.bias is not None
    inputs = (x, module.weight, module.bias)
    found, wanted = module(x), F.conv2d(*inputs, stride=stride)
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream)
    )


def test_a_residual_stage_in_channels_last_trains_again_and_again() -> None:
    """Where the strided convolution of its shortcut writes past its memory, the process does not survive this."""
    stage = ResidualStage(4, 8, (2, 2), Style(), depth=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.ones(2, 4, 12, 10).to(memory_format=torch.channels_last)
    for _ in range(30):
        stage.zero_grad()
        stage(x).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in stage.parameters())
