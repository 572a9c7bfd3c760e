"""Attention against loops written from the papers' equations and against MONAI, and what all attention promises."""

from __future__ import annotations

import itertools
from math import exp

import numpy as np
import pytest
import torch
from attention_maps import SIZES, built, context, inputs, maps
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from narrowing import there
from numpy.typing import NDArray
from operator_samples import image, randomised
from torch import nn

from unetx_space.backbone import NORMS, Norm
from unetx_space.operators.attention import CBAM, ECA, SCSE, CoordinateAttention, SCSEAdd, SimAM, SqueezeExcite
from unetx_space.operators.catalogue import ATTENTIONS, AttentionContext
from unetx_space.operators.catalogue.attention import eca_kernel, hidden_width, token_width

Array = NDArray[np.float64]
OPERATORS = sorted(set(ATTENTIONS) - {"none"})


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def dense(layer: nn.Linear | nn.Conv2d | nn.Conv3d, vector: list[float]) -> list[float]:
    """A dense layer, or a 1x1 convolution at one voxel."""
    weight, bias = layer.weight.flatten(1).tolist(), there(layer.bias).tolist()
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
    kernel, bias = conv.weight.detach().numpy()[0], there(conv.bias).item()
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
    module, x = randomised(SqueezeExcite(context(6, dims))), image(6, SIZES[dims])
    torch.testing.assert_close(module(x), torch.from_numpy(looped_se(module, x.numpy())))


@pytest.mark.parametrize("dims", [2, 3])
def test_se_equals_monai_after_copying_the_weights(dims: int) -> None:
    ours = randomised(SqueezeExcite(context(64, dims)))  # 64 // 16 = 4, which is also our least hidden width
    theirs = ChannelSELayer(spatial_dims=dims, in_channels=64, r=16).double()
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))  # fc.0, fc.2 = squeeze, excite
    )
    x = image(64, SIZES[dims])
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("dims", [2, 3])
def test_cbam_equals_its_equations(dims: int) -> None:
    module, x = randomised(CBAM(context(5, dims))), image(5, SIZES[dims])
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
    module, x = randomised(ECA(context(9, dims))), image(9, SIZES[dims])
    kernel = module.conv.weight.flatten().tolist()
    expected = x.numpy().copy()
    for b in range(len(expected)):
        means = [0.0, *(float(plane.mean()) for plane in expected[b]), 0.0]  # one zero of padding for a kernel of 3
        for c in range(9):
            expected[b, c] *= 2 * sigmoid(sum(k * m for k, m in zip(kernel, means[c : c + 3], strict=True)))
    torch.testing.assert_close(module(x), torch.from_numpy(expected))


def looped_voxel_gate(module: SCSE | SCSEAdd, x: Array) -> Array:
    """x times sigmoid of a weighted sum of its channels, voxel by voxel."""
    weight, bias = module.spatial.weight.flatten().tolist(), there(module.spatial.bias).item()
    out = np.empty_like(x)
    for b, site in itertools.product(range(len(x)), np.ndindex(*x.shape[2:])):
        values = [x[(b, c, *site)] for c in range(len(weight))]
        gate = sigmoid(sum(w * v for w, v in zip(weight, values, strict=True)) + bias)
        for c, value in enumerate(values):
            out[(b, c, *site)] = value * gate
    return out


@pytest.mark.parametrize("dims", [2, 3])
def test_scse_is_the_larger_of_both_gated_maps_and_scse_add_their_sum(dims: int) -> None:
    x = image(5, SIZES[dims])
    for kind, combined in ((SCSE, np.maximum), (SCSEAdd, np.add)):
        module = randomised(kind(context(5, dims)))
        expected = combined(looped_se(module.channel, x.numpy()), looped_voxel_gate(module, x.numpy()))
        torch.testing.assert_close(module(x), torch.from_numpy(expected))


def test_scse_add_has_the_parameters_of_segmentation_models_pytorch() -> None:
    """113,991 more in Unet(resnet34) (SPACE 2.2): on both sides of each block, of C // 16 hidden channels.

    Ours has at least 4 of them, so that the three narrow ones, of 32, 32 and 16 channels, are counted by hand.
    """
    wide = (768, 384, 192, 128, 256, 128, 64)
    narrow = [2 * c * (c // 16) + c // 16 + c + c + 1 for c in (32, 32, 16)]
    ours = [ATTENTIONS["scse-add"].n_parameters(AttentionContext(c, (2, 2), c, c)) for c in wide]
    assert sum(ours) + sum(narrow) == 113_991


def hard_swish(value: float) -> float:
    return value * min(max(value + 3, 0), 6) / 6


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_coordinate_attention_equals_its_equations(dims: int, training: bool) -> None:
    """With batch normalisation, as published; in evaluation its fresh statistics are mean 0 and variance 1."""
    module, x = randomised(CoordinateAttention(context(4, dims, "batch"))).train(training), image(4, SIZES[dims])
    data, size = x.numpy(), SIZES[dims]
    lines = [(b, axis, i) for b in range(len(data)) for axis in range(dims) for i in range(size[axis])]
    hidden = {
        line: dense(module.squeeze, [float(np.take(data[line[0], c], line[2], line[1]).mean()) for c in range(4)])
        for line in lines
    }
    gates: dict[tuple[int, int, int], list[float]] = {}
    table = np.array([hidden[line] for line in lines])  # [all positions of all lines, width]
    mean, variance = (table.mean(0), table.var(0)) if training else (0.0, 1.0)
    scale, shift = (module.norm.get_parameter(name).detach().numpy() for name in ("weight", "bias"))
    normed = (table - mean) / np.sqrt(variance + 1e-5) * scale + shift
    for line, row in zip(lines, normed, strict=True):
        layer = module.excite[line[1]]
        assert isinstance(layer, nn.Conv2d | nn.Conv3d)
        gates[line] = [sigmoid(value) for value in dense(layer, [hard_swish(float(value)) for value in row])]
    expected = data.copy()
    for b, c, *site in np.ndindex(*data.shape):
        for axis, i in enumerate(site):
            expected[(b, c, *site)] *= gates[b, axis, i][c]
    torch.testing.assert_close(module(x), torch.from_numpy(expected))


@pytest.mark.parametrize(("channels", "width"), [(1, 8), (256, 8), (288, 9), (1024, 32)])
def test_the_lines_of_coordinate_attention_are_at_least_8_wide(channels: int, width: int) -> None:
    assert token_width(channels) == width


@pytest.mark.parametrize("dims", [2, 3])
def test_simam_equals_its_equations(dims: int) -> None:
    x = image(3, SIZES[dims])
    expected = x.numpy().copy()
    for plane in expected.reshape(-1, *SIZES[dims]):
        mean, variance = plane.mean(), plane.var(ddof=1)
        for site in np.ndindex(*plane.shape):
            plane[site] *= sigmoid((plane[site] - mean) ** 2 / (4 * (variance + 1e-4)) + 0.5)
    torch.testing.assert_close(SimAM(context(1, 2))(x), torch.from_numpy(expected))


def test_simam_of_a_constant_map_and_of_a_single_voxel_have_the_lowest_gate() -> None:
    """Where every voxel is the mean the inverse energy is 1/2; with one voxel the authors' variance is 0 / 0."""
    for x in (torch.full((1, 1, 2, 3), 7.0), torch.full((1, 1, 1, 1), 7.0)):
        torch.testing.assert_close(SimAM(context(1, 2))(x), x * sigmoid(0.5))


def test_simam_is_finite_where_squares_exceed_float16() -> None:
    x = torch.tensor([[[[0.0, 600.0]]]], dtype=torch.float16)
    torch.testing.assert_close(
        SimAM(context(1, 2))(x), (x * sigmoid(0.5 + 1 / 8)).half()
    )  # mean 300, variance 2 * 300^2


def test_se_with_one_channel_is_worked_by_hand() -> None:
    module = SqueezeExcite(context(1, 2))
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


# What all attention promises


@pytest.mark.parametrize("name", sorted(set(OPERATORS) - {"simam", "cca", "attention-gate-grid"}))
@pytest.mark.parametrize("dims", [2, 3])
def test_attention_starts_near_the_identity(name: str, dims: int) -> None:
    """The others' docstrings say why not; SimAM is tested above, the gates in test_operators_gated_attention.py."""
    given = maps(24, dims)
    gain = built(name, 24, dims)(*inputs(name, given)) / given.x
    assert gain.min() > 0.75
    assert gain.max() < 1.25
    assert (gain.mean() - 1).abs() < 0.15


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch", [1, 2])
def test_attention_works_with_every_normalisation_and_a_batch_of_one(name: str, norm: Norm, batch: int) -> None:
    module, given = built(name, 6, 3, norm), maps(6, 3, batch)
    assert sum(p.numel() for p in module.parameters()) == ATTENTIONS[name].n_parameters(context(6, 3))
    for training in (True, False):
        y = module.train(training)(*inputs(name, given))
        assert y.isfinite().all()
        assert (y.std() > 0.1 * given.x.std()).all()
