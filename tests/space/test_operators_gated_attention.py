"""Gated attention: against MONAI, loops and published counts; what its gates are, and where it may stand."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from all_pairs import all_pairs
from attention_maps import COARSE, SIZES, STRIDES, built, context, maps
from monai.networks.nets.attentionunet import AttentionBlock
from numpy.typing import NDArray
from operator_samples import image, randomised
from torch import Tensor, nn

from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.documents import schema
from unetx_space.genome import Attention, DecoderNode, Genome, decoder, encoder
from unetx_space.network import build
from unetx_space.operators.catalogue import ATTENTIONS, PLACEMENTS, AttentionContext
from unetx_space.operators.catalogue.attention import gate_width
from unetx_space.operators.gated_attention import AttentionGate, ChannelCrossAttention, GridAttentionGate
from unetx_space.validity import faults

Array = NDArray[np.float64]
GATED = [name for name, spec in ATTENTIONS.items() if spec.gate is not None]


# The attention gate on the node's grid


@pytest.mark.parametrize(("widths", "dims", "training"), all_pairs([(6, 6), (7, 4), (2, 9)], [2, 3], [True, False]))
def test_the_attention_gate_equals_monais_after_copying_the_weights(
    widths: tuple[int, int], dims: int, training: bool
) -> None:
    channels, c_gate = widths
    ours = randomised(AttentionGate(AttentionContext(channels, STRIDES[dims], c_gate, 1, "batch"))).train(training)
    theirs = AttentionBlock(dims, f_int=channels // 2, f_g=c_gate, f_l=channels).double().train(training)
    # Both list W_g, W_x, psi, each with its convolution and then its normalisation.
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x, gate = image(channels, SIZES[dims]), image(c_gate, SIZES[dims])
    torch.testing.assert_close(ours(x, gate), theirs(g=gate, x=x), rtol=0, atol=1e-6)
    for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other)  # the statistics of the batch as well


def test_attention_gates_cost_what_they_add_to_the_published_u_net() -> None:
    """AttU_Net 34,878,573 and U_Net 34,527,041 (SPACE 2.2) differ by the gates of 64 to 512 channels alone."""
    gates = [
        ATTENTIONS["attention-gate"].n_parameters(AttentionContext(c, (2, 2), c, 2 * c)) for c in (64, 128, 256, 512)
    ]
    assert sum(gates) == 34_878_573 - 34_527_041


def test_the_attention_gate_of_one_channel_still_compares_something() -> None:
    assert [gate_width(channels) for channels in (1, 2, 3, 64)] == [1, 1, 1, 32]


# The attention gate on the coarse grid


def batch_normed(x: Array, norm: nn.Module) -> Array:
    """By the statistics of the batch: x[b,c,*size]."""
    axes = (0, *range(2, x.ndim))
    normed = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    scale, shift = (norm.get_parameter(name).detach().numpy() for name in ("weight", "bias"))
    return np.moveaxis(np.moveaxis(normed, 1, -1) * scale + shift, -1, 1)


def mixed(layer: nn.Conv2d | nn.Conv3d, x: Array) -> Array:
    """A 1x1 convolution, as a matrix on the channels of every voxel."""
    assert layer.bias is not None
    weight, bias = layer.weight.detach().numpy().reshape(layer.out_channels, -1), layer.bias.detach().numpy()
    return np.moveaxis(np.moveaxis(x, 1, -1) @ weight.T + bias, -1, 1)


def looped_cells(kernel: Array, x: Array, stride: tuple[int, ...], coarse: tuple[int, ...]) -> Array:
    """theta x: the weighted sum of every cell, of x repeated or cut off at its end to a whole number of cells."""
    padding = [(0, max(0, n * s - size)) for n, s, size in zip(coarse, stride, x.shape[2:], strict=True)]
    x = np.pad(x, [(0, 0), (0, 0), *padding], mode="edge")
    out = np.empty((len(x), len(kernel), *coarse))
    for site in np.ndindex(*coarse):
        cell = x[(slice(None), slice(None), *(slice(i * s, (i + 1) * s) for i, s in zip(site, stride, strict=True)))]
        out[(slice(None), slice(None), *site)] = cell.reshape(len(x), -1) @ kernel.reshape(len(kernel), -1).T
    return out


@pytest.mark.parametrize(
    ("size", "stride", "coarse"),
    [
        ((6, 8), (2, 2), (3, 4)),
        ((5, 7), (2, 3), (3, 3)),  # rounded up, as by strided convolutions
        ((5, 7), (2, 3), (2, 2)),  # rounded down, as by pooling
        ((3, 4, 5), (1, 2, 2), (3, 2, 3)),
        ((3, 4, 5), (1, 2, 2), (3, 2, 2)),
        ((1, 3, 2), (2, 2, 2), (1, 2, 1)),
    ],
)
def test_the_grid_gate_equals_its_equations(
    size: tuple[int, ...], stride: tuple[int, ...], coarse: tuple[int, ...]
) -> None:
    module = randomised(GridAttentionGate(AttentionContext(3, stride, 3, 4, "batch")))
    x, gate = image(3, size), image(4, coarse)
    theta = looped_cells(module.theta.weight.detach().numpy(), x.numpy(), stride, coarse)
    alpha = 1 / (1 + np.exp(-mixed(module.psi, np.maximum(0, theta + mixed(module.phi, gate.numpy())))))
    mode = "bilinear" if len(size) == 2 else "trilinear"
    fine = F.interpolate(torch.from_numpy(alpha), size=size, mode=mode).numpy()
    y = batch_normed(mixed(module.w, fine * x.numpy()), module.norm_w)
    y = np.maximum(0, batch_normed(mixed(module.combine, y), module.norm_combine))
    torch.testing.assert_close(module(x, gate), torch.from_numpy(y))


def test_the_grid_gates_cost_what_they_add_to_the_authors_network() -> None:
    """unet_CT_single_att_dsv_3D has 6,213,356 parameters, 5,887,209 without gates (SPACE 2.2): 326,147 fewer.

    Gates of 32, 64 and 128 channels, and one 1x1 convolution with bias and normalisation on the bottleneck of 256,
    which is no part of a gate.
    """
    spec = ATTENTIONS["attention-gate-grid"]
    gates = [spec.n_parameters(AttentionContext(c, (2, 2, 2), c, 2 * c)) for c in (32, 64, 128)]
    gating_signal = 256 * 256 + 256 + 2 * 256
    assert sum(gates) + gating_signal == 6_213_356 - 5_887_209 == 326_147


@pytest.mark.parametrize("dims", [2, 3])
def test_the_grid_gates_alpha_starts_open(dims: int) -> None:
    module, given = built("attention-gate-grid", 24, dims), maps(24, dims)
    logits: list[Tensor] = []
    module.get_submodule("psi").register_forward_hook(lambda module, inputs, output: logits.append(output))
    module(given.x, given.coarse)
    assert logits[0].shape == (2, 1, *COARSE[dims])
    assert torch.sigmoid(logits[0]).min() > 0.75


# Channel cross attention


@pytest.mark.parametrize("dims", [2, 3])
def test_channel_cross_attention_equals_its_equations(dims: int) -> None:
    module = randomised(ChannelCrossAttention(AttentionContext(4, STRIDES[dims], 3, 1)))
    x, gate = image(4, SIZES[dims]), image(3, SIZES[dims])
    expected = x.numpy().copy()
    for b in range(len(expected)):
        from_x, from_gate = [float(plane.mean()) for plane in x[b]], [float(plane.mean()) for plane in gate[b]]
        for c in range(4):
            logit = module.from_x.bias[c].item() + module.from_gate.bias[c].item()
            logit += sum(module.from_x.weight[c, i].item() * value for i, value in enumerate(from_x))
            logit += sum(module.from_gate.weight[c, i].item() * value for i, value in enumerate(from_gate))
            expected[b, c] = np.maximum(0, expected[b, c] / (1 + np.exp(-logit / 2)))
    torch.testing.assert_close(module(x, gate), torch.from_numpy(expected))


def test_channel_cross_attention_has_the_parameters_of_uctransnet() -> None:
    """698,240 in its four modules of 64 to 512 channels (SPACE 1.1)."""
    modules = [ATTENTIONS["cca"].n_parameters(AttentionContext(c, (2, 2), c, 2 * c)) for c in (64, 128, 256, 512)]
    assert sum(modules) == 698_240


@pytest.mark.parametrize("dims", [2, 3])
def test_channel_cross_attention_starts_near_the_rectified_source(dims: int) -> None:
    given = maps(24, dims)
    rectified = given.x.clamp(min=0)
    y = built("cca", 24, dims)(given.x, given.upsampled)
    assert ((y > 0) == (rectified > 0)).all()
    gain = y[rectified > 0] / rectified[rectified > 0]
    assert gain.min() > 0.75
    assert gain.max() < 1


# Gates in a network


def two_levels(dims: Literal[2, 3], attention: str, *, channels: int = 4) -> Architecture:
    node = DecoderNode(decoder(0), encoder(1), (encoder(0),), Attention.parse(attention))
    return Architecture(isotropic_backbone(dims, n_levels=2, base_width=channels), Genome((node,)))


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("dims", [2, 3])
def test_the_gate_is_the_map_that_the_spec_names(name: str, dims: Literal[2, 3]) -> None:
    network = build(two_levels(dims, f"{name}@source"))
    seen: dict[str, tuple[Tensor, ...]] = {}
    node = network.get_submodule("decoder.D0")
    for part in ("sources.E0.attention", "fusion", "upsampler"):
        node.get_submodule(part).register_forward_hook(
            lambda module, inputs, output, part=part: seen.update({part: inputs})
        )
    network(torch.randn(1, 1, *(9,) * dims, generator=torch.Generator().manual_seed(0)))
    _, gate = seen["sources.E0.attention"]
    fused = seen["fusion"][0]
    expected = {"upsampled": fused[-1], "coarse": seen["upsampler"][0]}[ATTENTIONS[name].gate or ""]
    assert gate is expected


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("dims", [2, 3])
def test_the_output_depends_on_the_gate_and_so_do_the_gradients(name: str, dims: int) -> None:
    module, given = randomised(built(name, 6, dims)), maps(6, dims, dtype=torch.float64)
    gate = getattr(given, ATTENTIONS[name].gate or "").requires_grad_()
    y = module(given.x, gate)
    assert not torch.allclose(y, module(given.x, gate.detach().flip(0)))
    y.square().sum().backward()
    assert gate.grad.abs().max() > 0


@pytest.mark.parametrize("name", GATED)
def test_gated_attention_elsewhere_than_on_sources_is_a_fault_that_names_the_place(name: str) -> None:
    assert not faults(two_levels(2, f"{name}@source"))
    for placement in ("fused", "block"):
        assert [str(fault) for fault in faults(two_levels(2, f"{name}@{placement}"))] == [
            f"genome.nodes[0].attention: {name} can be placed at source only, got {placement!r}"
        ]


def test_the_schema_lists_exactly_the_pairs_that_are_no_fault() -> None:
    node = schema()["properties"]["genome"]["properties"]["nodes"]["items"]
    everything = ["none", *(f"{name}@{place}" for name in ATTENTIONS if name != "none" for place in PLACEMENTS)]
    valid = [pair for pair in everything if not faults(two_levels(2, pair))]
    assert node["properties"]["attention"]["enum"] == valid
    assert len(valid) == 1 + 3 * (len(ATTENTIONS) - 1 - len(GATED)) + len(GATED)


def test_specs_with_a_gate_are_placed_on_sources_and_all_others_everywhere() -> None:
    for name, spec in ATTENTIONS.items():
        expected = () if name == "none" else PLACEMENTS if spec.gate is None else ("source",)
        assert spec.placements == expected


@pytest.mark.parametrize("dims", [2, 3])
def test_the_grid_gate_prices_sampling_at_one_map(dims: int) -> None:
    """By hand: alpha is read at every voxel by 2^d neighbours; comparing adds at coarse voxels, gating at fine ones."""
    fine, coarse = prod(SIZES[dims]), prod(COARSE[dims])
    spec = ATTENTIONS["attention-gate-grid"]
    assert spec.other_macs(context(8, dims), SIZES[dims], COARSE[dims]) == 8 * coarse + (2**dims + 8) * fine
    flat = replace(context(8, dims), stride=(1,) * dims)
    assert spec.n_parameters(context(8, dims)) - spec.n_parameters(flat) == (prod(STRIDES[dims]) - 1) * 8 * 8
