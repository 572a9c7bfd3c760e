"""Attention modules against loops written from the papers' equations, and against MONAI."""

from __future__ import annotations

import itertools
from math import exp

import numpy as np
import pytest
import torch
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from numpy.typing import NDArray
from operator_samples import image, randomised
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unetx_space.initial import initialise
from unetx_space.network import ATTENTION_MODULES
from unetx_space.operators.attention import CBAM, ECA, SCSE, SqueezeExcite
from unetx_space.operators.catalogue import ATTENTIONS, eca_kernel, hidden_width

SIZES = {2: (5, 7), 3: (3, 4, 5)}
Array = NDArray[np.float64]


def built(name: str, channels: int, dims: int) -> nn.Module:
    module = ATTENTION_MODULES[name](channels, dims)
    initialise(module, seed=1)
    return module


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def dense(layer: nn.Linear, vector: list[float]) -> list[float]:
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [sum(w * v for w, v in zip(row, vector, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def channel_logits(squeeze: nn.Linear, excite: nn.Linear, pooled: list[float]) -> list[float]:
    return dense(excite, [max(0.0, value) for value in dense(squeeze, pooled)])


def looped_se(module: SqueezeExcite, x: Array) -> Array:
    out = np.empty_like(x)
    for b in range(len(x)):
        means = [float(plane.mean()) for plane in x[b]]
        for c, logit in enumerate(channel_logits(module.squeeze, module.excite, means)):
            out[b, c] = x[b, c] * sigmoid(logit)
    return out


def looped_spatial_gate(conv: nn.Conv2d | nn.Conv3d, x: Array) -> Array:
    """sigmoid of a zero-padded convolution of (maximum, mean) over channels, voxel by voxel."""
    assert conv.bias is not None
    kernel, bias = conv.weight.detach().numpy()[0], conv.bias.item()
    pooled = np.stack([x.max(0), x.mean(0)])
    gate, shape = np.empty(x.shape[1:]), x.shape[1:]
    for site in np.ndindex(*shape):
        total = bias
        for tap in np.ndindex(*kernel.shape[1:]):
            at = tuple(s + t - k // 2 for s, t, k in zip(site, tap, kernel.shape[1:], strict=True))
            if all(0 <= a < n for a, n in zip(at, shape, strict=True)):
                total += sum(kernel[(i, *tap)] * pooled[(i, *at)] for i in range(2))
        gate[site] = sigmoid(total)
    return gate


@pytest.mark.parametrize("dims", [2, 3])
def test_se_equals_its_equations(dims: int) -> None:
    module, x = randomised(SqueezeExcite(6, dims)), image(6, SIZES[dims])
    torch.testing.assert_close(module(x), torch.from_numpy(looped_se(module, x.numpy())))


@pytest.mark.parametrize("dims", [2, 3])
def test_se_equals_monai_after_copying_the_weights(dims: int) -> None:
    ours = randomised(SqueezeExcite(64, dims))  # 64 // 16 = 4, which is also our least hidden width
    theirs = ChannelSELayer(spatial_dims=dims, in_channels=64, r=16).double()
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))  # fc.0, fc.2 = squeeze, excite
    )
    x = image(64, SIZES[dims])
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("dims", [2, 3])
def test_cbam_equals_its_equations(dims: int) -> None:
    module, x = randomised(CBAM(5, dims)), image(5, SIZES[dims])
    expected = x.numpy().copy()
    for b in range(len(expected)):
        means = channel_logits(module.squeeze, module.excite, [float(plane.mean()) for plane in expected[b]])
        maxima = channel_logits(module.squeeze, module.excite, [float(plane.max()) for plane in expected[b]])
        for c, (first, second) in enumerate(zip(means, maxima, strict=True)):
            expected[b, c] *= sigmoid(first + second)
        expected[b] *= looped_spatial_gate(module.spatial, expected[b])
    torch.testing.assert_close(module(x), torch.from_numpy(expected))


@pytest.mark.parametrize("dims", [2, 3])
def test_eca_equals_its_equations(dims: int) -> None:
    module, x = randomised(ECA(9, dims)), image(9, SIZES[dims])
    kernel = module.conv.weight.flatten().tolist()
    expected = x.numpy().copy()
    for b in range(len(expected)):
        means = [0.0, *(float(plane.mean()) for plane in expected[b]), 0.0]  # one zero of padding for a kernel of 3
        for c in range(9):
            expected[b, c] *= 2 * sigmoid(sum(k * m for k, m in zip(kernel, means[c : c + 3], strict=True)))
    torch.testing.assert_close(module(x), torch.from_numpy(expected))


@pytest.mark.parametrize("dims", [2, 3])
def test_scse_is_the_larger_of_both_gated_maps(dims: int) -> None:
    module, x = randomised(SCSE(5, dims)), image(5, SIZES[dims])
    assert module.spatial.bias is not None
    weight, bias = module.spatial.weight.flatten().tolist(), module.spatial.bias.item()
    by_channel = looped_se(module.channel, x.numpy())
    expected = by_channel.copy()
    for b, site in itertools.product(range(2), np.ndindex(*SIZES[dims])):
        values = [x.numpy()[(b, c, *site)] for c in range(5)]
        gate = sigmoid(sum(w * v for w, v in zip(weight, values, strict=True)) + bias)
        for c in range(5):
            expected[(b, c, *site)] = max(by_channel[(b, c, *site)], values[c] * gate)
    torch.testing.assert_close(module(x), torch.from_numpy(expected))


def test_se_with_one_channel_is_worked_by_hand() -> None:
    module = SqueezeExcite(1, 2)
    with torch.no_grad():
        module.squeeze.weight.fill_(1.0)
        module.squeeze.bias.copy_(torch.tensor([0.0, 1.0, -5.0, -1.0]))
        module.excite.weight.fill_(0.5)
        module.excite.bias.fill_(-2.0)
    x = torch.tensor([[[[1.0, 3.0]]]])  # mean 2; hidden relu(2, 3, -3, 1) = (2, 3, 0, 1); logit 0.5 * 6 - 2 = 1
    torch.testing.assert_close(module(x), x / (1 + exp(-1)))


@pytest.mark.parametrize(("channels", "kernel"), [(1, 3), (8, 3), (96, 3), (127, 3), (128, 5), (1024, 5), (2048, 7)])
def test_eca_kernel_grows_as_published(channels: int, kernel: int) -> None:
    assert eca_kernel(channels) == kernel


@pytest.mark.parametrize("name", ["se", "cbam", "scse"])
def test_fewer_than_16_channels_still_have_a_hidden_layer(name: str) -> None:
    """``channels // 16`` is 0 there, which the text this project grew from raised on."""
    assert hidden_width(1, 16) == 4
    x = image(3, (4, 4), dtype=torch.float32)
    assert built(name, 3, 2)(x).shape == x.shape


@pytest.mark.parametrize("name", sorted(set(ATTENTIONS) - {"none"}))
@pytest.mark.parametrize("dims", [2, 3])
def test_attention_starts_near_the_identity(name: str, dims: int) -> None:
    x = image(24, SIZES[dims], dtype=torch.float32)
    gain = built(name, 24, dims)(x) / x
    assert gain.min() > 0.75
    assert gain.max() <= 1.0001


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("channels", [1, 2, 7, 33, 96])
@pytest.mark.parametrize("dims", [2, 3])
def test_attention_keeps_shape_has_gradients_and_costs_what_it_says(name: str, channels: int, dims: int) -> None:
    module, size = built(name, channels, dims), SIZES[dims]
    x = image(channels, size, batch=1, dtype=torch.float32).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        y = module(x)
    spec, sites = ATTENTIONS[name], x[0, 0].numel()
    assert y.shape == x.shape
    assert sum(p.numel() for p in module.parameters()) == spec.n_parameters(channels, dims)
    assert counter.get_total_flops() == 2 * spec.conv_macs(channels, dims, sites)
    y.square().sum().backward()
    for tensor in (x, *module.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("dims", [2, 3])
def test_attention_agrees_with_itself_under_bfloat16_autocast(name: str, dims: int) -> None:
    module, x = built(name, 16, dims), image(16, SIZES[dims], dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        half = module(x)
    torch.testing.assert_close(half.float(), module(x), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_works_on_a_single_voxel(name: str) -> None:
    x = image(4, (1, 1, 1), dtype=torch.float32)
    assert built(name, 4, 3)(x).isfinite().all()
