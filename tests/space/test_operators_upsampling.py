"""Upsamplers with fixed places against closed forms, torch, MONAI and naive loops."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attention_maps import context
from monai.networks.blocks.upsample import SubpixelUpsample, UpSample
from monai.networks.utils import icnr_init, pixelshuffle
from narrowing import there
from numpy.typing import NDArray
from operator_samples import STRIDES, convolved, enlarged, image, randomised, some_map, through
from torch import nn

from unetx_space import Architecture, DecoderNode, Genome, build, decoder, encoder, isotropic_backbone
from unetx_space.initial_values import initialise
from unetx_space.operators.attention import ECA, SqueezeExcite
from unetx_space.operators.catalogue import ATTENTIONS, UPSAMPLERS, AttentionContext
from unetx_space.operators.catalogue.upsampling import overlapping_kernel
from unetx_space.operators.nd import interpolate
from unetx_space.operators.upsampling import (
    LinearConvUpsampling,
    LinearUpsampling,
    NearestConvUpsampling,
    NearestUpsampling,
    OverlappingTransposedUpsampling,
    PixelShuffleECA,
    PixelShuffleUpsampling,
    TransposedSE,
    TransposedUpsampling,
    crop_or_pad,
    pixel_shuffle,
)

GATED = {"transposed-se": ("transposed", "se"), "pixel-shuffle-eca": ("pixel-shuffle", "eca")}


@pytest.mark.parametrize("stride", STRIDES)
def test_linear_equals_interpolating_first_and_convolving_afterwards(stride: tuple[int, ...]) -> None:
    """SPACE equivalence E1: 1x1 convolution, bias included, and linear interpolation commute."""
    module = randomised(LinearUpsampling(4, 3, stride))
    x = some_map(4, stride)
    torch.testing.assert_close(module(x), through(module.projection, enlarged(x, stride)))


def test_linear_interpolation_is_worked_by_hand() -> None:
    x = torch.tensor([[[[0.0, 4.0]]]])  # fine centres at -1/4, 1/4, 3/4, 5/4: the border value, 1, 3, the border value
    torch.testing.assert_close(interpolate(x, (1, 4)), torch.tensor([[[[0.0, 1.0, 3.0, 4.0]]]]))


@pytest.mark.parametrize("stride", STRIDES)
def test_transposed_equals_a_1x1_convolution_and_a_shuffle(stride: tuple[int, ...]) -> None:
    """SPACE equivalence E2; the voxels of a cell share the bias."""
    module = randomised(TransposedUpsampling(4, 3, stride))
    weight = module.transposed.weight  # [c_in, c_out, *stride]
    pointwise = weight.flatten(2).permute(1, 2, 0).reshape(3 * prod(stride), 4, *(1,) * len(stride))
    x = some_map(4, stride)
    expected = pixel_shuffle(
        convolved(x, pointwise, there(module.transposed.bias).repeat_interleave(prod(stride))), stride
    )
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_pixel_shuffle_equals_monai(dims: int) -> None:
    x = image(3 * 2**dims, (3, 2, 4)[:dims])
    assert torch.equal(pixel_shuffle(x, (2,) * dims), pixelshuffle(x, dims, 2))


def test_pixel_shuffle_with_unequal_strides_is_worked_by_hand() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1)  # one cell of 2 x 3 voxels in array order
    assert torch.equal(pixel_shuffle(x, (2, 3)), torch.tensor([[[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]]))


@pytest.mark.parametrize("stride", STRIDES)
def test_pixel_shuffle_starts_as_a_convolution_followed_by_nearest_interpolation(stride: tuple[int, ...]) -> None:
    module = PixelShuffleUpsampling(4, 3, stride)
    initialise(module, seed=1)
    x = some_map(4, stride, torch.float32)
    coarse = convolved(x, module.conv.weight[:: prod(stride)])
    torch.testing.assert_close(module(x), enlarged(coarse, stride, "nearest"))


def test_crop_or_pad_crops_long_axes_and_repeats_the_border_of_short_ones() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    expected = torch.tensor([[[[1.0, 2.0], [4.0, 5.0], [4.0, 5.0], [4.0, 5.0]]]])
    assert torch.equal(crop_or_pad(x, (4, 2)), expected)
    assert crop_or_pad(x, (2, 3)) is x
    assert crop_or_pad(torch.zeros(1, 1, 1, 4, 2, dtype=torch.bfloat16), (3, 3, 3)).shape == (1, 1, 3, 3, 3)


# Resize-convolutions


@pytest.mark.parametrize("stride", STRIDES)
def test_nearest_equals_interpolating_first_and_convolving_afterwards(stride: tuple[int, ...]) -> None:
    """SPACE equivalence E1 for nearest interpolation."""
    module, x = randomised(NearestUpsampling(4, 3, stride)), some_map(4, stride)
    torch.testing.assert_close(module(x), through(module.projection, enlarged(x, stride, "nearest")))


@pytest.mark.parametrize("dims", [2, 3])
def test_nearest_equals_monais_upsample(dims: int) -> None:
    ours = randomised(NearestUpsampling(4, 3, (2,) * dims))
    theirs = UpSample(
        dims, 4, 3, scale_factor=2, mode="nontrainable", interp_mode="nearest", align_corners=None
    ).double()
    convolution = theirs.get_submodule("preconv")
    convolution.load_state_dict(ours.projection.state_dict())
    x = some_map(4, (2,) * dims)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("stride", STRIDES)
def test_resize_convolutions_interpolate_then_convolve(stride: tuple[int, ...]) -> None:
    x = some_map(4, stride)
    nearest, linear = randomised(NearestConvUpsampling(4, 3, stride)), randomised(LinearConvUpsampling(4, 3, stride))
    torch.testing.assert_close(nearest(x), through(nearest.conv, enlarged(x, stride, "nearest")))
    torch.testing.assert_close(linear(x), through(linear.conv, enlarged(x, stride)))


@pytest.mark.parametrize("dims", [2, 3])
def test_nearest_then_3_wide_convolution_is_a_special_4_wide_transposed_convolution(dims: int) -> None:
    """Along an axis, fine voxel 2i reads coarse i-1 with w0 and i with w1 + w2, voxel 2i+1 i with w0 + w1, i+1 with w2.

    A transposed kernel lists these by distance from the coarse voxel: w2, w1 + w2, w0 + w1, w0.
    """
    resize = randomised(NearestConvUpsampling(3, 2, (2,) * dims))
    transposed = randomised(OverlappingTransposedUpsampling(3, 2, (2,) * dims))
    to_transposed = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)
    weight = resize.conv.weight
    for axis in range(2, 2 + dims):
        weight = torch.tensordot(weight, to_transposed, dims=([axis], [1])).movedim(-1, axis)
    with torch.no_grad():
        transposed.transposed.weight.copy_(weight.transpose(0, 1))
        assert resize.conv.bias is not None
        there(transposed.transposed.bias).copy_(resize.conv.bias)
    x = some_map(3, (2,) * dims)
    torch.testing.assert_close(transposed(x), resize(x))


# Transposed convolution with kernel = twice the stride


def scattered(x: NDArray[np.float64], weight: NDArray[np.float64], stride: tuple[int, ...]) -> NDArray[np.float64]:
    """Every coarse voxel adds its kernel around its cell: ``x[c, *coarse]``, ``weight[c, c', *kernel]``."""
    out = np.zeros((weight.shape[1], *(n * s for n, s in zip(x.shape[1:], stride, strict=True))))
    for coarse in np.ndindex(*x.shape[1:]):
        for tap in np.ndindex(*weight.shape[2:]):
            at = tuple(i * s + k - (s + 1) // 2 if s > 1 else i for i, s, k in zip(coarse, stride, tap, strict=True))
            if all(0 <= a < n for a, n in zip(at, out.shape[1:], strict=True)):
                out[(slice(None), *at)] += x[(slice(None), *coarse)] @ weight[(slice(None), slice(None), *tap)]
    return out


@pytest.mark.parametrize("stride", STRIDES)
def test_overlapping_transposed_equals_a_naive_loop(stride: tuple[int, ...]) -> None:
    module, x = randomised(OverlappingTransposedUpsampling(3, 2, stride)), some_map(3, stride)
    layer = module.transposed
    weight, bias = layer.weight.detach().numpy(), there(layer.bias).detach().numpy()
    expected = np.stack([scattered(one, weight, stride) for one in x.numpy()])
    expected += bias.reshape(-1, *(1,) * len(stride))
    torch.testing.assert_close(module(x), torch.from_numpy(expected))


def test_for_strides_of_two_it_is_the_kernel_4_stride_2_padding_1_of_the_literature() -> None:
    module, x = randomised(OverlappingTransposedUpsampling(3, 2, (2, 2))), some_map(3, (2, 2))
    layer = module.transposed
    expected = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("stride", STRIDES)
def test_overlap_is_even_so_that_a_constant_map_shows_no_checkerboard(stride: tuple[int, ...]) -> None:
    module = OverlappingTransposedUpsampling(1, 1, stride).double()
    with torch.no_grad():
        module.transposed.weight.fill_(1)
    y = module(torch.ones(1, 1, *[5] * len(stride), dtype=torch.float64))
    for axis, s in enumerate(stride, 2):
        y = y.narrow(axis, s, 3 * s)  # the border reads fewer voxels
    assert y.min() == y.max()


@pytest.mark.parametrize("stride", STRIDES)
def test_overlapping_weights_start_with_the_variance_of_kaiming(stride: tuple[int, ...]) -> None:
    """Every fine voxel reads two coarse ones along each enlarged axis, so the fan-in is c_in * 2^(enlarged axes)."""
    module = OverlappingTransposedUpsampling(64, 64, stride)
    initialise(module, seed=1)
    fan_in = 64 * 2 ** sum(s > 1 for s in stride)
    assert module.transposed.weight.std().item() == pytest.approx((2 / 1.0001 / fan_in) ** 0.5, rel=0.02)


def test_kernels_are_twice_the_stride_where_an_axis_is_enlarged() -> None:
    assert overlapping_kernel((2, 1, 3)) == (4, 1, 6)
    assert UPSAMPLERS["transposed-k4"].n_parameters(64, 32, (2, 2)) == 32_800  # SPACE 1.2
    assert UPSAMPLERS["transposed-k4"].n_parameters(64, 32, (2, 2, 2)) == 131_104


# Pixel shuffle against MONAI


@pytest.mark.parametrize("dims", [2, 3])
def test_pixel_shuffle_equals_monais_subpixel_upsample(dims: int) -> None:
    ours = randomised(PixelShuffleUpsampling(4, 3, (2,) * dims))
    theirs = SubpixelUpsample(dims, 4, 3, scale_factor=2, apply_pad_pool=False).double()
    theirs.get_submodule("conv_block").load_state_dict(ours.conv.state_dict())
    x = some_map(4, (2,) * dims)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("dims", [2, 3])
def test_icnr_equals_monais_in_giving_all_voxels_of_a_cell_one_kernel(dims: int) -> None:
    theirs = (nn.Conv2d if dims == 2 else nn.Conv3d)(4, 3 * 2**dims, 3, padding=1)
    torch.manual_seed(0)
    icnr_init(theirs, 2)  # type: ignore[no-untyped-call]
    ours = PixelShuffleUpsampling(4, 3, (2,) * dims)
    initialise(ours, seed=1)
    for weight in (theirs.weight, ours.conv.weight):
        cells = weight.view(3, 2**dims, *weight.shape[1:])
        assert torch.equal(cells, cells[:, :1].expand_as(cells))
        assert not torch.equal(cells[0], cells[1])
    x = some_map(4, (2,) * dims, torch.float32)
    y = pixel_shuffle((F.conv2d if dims == 2 else F.conv3d)(x, theirs.weight, padding=1), (2,) * dims)
    coarse = (F.conv2d if dims == 2 else F.conv3d)(x, theirs.weight[:: 2**dims], padding=1)
    torch.testing.assert_close(y, enlarged(coarse, (2,) * dims, "nearest"))


# Learnable upsampling followed by attention


@pytest.mark.parametrize("stride", STRIDES)
def test_gated_upsampling_is_the_upsampler_and_then_the_gate(stride: tuple[int, ...]) -> None:
    x = some_map(5, stride)
    first, second = randomised(TransposedSE(5, 6, stride)), randomised(PixelShuffleECA(5, 6, stride))
    for whole, plain, gate in (
        (first, TransposedUpsampling(5, 6, stride).double(), SqueezeExcite(context(6, len(stride))).double()),
        (second, PixelShuffleUpsampling(5, 6, stride).double(), ECA(context(6, len(stride))).double()),
    ):
        weights = whole.state_dict()
        plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
        prefix = next(name for name, child in whole.named_children() if type(child) is type(gate))
        gate.load_state_dict({name: weights[f"{prefix}.{name}"] for name in gate.state_dict()})
        torch.testing.assert_close(whole(x), gate(plain(x)))


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(8, 4, (2, 2)), (64, 96, (1, 2)), (7, 1, (2, 3, 1))])
def test_gated_upsampling_costs_the_sum_of_its_parts(name: str, c_in: int, c_out: int, stride: tuple[int, ...]) -> None:
    whole, plain, gate = UPSAMPLERS[name], UPSAMPLERS[GATED[name][0]], ATTENTIONS[GATED[name][1]]
    at = AttentionContext(channels=c_out, stride=stride, c_upsampled=c_out, c_coarse=c_in)
    coarse = (3, 5, 2)[: len(stride)]
    fine, sites = tuple(n * s for n, s in zip(coarse, stride, strict=True)), prod(coarse)
    assert whole.name == name
    assert whole.n_parameters(c_in, c_out, stride) == plain.n_parameters(c_in, c_out, stride) + gate.n_parameters(at)
    assert whole.conv_macs(c_in, c_out, stride, sites) == plain.conv_macs(c_in, c_out, stride, sites) + gate.conv_macs(
        at, fine, coarse
    )
    assert whole.other_macs(c_in, c_out, stride, sites) == plain.other_macs(
        c_in, c_out, stride, sites
    ) + gate.other_macs(at, fine, coarse)


@pytest.mark.parametrize("name", GATED)
def test_gated_upsampling_shares_names_and_initial_values_with_the_upsampler_alone(name: str) -> None:
    node = DecoderNode(decoder(0), encoder(1), (encoder(0),), upsampler=name)
    whole = Architecture(isotropic_backbone(2, n_levels=2, base_width=8), Genome((node,)))
    plain = replace(whole, genome=Genome((replace(node, upsampler=GATED[name][0]),)))
    ours, theirs = build(whole).state_dict(), build(plain).state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert {key.split(".")[3] for key in ours.keys() - theirs.keys()} == {GATED[name][1]}


def test_pixel_shuffle_with_eca_starts_as_pixel_shuffle() -> None:
    whole, plain = PixelShuffleECA(5, 6, (2, 2)), PixelShuffleUpsampling(5, 6, (2, 2))
    for module in (whole, plain):
        initialise(module, seed=1)
    x = some_map(5, (2, 2), torch.float32)
    torch.testing.assert_close(whole(x), plain(x))
