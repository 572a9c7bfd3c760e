"""Alignment of sources of another level."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from operator_samples import image, randomised
from torch import Tensor, nn

from unetx_space import Backbone
from unetx_space.backbone import DOWNSAMPLINGS, Downsampling
from unetx_space.network import module_of
from unetx_space.operators.alignment import (
    AverageAlignment,
    MaxAlignment,
    SourceModule,
    SpaceToDepthAlignment,
    StridedConvAlignment,
    pixel_unshuffle,
    whole_cells,
)
from unetx_space.operators.catalogue import ALIGNMENTS
from unetx_space.operators.catalogue.alignment import folded_width, stride_steps
from unetx_space.operators.nd import conv
from unetx_space.operators.upsampling import pixel_shuffle

FACTORS = [(2, 2), (1, 4), (3, 2), (6, 8), (2, 2, 2), (1, 2, 4), (3, 1, 2)]
SIZES = {2: (13, 17), 3: (7, 9, 10)}
Array = NDArray[np.float64]


def target_of(size: tuple[int, ...], factor: tuple[int, ...], ceil: bool) -> tuple[int, ...]:
    return tuple(-(-n // f) if ceil else n // f for n, f in zip(size, factor, strict=True))


def test_a_cut_off_cell_is_pooled_over_the_voxels_it_has() -> None:
    x = torch.tensor([[[[1.0, 2.0, 8.0], [3.0, 4.0, 6.0], [5.0, 9.0, 7.0]]]])
    assert torch.equal(MaxAlignment(1, (2, 2), True)(x), torch.tensor([[[[4.0, 8.0], [9.0, 7.0]]]]))
    assert torch.equal(AverageAlignment(1, (2, 2), True)(x), torch.tensor([[[[2.5, 7.0], [7.0, 7.0]]]]))
    assert torch.equal(AverageAlignment(1, (2, 2), False)(x), torch.tensor([[[[2.5]]]]))


@pytest.mark.parametrize("name", ALIGNMENTS)
@pytest.mark.parametrize("downsampling", DOWNSAMPLINGS)
def test_alignment_reaches_the_size_of_every_level_from_every_finer_one(name: str, downsampling: Downsampling) -> None:
    strides = ((1, 1, 1), (1, 2, 3), (2, 2, 2), (2, 1, 4))
    backbone = Backbone(3, 1, 2, (1,) * 4, strides, downsampling=downsampling)
    ceil = downsampling == "strided-conv"
    for patch in [(4, 4, 24), (5, 7, 31), (9, 10, 25), (17, 4, 47)]:
        sizes = backbone.sizes(patch)
        for fine, coarse in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]:
            module = module_of(ALIGNMENTS[name])(1, backbone.factor(fine, coarse), ceil)
            assert module(torch.zeros(1, 1, *sizes[fine])).shape[2:] == sizes[coarse]


def test_a_coarser_source_is_interpolated_to_the_exact_size() -> None:
    source = SourceModule(nn.Identity(), conv(2, 3, 5, 1, bias=False), nn.Identity())
    assert source(torch.zeros(2, 3, 4, 3), (9, 11), {}).shape == (2, 5, 9, 11)


def test_whole_cells_continue_the_border_where_sizes_round_up_and_crop_where_they_round_down() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0, 5.0]]]])
    assert whole_cells(x, (1, 4), True).tolist() == [[[[1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0, 5.0]]]]
    assert whole_cells(x, (1, 4), False).tolist() == [[[[1.0, 2.0, 3.0, 4.0]]]]
    assert whole_cells(x, (1, 5), True) is x


# Strided convolutions


def test_a_factor_is_taken_in_steps_of_two_and_three() -> None:
    assert stride_steps((2, 2)) == ((2, 2),)
    assert stride_steps((4, 1, 6)) == ((2, 1, 3), (2, 1, 2))
    assert stride_steps((8, 2, 1)) == ((2, 2, 1), (2, 1, 1), (2, 1, 1))


def test_steps_multiply_to_their_factor() -> None:
    for factor in [(a, b) for a in range(1, 17) for b in (1, 2, 3, 4, 12)][1:]:
        steps = stride_steps(factor)
        assert tuple(map(prod, zip(*steps, strict=True))) == factor
        assert all(max(step) > 1 for step in steps)


def strided(x: Array, weight: Array, stride: tuple[int, ...]) -> Array:
    """Kernels of edge 3 around the first voxel of every cell, zero outside: ``x[c, *size]``, size a multiple of it."""
    out = np.zeros((len(weight), *(n // s for n, s in zip(x.shape[1:], stride, strict=True))))
    for at in np.ndindex(*out.shape[1:]):
        for tap in np.ndindex(*weight.shape[2:]):
            site = tuple(i * s + k - 1 for i, s, k in zip(at, stride, tap, strict=True))
            if all(0 <= a < n for a, n in zip(site, x.shape[1:], strict=True)):
                out[(slice(None), *at)] += weight[(slice(None), slice(None), *tap)] @ x[(slice(None), *site)]
    return out


@pytest.mark.parametrize(
    ("factor", "steps", "size"),
    [
        ((2, 2), [(2, 2)], (5, 4)),
        ((4, 1), [(2, 1), (2, 1)], (9, 3)),
        ((6, 2), [(3, 2), (2, 1)], (13, 5)),
        ((1, 2, 4), [(1, 2, 2), (1, 1, 2)], (2, 3, 6)),
    ],
)
@pytest.mark.parametrize("ceil", [True, False])
def test_strided_convolutions_equal_a_naive_loop(
    factor: tuple[int, ...], steps: list[tuple[int, ...]], size: tuple[int, ...], ceil: bool
) -> None:
    module, x = randomised(StridedConvAlignment(2, factor, ceil)), image(2, size, batch=1)
    target = target_of(size, factor, ceil)
    want = [n * f for n, f in zip(target, factor, strict=True)]
    if ceil:
        padding = [(0, 0), *((0, w - n) for w, n in zip(want, size, strict=True))]
        expected = np.pad(x.numpy()[0], padding, mode="edge")
    else:
        expected = x.numpy()[0][(slice(None), *[slice(w) for w in want])]
    for i, step in enumerate(steps, 1):
        weight = module.get_parameter(f"steps.conv{i}.weight").detach().numpy()
        expected = strided(expected if i == 1 else np.where(expected > 0, expected, 0.01 * expected), weight, step)
    torch.testing.assert_close(module(x)[0], torch.from_numpy(expected))


@pytest.mark.parametrize("size", [(8, 6), (2, 12)])
def test_on_whole_cells_one_step_is_the_strided_convolution_of_the_encoder(size: tuple[int, ...]) -> None:
    module, x = randomised(StridedConvAlignment(3, (2, 2), True)), image(3, size)
    expected = F.conv2d(x, module.get_parameter("steps.conv1.weight"), stride=2, padding=1)
    torch.testing.assert_close(module(x), expected)


# Space to depth


@pytest.mark.parametrize("factor", FACTORS)
def test_pixel_unshuffle_is_the_inverse_of_pixel_shuffle(factor: tuple[int, ...]) -> None:
    x = image(3 * prod(factor), (2, 3, 4)[: len(factor)])
    assert torch.equal(pixel_unshuffle(pixel_shuffle(x, factor), factor), x)


def test_pixel_unshuffle_equals_torchs() -> None:
    x = image(3, (8, 12))
    assert torch.equal(pixel_unshuffle(x, (4, 4)), F.pixel_unshuffle(x, 4))


@pytest.mark.parametrize("factor", [(2, 2), (1, 4), (2, 2, 2), (1, 2, 4), (3, 1, 2)])
def test_space_to_depth_and_a_projection_equal_a_convolution_with_kernel_equal_to_stride(
    factor: tuple[int, ...],
) -> None:
    """SPACE equivalence E3, why the latter is no operator of its own here."""
    dims = len(factor)
    x = image(3, tuple(2 * f for f in factor))
    weight = image(3, factor, batch=5)  # [c_out, c, *factor]
    convolve = F.conv2d if dims == 2 else F.conv3d
    pointwise = weight.reshape(5, -1, *(1,) * dims)
    folded: Tensor = SpaceToDepthAlignment(3, factor, True)(x)
    torch.testing.assert_close(convolve(folded, pointwise), convolve(x, weight, stride=factor))


def test_large_cells_are_narrowed_first_so_that_at_most_2_to_the_d_times_the_channels_come_out() -> None:
    """8 channels in cells of 4 x 4: 8 * 4 / 16 = 2 of them are folded, to 32, which cell of 2 x 2 gives too."""
    spec = ALIGNMENTS["space-to-depth"]
    assert [spec.out_channels(8, factor) for factor in ((2, 2), (4, 1), (4, 4), (8, 2))] == [32] * 4
    assert [spec.n_parameters(8, factor) for factor in ((2, 2), (4, 1), (4, 4), (8, 2))] == [0, 0, 16, 16]
    assert folded_width(32, (4, 4, 4)) == 4  # 64 times the channels would come out
    assert folded_width(1, (4, 4)) == 1  # nothing left to narrow
    module, x = randomised(SpaceToDepthAlignment(8, (4, 4), True)), image(8, (8, 4))
    narrow = F.conv2d(x, module.get_parameter("reduction.weight"))
    torch.testing.assert_close(module(x), F.pixel_unshuffle(narrow, 4))


def test_space_to_depth_of_a_cut_off_cell_repeats_the_border_or_leaves_it_out() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert SpaceToDepthAlignment(1, (1, 2), True)(x).flatten().tolist() == [1.0, 3.0, 2.0, 3.0]
    assert SpaceToDepthAlignment(1, (1, 2), False)(x).flatten().tolist() == [1.0, 2.0]
