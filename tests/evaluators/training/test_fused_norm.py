"""Fused normalisation and activation: torch's numbers, another way to them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetx_evaluators.device import memory_format
from unetx_evaluators.training.fast_cpu.norm_kernels import STRIP, STRIPS_A_SUM
from unetx_evaluators.training.fast_cpu.swaps import NORMS
from unetx_evaluators.training.module_swaps import FusedNorm

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [
    (2, 8, 33, 37),
    (1, 1, 5, 7),
    (3, 5, 1, 9),
    (2, 3, 7, 5, 6),
    (1, STRIP + 1, 2, 2),
    (2, 4, STRIPS_A_SUM, STRIP // 4 + 1),
]
BF16_ULP = 2.0**-8


def norm_of(channels: int, dims: int, *, seed: int = 0) -> nn.InstanceNorm2d | nn.InstanceNorm3d:
    """With scales of either sign and shifts that are not zero."""
    norm = (nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d)(channels, affine=True)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(norm.weight, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    return norm


def map_of(shape: tuple[int, ...], *, seed: int = 1, mean: float = 20.0) -> Tensor:
    """Channels last, far from zero, where a careless variance cancels."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3 + mean
    return values.to(memory_format=memory_format(len(shape) - 2, torch.device("cpu")))


def by_torch(x: Tensor, norm: nn.InstanceNorm2d | nn.InstanceNorm3d, slope: float) -> Tensor:
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return F.leaky_relu(F.instance_norm(x, weight=weight, bias=bias, eps=norm.eps), slope)


@pytest.mark.parametrize("slope", [0.01, 0.0, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_torchs(shape: tuple[int, ...], slope: float) -> None:
    norm, upstream = norm_of(shape[1], len(shape) - 2), map_of(shape, seed=2, mean=0.0)
    fused = FusedNorm(norm, nn.LeakyReLU(slope) if slope != 1 else None, NORMS)
    x = map_of(shape).requires_grad_()
    found, wanted = fused(x), by_torch(x.double(), norm, slope).float()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    inputs = (x, fused.weight, fused.bias)
    wanted_gradients = torch.autograd.grad(by_torch(x, norm, slope), (x, norm.weight, norm.bias), upstream)
    for own, other in zip(torch.autograd.grad(found, inputs, upstream), wanted_gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_the_float32_result_rounded_once(shape: tuple[int, ...]) -> None:
    norm, upstream = norm_of(shape[1], len(shape) - 2), map_of(shape, seed=2, mean=0.0).bfloat16()
    fused = FusedNorm(norm, nn.LeakyReLU(0.01), NORMS)
    x = map_of(shape).bfloat16().requires_grad_()
    exact = x.detach().float().requires_grad_()
    found, wanted = fused(x), fused(exact)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted.bfloat16())
    gradients = torch.autograd.grad(found, (x, fused.weight, fused.bias), upstream)
    others = torch.autograd.grad(wanted, (exact, fused.weight, fused.bias), upstream.float())
    for own, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(own.float(), other, rtol=BF16_ULP, atol=1e-5 * float(other.abs().max()))


def test_the_layout_stays_channels_last() -> None:
    x = map_of((2, 8, 6, 5))
    fused = FusedNorm(norm_of(8, 2), None, NORMS)
    assert fused(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fused(x.contiguous()), fused(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_shows_in_its_channel_and_in_no_other(wrong: float, dtype: torch.dtype) -> None:
    x = map_of((1, 3, 40, 30)).to(dtype)
    x[0, 1, 17, 11] = wrong
    y = FusedNorm(norm_of(3, 2), nn.LeakyReLU(0.01), NORMS)(x)
    assert y[0, 1].isnan().any()
    assert y[0, [0, 2]].isfinite().all()


def test_a_constant_map_becomes_its_shift() -> None:
    norm = norm_of(4, 2)
    y = FusedNorm(norm, None, NORMS)(torch.full((1, 4, 9, 9), 7.5).to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, norm.bias.detach().view(1, 4, 1, 1).expand_as(y))


def test_a_single_voxel_is_left_to_torch_and_its_complaint() -> None:
    fused = FusedNorm(norm_of(4, 2), None, NORMS)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        fused(torch.ones(2, 4, 1, 1))


def test_other_precisions_go_through_torch() -> None:
    norm = norm_of(4, 2).double()
    x = map_of((1, 4, 5, 5)).double()
    assert torch.equal(FusedNorm(norm, nn.LeakyReLU(0.01), NORMS)(x), by_torch(x, norm, 0.01))
