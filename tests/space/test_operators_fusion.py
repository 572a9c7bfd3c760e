"""Fusions against formulas written out, naive loops, and what the catalogue says they cost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from narrowing import there
from operator_samples import image, randomised
from torch import Tensor, nn

from unetx_space.initial_values import initialise
from unetx_space.network import module_of
from unetx_space.operators.catalogue import FUSIONS
from unetx_space.operators.fusion import EPSILON, BiFPN, Concat, Gated, Mean, Sum

SIZES: Mapping[int, tuple[int, ...]] = {2: (5, 3), 3: (3, 2, 5)}


def built(name: str, n_inputs: int, channels: int) -> nn.Module:
    module = module_of(FUSIONS[name])(n_inputs, channels)
    initialise(module, seed=1)
    return module


def some_maps(n_inputs: int, channels: int, dims: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    whole = image(n_inputs * channels, SIZES[dims], dtype=dtype)
    return [whole[:, i * channels : (i + 1) * channels].clone() for i in range(n_inputs)]


def test_concatenation_and_sum_are_worked_by_hand() -> None:
    maps = [torch.full((1, 2, 2, 2), float(n)) for n in (1, 2, 4)]
    assert torch.equal(Concat(3, 6)(maps)[0, :, 0, 0], torch.tensor([1.0, 1.0, 2.0, 2.0, 4.0, 4.0]))
    assert torch.equal(Sum(3, 2)(maps), torch.full((1, 2, 2, 2), 7.0))


def test_mean_is_the_mean_over_the_stacked_maps() -> None:
    maps = some_maps(4, 3)
    torch.testing.assert_close(Mean(4, 3)(maps), torch.stack(maps).mean(0))


def test_concat_and_a_1x1_convolution_equal_the_sum_of_projections() -> None:
    """SPACE equivalence E4, why neither is an operator of its own here."""
    torch.manual_seed(0)
    a, b, weight = torch.randn(1, 3, 4, 5), torch.randn(1, 2, 4, 5), torch.randn(6, 5, 1, 1)
    whole = nn.functional.conv2d(Concat(2, 5)([a, b]), weight)
    parts = [nn.functional.conv2d(a, weight[:, :3]), nn.functional.conv2d(b, weight[:, 3:])]
    torch.testing.assert_close(Sum(2, 6)(parts), whole)


# BiFPN


def test_bifpn_is_worked_by_hand() -> None:
    """Weights relu(3), relu(-2), relu(1): (3 * 1 + 0 * 10 + 1 * 5) / (4 + 1e-4)."""
    module = BiFPN(3, 2)
    with torch.no_grad():
        there(module.weights).copy_(torch.tensor([3.0, -2.0, 1.0]))
    maps = [torch.full((1, 2, 2, 2), n) for n in (1.0, 10.0, 5.0)]
    torch.testing.assert_close(module(maps), torch.full((1, 2, 2, 2), 8 / 4.0001))
    assert EPSILON == 1e-4  # efficientdet_arch.fuse_features


@pytest.mark.parametrize("dims", [2, 3])
def test_bifpn_starts_as_the_mean(dims: int) -> None:
    maps = some_maps(4, 3, dims)
    module = built("bifpn", 4, 3).double()
    torch.testing.assert_close(module(maps), torch.stack(maps).sum(0) / 4.0001)
    assert [name for name, _ in module.named_parameters()] == ["weights"]


def test_bifpn_of_closed_weights_only_is_finite() -> None:
    module = BiFPN(2, 1)
    with torch.no_grad():
        there(module.weights).fill_(-1)
    assert module(some_maps(2, 1, dtype=torch.float32)).abs().max() == 0


# Gated


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("n_inputs", [2, 3, 5])
def test_gated_equals_a_naive_loop(dims: int, n_inputs: int) -> None:
    module, maps = randomised(Gated(n_inputs, 3)), some_maps(n_inputs, 3, dims)
    assert module.gate is not None
    weight, bias = module.gate.weight.detach().numpy()[:, :, 0], there(module.gate.bias).detach().numpy()
    stacked = torch.stack(maps).numpy()  # [n, b, c, *size]
    expected = np.empty(stacked.shape[1:])
    for image_index, *voxel in np.ndindex(*expected.shape[:1], *expected.shape[2:]):
        here = stacked[(slice(None), image_index, slice(None), *voxel)]  # [n, c]
        logits = np.append(weight @ here.ravel() + bias, 0)
        shares = np.exp(logits) / np.exp(logits).sum()
        expected[(image_index, slice(None), *voxel)] = shares @ here
    torch.testing.assert_close(module(maps), torch.from_numpy(expected))


def test_gated_of_two_maps_is_the_sigmoid_gate_of_the_literature() -> None:
    """alpha a + (1 - alpha) b with alpha = sigmoid(1x1 [a; b])."""
    module, (a, b) = randomised(Gated(2, 3)), some_maps(2, 3)
    assert module.gate is not None
    alpha = torch.sigmoid(
        torch.nn.functional.conv2d(torch.cat([a, b], 1), module.gate.weight[..., None], module.gate.bias)
    )
    torch.testing.assert_close(module([a, b]), alpha * a + (1 - alpha) * b)


@pytest.mark.parametrize("n_inputs", [2, 3, 5])
def test_gated_starts_with_equal_shares(n_inputs: int) -> None:
    maps = some_maps(n_inputs, 3)
    torch.testing.assert_close(built("gated", n_inputs, 3).double()(maps), torch.stack(maps).mean(0))


def test_weighted_fusions_are_priced_by_one_multiply_add_for_every_value_they_read() -> None:
    """Three maps of 4 channels on 10 voxels."""
    assert [FUSIONS[name].other_macs(3, 4, 10) for name in ("sum", "mean", "bifpn", "gated")] == [80, 120, 120, 120]
    assert FUSIONS["gated"].conv_macs(3, 4, 10) == 2 * 12 * 10  # two logits from twelve channels
    assert FUSIONS["gated"].n_parameters(3, 4) == 2 * 13
