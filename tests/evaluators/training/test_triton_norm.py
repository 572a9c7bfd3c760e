"""Norms by Triton, interpreted on a CPU: torch's numbers. The interpreter is Triton's own; no GPU is needed.

It must be asked for before anything imports Triton, so that ``test_fast_cuda.py`` runs these tests in a process
of their own.
"""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("test_fast_cuda.py runs these in a process with TRITON_INTERPRET=1", allow_module_level=True)

from unetx_evaluators.training.fast_cuda import triton_norm
from unetx_evaluators.training.fast_cuda.choice import triton_failure
from unetx_evaluators.training.fast_cuda.triton_norm import norm_act

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(2, 5, 9, 7), (1, 1, 3, 40), (2, 9, 2, 3), (1, 3, 13, 11), (2, 3, 5, 4, 7), (1, 2, 7, 6, 5)]
ROUNDING = [(torch.bfloat16, 2.0**-7), (torch.float16, 2.0**-11)]
"""The interpreter cuts bfloat16 off, where GPUs round to nearest (cvt.rn.bf16x2.f32)."""


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that small maps have several of them in each part, several parts, and groups of channels."""
    monkeypatch.setattr(triton_norm, "TILE", 32)
    monkeypatch.setattr(triton_norm, "MOST_CHANNELS", 4)
    monkeypatch.setattr(triton_norm, "PROGRAMS", 12)


def layout_of(dims: int, *, last: bool) -> torch.memory_format:
    if not last:
        return torch.contiguous_format
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def numbers_of(shape: tuple[int, ...], seed: int, *, mean: float = 0.0, last: bool = False) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3 + mean
    return numbers.contiguous(memory_format=layout_of(len(shape) - 2, last=last)) if len(shape) > 1 else numbers


def given(shape: tuple[int, ...], *, mean: float = 20.0, last: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """A map far from zero, where a careless variance cancels; scales of either sign, and shifts."""
    x = numbers_of(shape, 0, mean=mean, last=last)
    return (
        x.requires_grad_(),
        numbers_of(shape[1:2], 1).requires_grad_(),
        numbers_of(shape[1:2], 2).requires_grad_(),
    )


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    return F.leaky_relu(F.instance_norm(x, weight=weight, bias=bias, eps=1e-5), slope)


def test_the_trial_finds_triton_fit() -> None:
    assert triton_failure(torch.device("cpu")) == ""


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("slope", [0.01, 0.0])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_torchs_in_float64(shape: tuple[int, ...], last: bool, slope: float) -> None:
    inputs, upstream = given(shape, last=last), numbers_of(shape, 3)
    x, weight, bias = exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    found, wanted = norm_act(*inputs, 1e-5, slope), by_torch(x, weight, bias, slope)
    torch.testing.assert_close(found, wanted.float(), rtol=1e-5, atol=2e-5)
    gradients = torch.autograd.grad(found, inputs, upstream)
    for own, other in zip(gradients, torch.autograd.grad(wanted, exact, upstream.double()), strict=True):
        torch.testing.assert_close(own, other.float(), rtol=1e-5, atol=1e-5 * float(other.abs().max()))
    assert (found.stride(), gradients[0].stride()) == (inputs[0].stride(),) * 2


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("dtype", "rounding"), ROUNDING)
@pytest.mark.parametrize("shape", [(2, 5, 9, 7), (2, 3, 5, 4, 7)])
def test_lower_precision_is_the_float32_result_rounded_once(
    shape: tuple[int, ...], dtype: torch.dtype, rounding: float
) -> None:
    x, weight, bias = given(shape, last=len(shape) == 4)
    short, upstream = x.detach().to(dtype).requires_grad_(), numbers_of(shape, 3).to(dtype)
    long = short.detach().float().requires_grad_()
    found, wanted = (norm_act(one, weight, bias, 1e-5, 0.01) for one in (short, long))
    torch.testing.assert_close(found.float(), wanted, rtol=rounding, atol=1e-7)
    gradients = torch.autograd.grad(found, (short, weight, bias), upstream)
    others = torch.autograd.grad(wanted, (long, weight, bias), upstream.float())
    assert (found.dtype, gradients[0].dtype) == (dtype, dtype)
    for own, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(own.float(), other, rtol=rounding, atol=1e-5)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("last", [True, False])
def test_a_mean_ten_thousand_times_the_spread_cancels_nothing(last: bool) -> None:
    x, weight, bias = given((1, 3, 13, 11), mean=30_000.0, last=last)
    exact = by_torch(x.double(), weight.double(), bias.double(), 1.0)
    # A float32's last place at 30,000 is 0.002, and the spread is 3: more is not known of the mean.
    found = norm_act(x, weight, bias, 1e-5, 1.0)
    torch.testing.assert_close(found, exact.float(), rtol=1e-6, atol=0.002 / 3 * float(weight.detach().abs().max()))


@pytest.mark.usefixtures("small_tiles")
def test_a_map_that_lies_otherwise_is_brought_to_its_networks_layout() -> None:
    x, weight, bias = given((2, 5, 9, 14))
    part = x[..., ::2]
    found = norm_act(part, weight, bias, 1e-5, 0.01)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, by_torch(part, weight, bias, 0.01), rtol=1e-5, atol=2e-5)
    (own,) = torch.autograd.grad(found.square().sum(), x)
    (other,) = torch.autograd.grad(by_torch(part, weight, bias, 0.01).square().sum(), x)
    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("small_tiles")
def test_what_is_not_finite_shows_in_its_channel_and_in_no_other() -> None:
    x, weight, bias = given((1, 3, 9, 7), last=True)
    with torch.no_grad():
        x[0, 1, 4, 2] = torch.nan
        y = norm_act(x, weight, bias, 1e-5, 0.01)
    assert y[0, 1].isnan().all()
    assert y[0, [0, 2]].isfinite().all()


@pytest.mark.parametrize("shape", [(2, 8, 128, 128), (2, 256, 8, 8), (1, 320, 4, 4, 4), (2, 8, 32, 48, 32)])
@pytest.mark.parametrize("last", [True, False])
def test_programs_share_each_map_without_gaps(shape: tuple[int, ...], last: bool) -> None:
    layout = layout_of(len(shape) - 2, last=last)
    walk = triton_norm._Walk.over(torch.empty(shape, device="meta"), layout)
    (parts, groups, b), (*_, c, n, part, same, channels, voxels) = walk.grid, walk.arguments
    assert (b, c, same) == (*shape[:2], parts)
    assert (parts - 1) * part < n <= parts * part
    assert (groups - 1) * channels < c <= groups * channels
    assert part % voxels == 0
    assert channels * voxels <= triton_norm.TILE
    assert parts <= triton_norm.MOST_PARTS
