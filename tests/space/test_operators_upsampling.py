"""Upsamplers against closed forms, MONAI's shuffle, and a naive deformable loop."""

from __future__ import annotations

import itertools
from math import floor, prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.utils import pixelshuffle
from numpy.typing import NDArray
from operator_samples import image, randomised
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unetx_space.initial_values import initialise
from unetx_space.network import module_of
from unetx_space.operators import dynamic_upsampling as upsampling
from unetx_space.operators.catalogue import UPSAMPLERS
from unetx_space.operators.deformable_sampling import bag_sampled, grid_sampled
from unetx_space.operators.dynamic_upsampling import MOVE_RATE, DeformableUpsampling
from unetx_space.operators.nd import interpolate
from unetx_space.operators.upsampling import (
    LinearUpsampling,
    PixelShuffleUpsampling,
    TransposedUpsampling,
    fit,
    shuffle,
)

STRIDES = [(2, 2), (1, 2), (3, 2), (2, 2, 2), (1, 2, 2), (3, 1, 2)]
SIZES = {2: (5, 3), 3: (3, 2, 4)}
Array = NDArray[np.float64]


def built(name: str, c_in: int, c_out: int, stride: tuple[int, ...]) -> nn.Module:
    module = module_of(UPSAMPLERS[name])(c_in, c_out, stride)
    initialise(module, seed=1)
    return module


def inside(x: Tensor, margin: tuple[int, ...]) -> Tensor:
    """``x`` without ``margin`` voxels on both sides of each axis."""
    for axis, n in enumerate(margin, 2):
        x = x.narrow(axis, n, x.shape[axis] - 2 * n)
    return x


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0) -> Tensor:
    return (F.conv2d if x.ndim == 4 else F.conv3d)(x, weight, bias, padding=padding)


@pytest.mark.parametrize("name", UPSAMPLERS)
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize(("c_in", "c_out"), [(1, 1), (7, 3), (33, 16), (96, 8)])
def test_upsampler_multiplies_the_size_has_gradients_and_costs_what_it_says(
    name: str, stride: tuple[int, ...], c_in: int, c_out: int
) -> None:
    module, size = built(name, c_in, c_out, stride), SIZES[len(stride)]
    x = image(c_in, size, batch=4, dtype=torch.float32).requires_grad_()  # all hidden units of a gate may rest on one
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x.detach()[:1])
    y = module(x)
    spec = UPSAMPLERS[name]
    assert y.shape == (4, c_out, *(n * s for n, s in zip(size, stride, strict=True)))
    assert sum(p.numel() for p in module.parameters()) == spec.n_parameters(c_in, c_out, stride)
    assert counter.get_total_flops() == 2 * spec.conv_macs(c_in, c_out, stride, prod(size))
    y.square().sum().backward()
    for tensor in (x, *module.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


@pytest.mark.parametrize("name", UPSAMPLERS)
@pytest.mark.parametrize("stride", [(2, 2), (1, 2, 2)])
def test_upsampler_agrees_with_itself_under_bfloat16_autocast(name: str, stride: tuple[int, ...]) -> None:
    module, x = built(name, 8, 6, stride), image(8, SIZES[len(stride)], dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        half = module(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), module(x), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("stride", STRIDES)
def test_linear_equals_interpolating_first_and_convolving_afterwards(stride: tuple[int, ...]) -> None:
    """SPACE equivalence E1: 1x1 convolution, bias included, and linear interpolation commute."""
    module = randomised(LinearUpsampling(4, 3, stride))
    x = image(4, SIZES[len(stride)])
    fine = interpolate(x, [n * s for n, s in zip(x.shape[2:], stride, strict=True)])
    torch.testing.assert_close(module(x), convolve(fine, module.projection.weight, module.projection.bias))


def test_linear_interpolation_is_worked_by_hand() -> None:
    x = torch.tensor([[[[0.0, 4.0]]]])  # fine centres at -1/4, 1/4, 3/4, 5/4: the border value, 1, 3, the border value
    torch.testing.assert_close(interpolate(x, (1, 4)), torch.tensor([[[[0.0, 1.0, 3.0, 4.0]]]]))


@pytest.mark.parametrize("stride", STRIDES)
def test_transposed_equals_a_1x1_convolution_and_a_shuffle(stride: tuple[int, ...]) -> None:
    """SPACE equivalence E2; the voxels of a cell share the bias."""
    module = randomised(TransposedUpsampling(4, 3, stride))
    weight = module.transposed.weight  # [c_in, c_out, *stride]
    pointwise = weight.flatten(2).permute(1, 2, 0).reshape(3 * prod(stride), 4, *(1,) * len(stride))
    assert module.transposed.bias is not None
    x = image(4, SIZES[len(stride)])
    expected = shuffle(convolve(x, pointwise, module.transposed.bias.repeat_interleave(prod(stride))), stride)
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_shuffle_equals_monai(dims: int) -> None:
    x = image(3 * 2**dims, SIZES[dims])
    assert torch.equal(shuffle(x, (2,) * dims), pixelshuffle(x, dims, 2))


def test_shuffle_with_unequal_strides_is_worked_by_hand() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1)  # one cell of 2 x 3 voxels in array order
    assert torch.equal(shuffle(x, (2, 3)), torch.tensor([[[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]]))


@pytest.mark.parametrize("stride", STRIDES)
def test_pixel_shuffle_starts_as_a_convolution_followed_by_nearest_interpolation(stride: tuple[int, ...]) -> None:
    module = PixelShuffleUpsampling(4, 3, stride)
    initialise(module, seed=1)
    x = image(4, SIZES[len(stride)], dtype=torch.float32)
    coarse = convolve(x, module.conv.weight[:: prod(stride)], padding=1)
    expected = F.interpolate(coarse, scale_factor=tuple(map(float, stride)), mode="nearest")
    torch.testing.assert_close(module(x), expected)


def test_fit_crops_long_axes_and_repeats_the_border_of_short_ones() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    expected = torch.tensor([[[[1.0, 2.0], [4.0, 5.0], [4.0, 5.0], [4.0, 5.0]]]])
    assert torch.equal(fit(x, (4, 2)), expected)
    assert fit(x, (2, 3)) is x
    assert fit(torch.zeros(1, 1, 1, 4, 2, dtype=torch.bfloat16), (3, 3, 3)).shape == (1, 1, 3, 3, 3)


# Deformable upsampling, however its taps are read


@pytest.fixture(params=[grid_sampled, bag_sampled])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The taps are read in this way, whatever the size of the map."""
    monkeypatch.setattr(upsampling, "sampled", request.param)


def read_linearly(plane: Array, at: list[float], *, clamp: bool) -> float:
    """``plane`` at a fractional place: 0 outside, or the border's value with ``clamp``."""
    total = 0.0
    base = [floor(a) for a in at]
    for corner in itertools.product((0, 1), repeat=len(at)):
        site = [b + c for b, c in zip(base, corner, strict=True)]
        weight = prod(1 - abs(a - s) for a, s in zip(at, site, strict=True))
        if clamp:
            site = [min(max(s, 0), n - 1) for s, n in zip(site, plane.shape, strict=True)]
        if all(0 <= s < n for s, n in zip(site, plane.shape, strict=True)):
            total += weight * float(plane[tuple(site)])
    return total


def looped_deformable(module: DeformableUpsampling, x: Array) -> Array:
    """Equation 1 of the module's docstring, fine voxel by fine voxel, for one image ``x[c, *coarse]``."""
    dims, stride, weight = len(module.stride), module.stride, module.taps.weight.detach().numpy()
    raw = convolve(torch.from_numpy(x[None]), module.moves.weight, module.moves.bias, padding=1)
    moves = MOVE_RATE * raw[0].detach().numpy().reshape(3**dims, dims + 1, *x.shape[1:])
    assert module.taps.bias is not None
    out = np.empty((len(weight), *(n * s for n, s in zip(x.shape[1:], stride, strict=True))))
    out[:] = module.taps.bias.detach().numpy().reshape(-1, *(1,) * dims)
    for fine in np.ndindex(*out.shape[1:]):
        centre = [(i + 0.5) / s - 0.5 for i, s in zip(fine, stride, strict=True)]
        for t, tap in enumerate(np.ndindex(*(3,) * dims)):
            *offset, logit = (read_linearly(moves[t, m], centre, clamp=True) for m in range(dims + 1))
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
    assert module.moves.bias is not None
    assert module.moves.bias.abs().max() == 0  # ... and the modulation at 2 sigmoid(0) = 1
    dims, x = len(stride), image(4, (5, 6, 7)[: len(stride)])
    wide = convolve(F.pad(x, [2] * (2 * dims)), module.taps.weight)  # one voxel more on every side
    fine = interpolate(wide, [n * s for n, s in zip(wide.shape[2:], stride, strict=True)])
    y = module(x)
    torch.testing.assert_close(y, inside(fine, stride))
    same = interpolate(convolve(x, module.taps.weight, padding=1), y.shape[2:])
    torch.testing.assert_close(inside(y, stride), inside(same, stride))


@pytest.mark.usefixtures("reader")
def test_deformable_gradients_equal_finite_differences() -> None:
    module = randomised(DeformableUpsampling(2, 2, (2, 1)))
    names = [name for name, _ in module.named_parameters()]

    def applied(x: Tensor, *parameters: Tensor) -> Tensor:
        result = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))
        assert isinstance(result, Tensor)
        return result

    inputs = (image(2, (2, 3), batch=1).requires_grad_(), *module.parameters())
    assert torch.autograd.gradcheck(applied, inputs, fast_mode=True)


@pytest.mark.usefixtures("reader")
def test_deformable_training_keeps_no_fine_map_per_tap() -> None:
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    module, x = built("deformable", 8, 8, (2, 2, 2)), image(8, (6, 6, 6), batch=1, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = module(x)
    n_bytes = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert (
        n_bytes < 27 * 4 * y.numel() / 2
    )  # half of one float32 map per tap; the coarse maps of all taps are an eighth


@pytest.mark.usefixtures("reader")
def test_deformable_positions_are_exact_far_out_under_autocast() -> None:
    """bfloat16 has 8 bits: at 300 it steps by 2, so that positions computed in it would miss by a voxel."""
    module = built("deformable", 1, 1, (1, 2))
    x = torch.zeros(1, 1, 1, 320)
    x[..., 301] = 1
    with torch.autocast("cpu", torch.bfloat16):
        half = module(x)
    torch.testing.assert_close(half.float(), module(x), rtol=0.02, atol=0.02)
    assert half.abs().max() > 0.1
