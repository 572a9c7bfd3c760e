"""Bags of rows against torch's grid sampler: same sums, same gradients, and who is asked when."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from operator_samples import image, randomised
from torch import Tensor

from unetx_space.operators import deformable_sampling as sampling
from unetx_space.operators.deformable_sampling import bag_sampled, grid_sampled, sampled
from unetx_space.operators.dynamic_upsampling import DeformableUpsampling

CASES = [((2, 2), (5, 3)), ((1, 3), (4, 1)), ((2, 2, 2), (3, 2, 4)), ((3, 1, 2), (1, 5, 2)), ((1, 2, 2), (1, 1, 1))]


def taps(size: tuple[int, ...], scale: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Values and moves of a batch of two with three channels, the offsets of ``scale`` voxels."""
    generator, dims = torch.Generator().manual_seed(0), len(size)
    values = torch.randn(2, 3**dims, 3, *size, generator=generator, dtype=dtype)
    moves = scale * torch.randn(2, 3**dims, dims + 1, *size, generator=generator, dtype=dtype)
    return values.requires_grad_(), moves.requires_grad_()


def sum_and_gradients(read: object, values: Tensor, moves: Tensor, stride: tuple[int, ...]) -> tuple[Tensor, ...]:
    assert callable(read)
    total = read(values, moves, stride)
    weight = torch.randn(total.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return total, *torch.autograd.grad((total * weight).sum(), (values, moves))


@pytest.mark.parametrize(("case", "scale"), [(case, scale) for case in CASES for scale in (0.1, 5.0)])
def test_bags_and_grid_sampler_agree_near_and_far_outside(case: tuple[tuple[int, ...], ...], scale: float) -> None:
    stride, size = case
    values, moves = taps(size, scale)
    expected = sum_and_gradients(grid_sampled, values, moves, stride)
    torch.testing.assert_close(sum_and_gradients(bag_sampled, values, moves, stride), expected)


@pytest.mark.parametrize(("stride", "size"), CASES)
def test_taps_read_together_sum_up_to_those_read_one_by_one(stride: tuple[int, ...], size: tuple[int, ...]) -> None:
    """As on a GPU, where few kernels are launched."""

    def together(values: Tensor, moves: Tensor, stride: tuple[int, ...]) -> Tensor:
        axes = [torch.arange(n * s, dtype=values.dtype) / s + 0.5 / s - 0.5 for n, s in zip(size, stride, strict=True)]
        lie = torch.tensor(sampling.shifts(len(stride)), dtype=values.dtype).T
        return sampling._read_taps(values, moves, torch.stack(torch.meshgrid(*axes, indexing="ij")), lie)

    values, moves = taps(size, 1.0)
    expected = sum_and_gradients(grid_sampled, values, moves, stride)
    torch.testing.assert_close(sum_and_gradients(together, values, moves, stride), expected)


def test_on_another_device_than_a_cpu_all_taps_are_one_call_as_long_as_they_are_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, moves = (tensor.detach().to("meta") for tensor in taps((3, 2, 4), 1.0))
    read: list[int] = []

    def noting(call: Callable[..., Tensor], values: Tensor, *others: Tensor) -> Tensor:
        read.append(values.shape[1])
        return call(values, *others)

    monkeypatch.setattr(sampling, "recomputed", noting)
    assert grid_sampled(values, moves, (2, 2, 2)).shape == (2, 3, 6, 4, 8)
    monkeypatch.setattr(sampling, "_TOGETHER", 10 * 2 * 3 * 6 * 4 * 8)
    grid_sampled(values, moves, (2, 2, 2))
    assert read == [27, 10, 10, 7]


@pytest.mark.parametrize(("stride", "size"), [((2, 2), (33, 40)), ((2, 2, 2), (9, 12, 10))])
def test_bags_give_the_same_bits_twice(stride: tuple[int, ...], size: tuple[int, ...]) -> None:
    values, moves = taps(size, 1.0, torch.float32)
    once, again = (sum_and_gradients(bag_sampled, values, moves, stride) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize(("stride", "size"), [((2, 2), (5, 3)), ((1, 2, 2), (3, 2, 4))])
def test_bags_in_many_turns_equal_bags_in_one(
    stride: tuple[int, ...], size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    values, moves = taps(size, 1.0)
    expected = sum_and_gradients(bag_sampled, values, moves, stride)
    monkeypatch.setattr(sampling, "_AT_ONCE", 7)  # an image by itself, its fine voxels in more than one turn
    torch.testing.assert_close(sum_and_gradients(bag_sampled, values, moves, stride), expected)


def test_bags_hand_gradients_back_in_the_type_of_their_inputs() -> None:
    values, moves = taps((4, 5), 1.0, torch.bfloat16)
    total, *gradients = sum_and_gradients(bag_sampled, values, moves, (2, 2))
    assert total.dtype == torch.float32
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16] * 2
    expected = sum_and_gradients(bag_sampled, values.detach().float().requires_grad_(), moves.float(), (2, 2))[0]
    assert torch.equal(total, expected)


@pytest.mark.parametrize("far", [float("nan"), float("inf"), -1e30])
def test_moves_of_a_diverged_run_read_no_row_that_does_not_exist(far: float) -> None:
    values, moves = taps((4, 5), 1.0)
    moves = torch.full_like(moves, far)
    assert bag_sampled(values, moves, (2, 2)).shape == (2, 3, 8, 10)


@pytest.mark.parametrize(
    ("stride", "size"), [((2, 2), (48, 48)), pytest.param((2, 2, 2), (8, 12, 8), marks=pytest.mark.slow)]
)
def test_an_exported_program_asks_the_grid_sampler_where_training_uses_bags(
    stride: tuple[int, ...], size: tuple[int, ...]
) -> None:
    module, x = randomised(DeformableUpsampling(2, 3, stride)), image(2, size, batch=1)
    y = module(x)
    program = torch.export.export(module, (x,))
    assert any("grid_sampler" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), y)


@pytest.mark.parametrize(("size", "bags"), [((64, 64), True), ((4, 4), False), ((8, 8, 8), True), ((2, 2, 2), False)])
def test_small_maps_ask_the_grid_sampler(size: tuple[int, ...], bags: bool) -> None:
    values, moves = taps(size, 1.0, torch.float32)
    node = sampled(values, moves, (2,) * len(size)).grad_fn
    assert node is not None
    assert ("BagSampled" in node.name()) == bags
