"""What every operator of the catalogue promises: shapes, gradients, costs, precision, export, single voxels."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import pytest
import torch
from all_pairs import all_pairs
from attention_maps import COARSE, SIZES, context, inputs, maps
from operator_samples import image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unetx_space.backbone import NORMS
from unetx_space.initial_values import initialise
from unetx_space.network import module_of
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS

STRIDES = [(2, 2), (1, 2), (3, 2), (2, 2, 2), (1, 2, 2), (3, 1, 2)]
FACTORS = [(2, 2), (1, 4), (3, 2), (6, 8), (2, 2, 2), (1, 2, 4), (3, 1, 2)]


class Built(NamedTuple):
    """An operator at its start, what it is called with, and what its spec says of that."""

    module: nn.Module
    given: list[Tensor]
    shape: tuple[int, ...]
    n_parameters: int
    conv_macs: int

    def __call__(self, given: list[Tensor]) -> Tensor:
        y = self.module(given) if self.module.__module__.endswith(".fusion") else self.module(*given)
        assert isinstance(y, Tensor)
        return y


def attention(name: str, channels: int, dims: int, norm: Any = "instance") -> Built:
    spec, at, given = ATTENTIONS[name], context(channels, dims, norm), maps(channels, dims, batch=4)
    macs = spec.conv_macs(at, SIZES[dims], COARSE[dims])
    return Built(module_of(spec)(at), [*inputs(name, given)], given.x.shape[1:], spec.n_parameters(at), macs)


def upsampler(name: str, stride: tuple[int, ...], channels: tuple[int, int]) -> Built:
    spec, (c_in, c_out), size = UPSAMPLERS[name], channels, (3, 2, 4)[: len(stride)]
    x = image(c_in, size, batch=4, dtype=torch.float32)
    fine = tuple(n * s for n, s in zip(size, stride, strict=True))
    macs = spec.conv_macs(c_in, c_out, stride, prod(size))
    module = module_of(spec)(c_in, c_out, stride)
    return Built(module, [x], (c_out, *fine), spec.n_parameters(c_in, c_out, stride), macs)


def fusion(name: str, n_inputs: int, channels: int, dims: int) -> Built:
    spec, size = FUSIONS[name], (3, 2, 5)[:dims]
    given = image(n_inputs * channels, size, batch=4, dtype=torch.float32).chunk(n_inputs, 1)
    c_out = spec.out_channels((channels,) * n_inputs)
    macs = spec.conv_macs(n_inputs, c_out, prod(size))
    module = module_of(spec)(n_inputs, c_out)
    return Built(module, [x.clone() for x in given], (c_out, *size), spec.n_parameters(n_inputs, c_out), macs)


def alignment(name: str, factor: tuple[int, ...], ceil: bool, channels: int) -> Built:
    spec, size = ALIGNMENTS[name], (7, 9, 10)[: len(factor)]
    target = tuple(-(-n // f) if ceil else n // f for n, f in zip(size, factor, strict=True))
    x = image(channels, size, batch=4, dtype=torch.float32)
    macs = spec.conv_macs(channels, factor, prod(size), prod(target))
    shape = (spec.out_channels(channels, factor), *target)
    return Built(module_of(spec)(channels, factor, ceil), [x], shape, spec.n_parameters(channels, factor), macs)


Case = tuple[Callable[..., Built], tuple[Any, ...]]
GRID: list[Case] = [
    *((attention, row) for row in all_pairs([*ATTENTIONS], [1, 2, 7, 33, 96], [2, 3], NORMS)),
    *((upsampler, row) for row in all_pairs([*UPSAMPLERS], STRIDES, [(1, 1), (7, 3), (33, 16), (96, 8)])),
    *((fusion, row) for row in all_pairs([*FUSIONS], [1, 2, 4], [1, 7, 96], [2, 3])),
    *((alignment, row) for row in all_pairs([*ALIGNMENTS], FACTORS[:3] + FACTORS[4:], [True, False], [1, 7, 96])),
]
SAMPLE: list[Case] = [
    *((attention, (name, 16, dims)) for name in ATTENTIONS for dims in (2, 3)),
    *((upsampler, (name, stride, (8, 6))) for name in UPSAMPLERS for stride in ((2, 2), (1, 2, 2))),
    *((fusion, (name, 3, 4, dims)) for name in FUSIONS for dims in (2, 3)),
    *((alignment, (name, factor, True, 6)) for name in ALIGNMENTS for factor in ((4, 2), (1, 2, 2))),
]


def named(value: object) -> str:
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("build", "row"), GRID, ids=named)
def test_an_operator_gives_its_shape_has_gradients_and_costs_what_it_says(
    build: Callable[..., Built], row: tuple[Any, ...]
) -> None:
    built = build(*row)
    initialise(built.module, seed=1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        built([x[:1] for x in built.given])
    y = built([x.requires_grad_() for x in built.given])
    assert y.shape == (4, *built.shape)
    assert sum(p.numel() for p in built.module.parameters()) == built.n_parameters
    assert counter.get_total_flops() == 2 * built.conv_macs
    y.square().sum().backward()  # type: ignore[no-untyped-call]
    for tensor in (*built.given, *built.module.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    learning = [*built.given, *(built.module.parameters() if build is not attention else ())]
    assert all(tensor.grad is not None and tensor.grad.abs().max() > 0 for tensor in learning)


@pytest.mark.parametrize(("build", "row"), SAMPLE, ids=named)
def test_an_operator_agrees_with_itself_under_bfloat16_autocast(
    build: Callable[..., Built], row: tuple[Any, ...]
) -> None:
    built = build(*row)
    initialise(built.module, seed=1)
    expected = built(built.given)
    with torch.autocast("cpu", torch.bfloat16):
        half = built([x.bfloat16() for x in built.given] if build is fusion else built.given)
    if build in (upsampler, fusion):
        assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.1 if build is not attention else 0.03)


@pytest.mark.parametrize(("build", "row"), [case for case in SAMPLE if case[1][0] != "deformable"][1::2], ids=named)
def test_an_operator_can_be_exported(build: Callable[..., Built], row: tuple[Any, ...]) -> None:
    """The deformable upsampler, which then reads its taps in another way, has a test of its own."""
    built = build(*row)
    initialise(built.module, seed=1)
    given = (built.given,) if build is fusion else tuple(built.given)
    torch.testing.assert_close(torch.export.export(built.module.eval(), given).module()(*given), built(built.given))


@pytest.mark.parametrize("name", UPSAMPLERS)
@pytest.mark.parametrize("stride", [(4, 4), (1, 2, 4)])
def test_a_single_voxel_of_a_single_channel_becomes_a_cell(name: str, stride: tuple[int, ...]) -> None:
    module = module_of(UPSAMPLERS[name])(1, 1, stride)
    initialise(module, seed=1)
    y = module(torch.ones(1, 1, *[1] * len(stride)))
    assert y.shape == (1, 1, *stride)
    assert y.isfinite().all()


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_a_map_smaller_than_its_cell_becomes_one_voxel(name: str) -> None:
    module = module_of(ALIGNMENTS[name])(2, (16, 4), True)
    initialise(module, seed=1)
    y = module(torch.ones(1, 2, 3, 4))
    assert y.shape == (1, ALIGNMENTS[name].out_channels(2, (16, 4)), 1, 1)
    assert y.isfinite().all()
    if name in ("max", "average"):
        assert y.flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", [name for name, spec in ATTENTIONS.items() if spec.gate is None])
def test_attention_without_a_gate_works_on_a_single_voxel(name: str) -> None:
    module = module_of(ATTENTIONS[name])(context(4, 3))
    initialise(module, seed=1)
    assert module(image(4, (1, 1, 1), dtype=torch.float32)).isfinite().all()


@pytest.mark.parametrize("name", FUSIONS)
def test_fusion_of_one_map_is_that_map_and_no_fusion_changes_what_it_is_given(name: str) -> None:
    """Other nodes read the same maps."""
    alone = fusion(name, 1, 3, 2)
    assert torch.equal(alone(alone.given), alone.given[0])
    assert not list(alone.module.parameters())
    assert FUSIONS[name].other_macs(1, 3, 100) == 0
    several = fusion(name, 3, 2, 2)
    initialise(several.module, seed=1)
    copies = [x.clone() for x in several.given]
    several(several.given)
    assert all(torch.equal(x, copy) for x, copy in zip(several.given, copies, strict=True))
