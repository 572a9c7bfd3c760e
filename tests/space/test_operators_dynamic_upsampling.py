"""CARAFE, DySample and deformable upsampling against naive loops, closed forms and what the literature counts."""

from __future__ import annotations

import itertools
from math import floor, prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from narrowing import there
from numpy.typing import NDArray
from operator_samples import STRIDES, convolved, enlarged, image, randomised, some_map, through
from torch import Tensor, nn

from unetx_space.initial_values import initialise
from unetx_space.operators import dynamic_upsampling
from unetx_space.operators.catalogue import UPSAMPLERS
from unetx_space.operators.catalogue.upsampling import carafe_kernel_edge, carafe_width, dysample_groups
from unetx_space.operators.deformable_sampling import bag_sampled, grid_sampled
from unetx_space.operators.dynamic_upsampling import (
    CARAFE,
    MOVE_RATE,
    OFFSET_SCALE,
    START_STD,
    DeformableUpsampling,
    DySample,
    reassembled,
)

LOOPED = [((2, 2), (3, 4)), ((1, 3), (4, 1)), ((2, 2), (1, 1)), ((2, 1, 2), (2, 3, 2)), ((2, 2, 2), (1, 2, 3))]
Array = NDArray[np.float64]


def array(x: Tensor) -> Array:
    return x.detach().numpy()


def kept_bytes(module: nn.Module, x: Tensor) -> int:
    """Of all that training keeps of one forward pass."""
    initialise(module, seed=1)
    kept: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.setdefault(tensor.untyped_storage().data_ptr(), tensor), lambda tensor: tensor
    ):
        module(x)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def assert_exact_far_out(module: nn.Module) -> None:
    """bfloat16 has 8 bits: at 300 it steps by 2, so that positions computed in it would miss by a voxel."""
    initialise(module, seed=1)
    x = torch.zeros(1, 1, 1, 320)
    x[..., 301] = 1
    with torch.autocast("cpu", torch.bfloat16):
        half = module(x)
    torch.testing.assert_close(half.float(), module(x), rtol=0.02, atol=0.02)
    assert half.abs().max() > 0.1


def inside(x: Tensor, margin: tuple[int, ...]) -> Tensor:
    """``x`` without ``margin`` voxels on both sides of each axis."""
    for axis, n in enumerate(margin, 2):
        x = x.narrow(axis, n, x.shape[axis] - 2 * n)
    return x


# CARAFE


def looped_carafe(module: CARAFE, x: Tensor) -> Array:
    """Equations 1 to 3 of the paper, fine voxel by fine voxel, for one image ``x[1, c, *coarse]``."""
    stride, edge, dims = module.stride, module.edge, len(module.stride)
    values = array(through(module.projection, x))[0]
    logits = array(through(module.encoder, through(module.compressor, x)))[0]
    size = values.shape[1:]
    out = np.empty((len(values), *(n * s for n, s in zip(size, stride, strict=True))))
    for fine in np.ndindex(*out.shape[1:]):
        coarse = tuple(i // s for i, s in zip(fine, stride, strict=True))
        voxel = np.ravel_multi_index([i % s for i, s in zip(fine, stride, strict=True)], stride)
        weights = np.exp([logits[t * prod(stride) + voxel][coarse] for t in range(edge**dims)])
        total = np.zeros(len(values))
        for weight, tap in zip(weights / weights.sum(), np.ndindex(*(edge,) * dims), strict=True):
            place = [min(max(c + k - edge // 2, 0), n - 1) for c, k, n in zip(coarse, tap, size, strict=True)]
            total += weight * values[(slice(None), *place)]
        out[(slice(None), *fine)] = total
    return out


@pytest.mark.parametrize(("stride", "size"), LOOPED)
def test_carafe_equals_a_naive_loop(stride: tuple[int, ...], size: tuple[int, ...]) -> None:
    module = randomised(CARAFE(3, 2, stride))
    x = image(3, size)
    expected = np.stack([looped_carafe(module, one) for one in torch.split(x, 1)])
    torch.testing.assert_close(module(x), torch.from_numpy(expected))


@pytest.mark.parametrize("stride", STRIDES)
def test_carafe_commutes_with_its_1x1_convolution(stride: tuple[int, ...]) -> None:
    """The paper reassembles first; weights that sum to 1 let the cheaper order be the same function, bias included."""
    module = randomised(CARAFE(4, 3, stride))
    x = some_map(4, stride)
    cells = reassembled(x, module.kernels(x), module.edge)  # [b, c, cell, *coarse]
    last = torch.stack([through(module.projection, voxel) for voxel in cells.unbind(2)], 2)
    torch.testing.assert_close(reassembled(through(module.projection, x), module.kernels(x), module.edge), last)


@pytest.mark.parametrize("stride", STRIDES)
def test_carafe_starts_as_an_average_of_all_neighbours(stride: tuple[int, ...]) -> None:
    module = CARAFE(8, 3, stride)
    initialise(module, seed=1)
    x, edge = some_map(8, stride, torch.float32), module.edge
    padded = F.pad(through(module.projection, x), [edge // 2] * (2 * len(stride)), mode="replicate")
    means = (F.avg_pool2d if len(stride) == 2 else F.avg_pool3d)(padded, edge, 1)
    expected = enlarged(means, stride, "nearest")
    torch.testing.assert_close(module(x), expected, rtol=0, atol=0.03)
    assert (module.kernels(x) * edge ** len(stride) - 1).abs().max() < 0.1


@pytest.mark.parametrize("stride", STRIDES)
def test_carafe_with_all_weight_on_the_centre_is_nearest_interpolation(stride: tuple[int, ...]) -> None:
    module = randomised(CARAFE(4, 3, stride))
    with torch.no_grad():
        module.encoder.weight.zero_()
        by_tap = there(module.encoder.bias).view(module.edge ** len(stride), prod(stride))
        by_tap.fill_(-1e3)
        by_tap[len(by_tap) // 2] = 0
    x = some_map(4, stride)
    expected = enlarged(through(module.projection, x), stride, "nearest")
    torch.testing.assert_close(module(x), expected)


def test_carafe_keeps_the_level_of_a_constant_map_up_to_the_border() -> None:
    module = randomised(CARAFE(2, 2, (2, 2)))
    y = module(torch.ones(1, 2, 4, 5, dtype=torch.float64))
    torch.testing.assert_close(y, y[..., :1, :1].expand_as(y))


def test_carafe_costs_what_the_literature_counts_beside_the_1x1_convolution() -> None:
    """SPACE 1.2: 61,860 parameters and 279 M multiply-adds for C = 64 on 64 x 64, k_up = 5, without a projection."""
    spec, sites = UPSAMPLERS["carafe"], 64 * 64
    assert spec.n_parameters(64, 64, (2, 2)) - 65 * 64 == 61_860
    assert spec.conv_macs(64, 64, (2, 2), sites) - sites * 64 * 64 == 278_921_216


def test_carafe_is_smaller_in_3d() -> None:
    assert [carafe_kernel_edge(dims) for dims in (2, 3)] == [5, 3]
    assert [carafe_width(128, dims) for dims in (2, 3)] == [64, 16]
    assert [carafe_width(5, dims) for dims in (2, 3)] == [5, 5]


def test_carafe_training_keeps_no_copy_of_all_neighbours() -> None:
    """25 of every coarse voxel, float32."""
    x = image(8, (16, 16), batch=1, dtype=torch.float32)
    assert kept_bytes(CARAFE(8, 32, (2, 2)), x) < 25 * 32 * 16 * 16 * 4


# DySample


def read_linearly(plane: Array, at: list[float], *, clamp: bool = True) -> float:
    """``plane`` at a fractional place; outside the border's value with ``clamp``, otherwise 0."""
    total, base = 0.0, [floor(a) for a in at]
    for corner in itertools.product((0, 1), repeat=len(at)):
        site = [b + c for b, c in zip(base, corner, strict=True)]
        weight = prod(1 - abs(a - s) for a, s in zip(at, site, strict=True))
        if clamp:
            site = [min(max(s, 0), n - 1) for s, n in zip(site, plane.shape, strict=True)]
        if all(0 <= s < n for s, n in zip(site, plane.shape, strict=True)):
            total += weight * float(plane[tuple(site)])
    return total


def looped_dysample(module: DySample, x: Tensor) -> Array:
    """Section 3.2 of the paper, fine voxel by fine voxel, for one image ``x[1, c, *coarse]``."""
    stride, dims, groups = module.stride, len(module.stride), module.groups
    values, raw = array(through(module.projection, x))[0], array(through(module.offset, x))[0]
    offsets = OFFSET_SCALE * raw.reshape(groups, dims, prod(stride), *raw.shape[1:])
    out = np.empty((len(values), *(n * s for n, s in zip(values.shape[1:], stride, strict=True))))
    for channel, *fine in np.ndindex(*out.shape):
        coarse = tuple(i // s for i, s in zip(fine, stride, strict=True))
        voxel = np.ravel_multi_index([i % s for i, s in zip(fine, stride, strict=True)], stride)
        group = channel * groups // len(values)
        at = [
            (i + 0.5) / s - 0.5 + offsets[(group, axis, voxel, *coarse)]
            for axis, (i, s) in enumerate(zip(fine, stride, strict=True))
        ]
        out[(channel, *fine)] = read_linearly(values[channel], at)
    return out


@pytest.mark.parametrize(("stride", "size"), LOOPED)
@pytest.mark.parametrize("c_out", [1, 6])
def test_dysample_equals_a_naive_loop(stride: tuple[int, ...], size: tuple[int, ...], c_out: int) -> None:
    module = randomised(DySample(3, c_out, stride), scale=2.0)  # offsets of a voxel or two, across the border too
    x = image(3, size)
    expected = np.stack([looped_dysample(module, one) for one in torch.split(x, 1)])
    torch.testing.assert_close(module(x), torch.from_numpy(expected))


@pytest.mark.parametrize("stride", STRIDES)
def test_dysample_without_offsets_is_linear_interpolation(stride: tuple[int, ...]) -> None:
    module = DySample(4, 8, stride).double()
    initialise(module, seed=1)
    x = some_map(4, stride)
    expected = enlarged(through(module.projection, x), stride)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=0.02)  # so it starts, nearly
    with torch.no_grad():
        module.offset.weight.zero_()
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module.float()(x.float()), expected.float(), rtol=0, atol=5e-6)


def test_dysample_offsets_are_counted_in_coarse_voxels() -> None:
    """A prediction of 4 along the last axis moves every place by 4 * 0.25, one coarse voxel to the right."""
    module = randomised(DySample(2, 4, (2, 2)))
    assert module.offset.bias is not None
    with torch.no_grad():
        module.offset.weight.zero_()
        module.offset.bias.view(4, 2, 4).copy_(torch.tensor([0.0, 4.0])[:, None])  # groups, axes, voxels of a cell
    x = image(2, (3, 5))
    moved = torch.cat([x[..., 1:], x[..., -1:]], -1)
    expected = enlarged(through(module.projection, moved), (2, 2))
    torch.testing.assert_close(module(x)[..., 1:], expected[..., 1:])  # the first reads voxel 0, which has moved out


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (8, 4), (33, 3), (96, 4)]
)
def test_dysample_groups_are_the_largest_divisor_up_to_four(channels: int, groups: int) -> None:
    assert dysample_groups(channels) == groups


@pytest.mark.parametrize(("stride", "n_parameters"), [((2, 2), 2_080), ((2, 2, 2), 6_240)])
def test_dysample_costs_what_the_literature_counts_beside_the_1x1_convolution(
    stride: tuple[int, ...], n_parameters: int
) -> None:
    """SPACE 1.2, C = 64, 4 groups; the sampled channels are priced at 2^d multiply-adds each."""
    spec = UPSAMPLERS["dysample"]
    assert spec.n_parameters(64, 32, stride) - 65 * 32 == n_parameters
    assert spec.other_macs(64, 32, stride, 10) == 10 * prod(stride) * 32 * 2 ** len(stride)


def test_dysample_positions_are_exact_far_out_under_autocast() -> None:
    assert_exact_far_out(DySample(1, 1, (1, 2)))


# Both


def assert_gradients_equal_finite_differences(module: nn.Module) -> None:
    randomised(module)
    names = [name for name, _ in module.named_parameters()]

    def applied(x: Tensor, *parameters: Tensor) -> Tensor:
        result = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))
        assert isinstance(result, Tensor)
        return result

    inputs = (image(2, (2, 3), batch=1).requires_grad_(), *module.parameters())
    assert torch.autograd.gradcheck(applied, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", [CARAFE, DySample])
def test_gradients_equal_finite_differences(kind: type[CARAFE | DySample]) -> None:
    assert_gradients_equal_finite_differences(kind(2, 2, (2, 1)))


@pytest.mark.parametrize(("kind", "layer"), [(CARAFE, "encoder"), (DySample, "offset")])
@pytest.mark.parametrize("stride", [(2, 2), (2, 2, 2)])
def test_what_predicts_starts_with_the_papers_standard_deviation(
    kind: type[CARAFE | DySample], layer: str, stride: tuple[int, ...]
) -> None:
    module = kind(64, 32, stride)
    initialise(module, seed=1)
    convolution = module.get_submodule(layer)
    assert isinstance(convolution, nn.Conv2d | nn.Conv3d)
    assert convolution.weight.std().item() == pytest.approx(START_STD, rel=0.05)
    assert there(convolution.bias).abs().max() == 0


@pytest.mark.parametrize("kind", [CARAFE, DySample])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_stays_in_it(kind: type[CARAFE | DySample], dtype: torch.dtype) -> None:
    module = kind(4, 6, (2, 2))
    initialise(module, seed=1)
    x = image(4, (4, 3), dtype=torch.float32)
    expected = module(x)
    got = module.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.05)


# Deformable upsampling, however its taps are read


@pytest.fixture(params=[grid_sampled, bag_sampled])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The taps are read in this way, whatever the size of the map."""
    monkeypatch.setattr(dynamic_upsampling, "sampled", request.param)


def looped_deformable(module: DeformableUpsampling, x: Array) -> Array:
    """Equation 1 of the module's docstring, fine voxel by fine voxel, for one image ``x[c, *coarse]``."""
    dims, stride, weight = len(module.stride), module.stride, module.taps.weight.detach().numpy()
    raw = through(module.moves, torch.from_numpy(x[None]))
    moves = MOVE_RATE * raw[0].detach().numpy().reshape(3**dims, dims + 1, *x.shape[1:])
    out = np.empty((len(weight), *(n * s for n, s in zip(x.shape[1:], stride, strict=True))))
    out[:] = there(module.taps.bias).detach().numpy().reshape(-1, *(1,) * dims)
    for fine in np.ndindex(*out.shape[1:]):
        centre = [(i + 0.5) / s - 0.5 for i, s in zip(fine, stride, strict=True)]
        for t, tap in enumerate(np.ndindex(*(3,) * dims)):
            *offset, logit = (read_linearly(moves[t, m], centre) for m in range(dims + 1))
            at = [c + k - 1 + o for c, k, o in zip(centre, tap, offset, strict=True)]
            values = np.array([read_linearly(plane, at, clamp=False) for plane in x])
            out[(slice(None), *fine)] += weight[(slice(None), slice(None), *tap)] @ values * 2 / (1 + np.exp(-logit))
    return out


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("stride", "size"), [((2, 2), (3, 4)), ((1, 3), (4, 1)), ((2, 1, 2), (2, 3, 2)), ((2, 2, 2), (1, 2, 3))]
)
def test_deformable_equals_a_naive_loop_with_offsets_and_modulation(
    stride: tuple[int, ...], size: tuple[int, ...]
) -> None:
    module = randomised(DeformableUpsampling(2, 3, stride), scale=2.0)  # moves of up to a voxel or two
    x = image(2, size, batch=2)
    expected = np.stack([looped_deformable(module, one) for one in x.numpy()])
    torch.testing.assert_close(module(x), torch.from_numpy(expected))


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("stride", STRIDES)
def test_deformable_starts_as_a_convolution_followed_by_linear_interpolation(stride: tuple[int, ...]) -> None:
    """Closed form: the map continued by zeros, convolved, interpolated; away from the border linear(conv3(x))."""
    module = DeformableUpsampling(4, 3, stride).double()
    initialise(module, seed=1)
    assert module.moves.weight.abs().max() == 0  # offsets start at zero ...
    assert there(module.moves.bias).abs().max() == 0  # ... and the modulation at 2 sigmoid(0) = 1
    dims, x = len(stride), image(4, (5, 6, 7)[: len(stride)])
    wide = inside(convolved(F.pad(x, [2] * (2 * dims)), module.taps.weight), (1,) * dims)  # one voxel more all around
    fine = enlarged(wide, stride)
    y = module(x)
    torch.testing.assert_close(y, inside(fine, stride))
    same = enlarged(convolved(x, module.taps.weight), stride)
    torch.testing.assert_close(inside(y, stride), inside(same, stride))


@pytest.mark.usefixtures("reader")
def test_deformable_gradients_equal_finite_differences() -> None:
    assert_gradients_equal_finite_differences(DeformableUpsampling(2, 2, (2, 1)))


@pytest.mark.usefixtures("reader")
def test_deformable_training_keeps_no_fine_map_per_tap() -> None:
    """Less than half of one float32 map per tap; the coarse maps of all taps are an eighth."""
    x = image(8, (6, 6, 6), batch=1, dtype=torch.float32)
    assert kept_bytes(DeformableUpsampling(8, 8, (2, 2, 2)), x) < 27 * 4 * 8 * 12**3 / 2


@pytest.mark.usefixtures("reader")
def test_deformable_positions_are_exact_far_out_under_autocast() -> None:
    assert_exact_far_out(DeformableUpsampling(1, 1, (1, 2)))
