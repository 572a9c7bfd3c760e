"""Alignment, fusion and blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unetx_space.backbone import DOWNSAMPLINGS, NORMS, Backbone, Norm
from unetx_space.network import ALIGNMENT_MODULES
from unetx_space.operators.alignment import AverageAlignment, MaxAlignment, Source
from unetx_space.operators.blocks import NORMS as NORM_MODULES
from unetx_space.operators.blocks import DoubleConv, group_count
from unetx_space.operators.catalogue import ALIGNMENTS
from unetx_space.operators.fusion import Concat, Sum
from unetx_space.operators.nd import conv


def test_a_cut_off_cell_is_pooled_over_the_voxels_it_has() -> None:
    x = torch.tensor([[[[1.0, 2.0, 8.0], [3.0, 4.0, 6.0], [5.0, 9.0, 7.0]]]])
    assert torch.equal(MaxAlignment(1, (2, 2), True)(x), torch.tensor([[[[4.0, 8.0], [9.0, 7.0]]]]))
    assert torch.equal(AverageAlignment(1, (2, 2), True)(x), torch.tensor([[[[2.5, 7.0], [7.0, 7.0]]]]))
    assert torch.equal(AverageAlignment(1, (2, 2), False)(x), torch.tensor([[[[2.5]]]]))


@pytest.mark.parametrize("name", ALIGNMENTS)
@pytest.mark.parametrize("downsampling", DOWNSAMPLINGS)
def test_alignment_reaches_the_size_of_every_level_from_every_finer_one(name: str, downsampling: str) -> None:
    backbone = Backbone(3, 1, 2, (1,) * 4, ((1, 1, 1), (1, 2, 3), (2, 2, 2), (2, 1, 4)), downsampling=downsampling)  # type: ignore[arg-type]
    ceil = downsampling == "strided-conv"
    for patch in [(4, 4, 24), (5, 7, 31), (9, 10, 25), (17, 4, 47)]:
        sizes = backbone.sizes(patch)
        for fine, coarse in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]:
            module = ALIGNMENT_MODULES[name](1, backbone.factor(fine, coarse), ceil)
            assert module(torch.zeros(1, 1, *sizes[fine])).shape[2:] == sizes[coarse]


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_of_a_map_smaller_than_its_cell_leaves_one_voxel(name: str) -> None:
    assert ALIGNMENT_MODULES[name](2, (16, 4), True)(torch.ones(1, 2, 3, 4)).tolist() == [[[[1.0]], [[1.0]]]]


def test_a_coarser_source_is_interpolated_to_the_exact_size() -> None:
    source = Source(nn.Identity(), conv(2, 3, 5, 1, bias=False), nn.Identity())
    assert source(torch.zeros(2, 3, 4, 3), (9, 11)).shape == (2, 5, 9, 11)


def test_fusions_are_concatenation_and_sum() -> None:
    maps = [torch.full((1, 2, 2, 2), float(n)) for n in (1, 2, 4)]
    assert torch.equal(Concat(3, 6)(maps)[0, :, 0, 0], torch.tensor([1.0, 1.0, 2.0, 2.0, 4.0, 4.0]))
    assert torch.equal(Sum(3, 2)(maps), torch.full((1, 2, 2, 2), 7.0))


def test_concat_and_a_1x1_convolution_equal_the_sum_of_projections() -> None:
    """SPACE equivalence E4, why neither is an operator of its own here."""
    torch.manual_seed(0)
    a, b, weight = torch.randn(1, 3, 4, 5), torch.randn(1, 2, 4, 5), torch.randn(6, 5, 1, 1)
    whole = nn.functional.conv2d(Concat(2, 5)([a, b]), weight)
    parts = [nn.functional.conv2d(a, weight[:, :3]), nn.functional.conv2d(b, weight[:, 3:])]
    torch.testing.assert_close(Sum(2, 6)(parts), whole)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (6, 6), (7, 7), (8, 8), (11, 1), (12, 6), (32, 8), (90, 6)])
def test_group_count_is_the_largest_divisor_up_to_eight(channels: int, groups: int) -> None:
    assert group_count(channels) == groups


def test_there_is_a_module_for_every_norm() -> None:
    assert set(NORM_MODULES) == set(NORMS)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("pool", "expected"), [(False, (4, 4, 3)), (True, (3, 4, 2))])
def test_a_strided_block_rounds_up_and_a_pooling_one_down(norm: Norm, pool: bool, expected: tuple[int, ...]) -> None:
    block = DoubleConv(3, 6, (2, 1, 3), norm, pool=pool)
    assert block(torch.randn(2, 3, 7, 4, 8)).shape == (2, 6, *expected)


@pytest.mark.parametrize("pool", [False, True])
def test_the_block_is_conv_norm_activation_twice(pool: bool) -> None:
    torch.manual_seed(0)
    block = DoubleConv(2, 3, (2, 2), "instance", pool=pool)
    x = torch.randn(1, 2, 8, 8)
    y = nn.functional.max_pool2d(x, 2) if pool else x
    for weight, stride in ((block.conv1.weight, 1 if pool else 2), (block.conv2.weight, 1)):
        y = nn.functional.conv2d(y, weight, stride=stride, padding=1)
        variance, mean = torch.var_mean(y, (2, 3), correction=0, keepdim=True)
        y = (y - mean) / (variance + 1e-5).sqrt()
        y = torch.where(y > 0, y, 0.01 * y)
    torch.testing.assert_close(block(x), y)
