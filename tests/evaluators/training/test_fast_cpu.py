"""The network computed fast: the same numbers and names, and nothing left behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from unetx_evaluators.device import memory_format
from unetx_evaluators.training.fast_cpu import fast_on_cpu
from unetx_evaluators.training.fast_cpu.pointwise import Pointwise
from unetx_evaluators.training.module_swaps import FusedNorm
from unetx_space.architecture import Architecture
from unetx_space.backbone import EncoderBlock, isotropic_backbone
from unetx_space.network import SkipUNet, build
from unetx_space.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("name", "block"), [("u-net", "plain"), ("attention-u-net", "plain"), ("u-net", "residual")])
def test_a_network_computes_the_same_and_keeps_its_names(name: str, block: EncoderBlock, dims: Literal[2, 3]) -> None:
    network = network_of(name, dims, block)
    x = image_of((2, 1, *SIZES[dims]))
    plain, plain_gradients = trained_once(network, x)
    names = dict(network.named_parameters()).keys(), network.state_dict().keys()
    with fast_on_cpu(network):
        assert {FusedNorm, Pointwise} <= {type(module) for module in network.modules()}
        assert not any(isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d) for module in network.modules())
        assert (dict(network.named_parameters()).keys(), network.state_dict().keys()) == names
        found, gradients = trained_once(network, x)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)
    largest = max(float(gradient.abs().max()) for gradient in plain_gradients)
    for own, other in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-2, atol=1e-4 * largest)  # some are zero but for rounding


def test_the_network_is_as_before_afterwards_even_when_an_error_ends_it() -> None:
    network = network_of("u-net", 2)
    before = dict(network.named_modules())
    with pytest.raises(KeyError), fast_on_cpu(network):
        raise KeyError
    assert dict(network.named_modules()) == before


def test_norms_of_other_kinds_stay() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.LeakyReLU(), nn.InstanceNorm2d(3), nn.LeakyReLU())
    before = dict(network.named_modules())
    with fast_on_cpu(network):
        assert dict(network.named_modules()) == before  # that instance norm has no scale of its own


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv3d])
@pytest.mark.parametrize("n_out", [1, 6])
@pytest.mark.parametrize("edge", [4, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_convolution_gives_torchs_values_and_gradients(
    kind: type[nn.Conv2d] | type[nn.Conv3d], n_out: int, edge: int, bias: bool
) -> None:
    plain = kind(5, n_out, 1, bias=bias)
    x = image_of((2, 5, edge, 50) if kind is nn.Conv2d else (2, 5, edge // 2, 10, 10)).requires_grad_()
    wanted, found = plain(x), Pointwise(plain)(x)
    assert found.is_contiguous(memory_format=memory_format(x.ndim - 2, x.device))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    upstream = image_of(tuple(wanted.shape), seed=3)
    inputs = (x, *plain.parameters())
    wanted_gradients = torch.autograd.grad(wanted, inputs, upstream)
    for own, other in zip(torch.autograd.grad(found, inputs, upstream), wanted_gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_only_plain_pointwise_convolutions_are_exchanged() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv2d(4, 4, 1, padding=1),
        nn.Conv1d(4, 4, 1),
    )
    before = dict(network.named_modules())
    with fast_on_cpu(network):
        assert dict(network.named_modules()) == before


def test_lower_precision_stays_with_torch() -> None:
    plain, x = nn.Conv2d(4, 6, 1), image_of((2, 4, 100, 100))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Pointwise(plain)(x), plain(x))


SIZES = {2: (128, 96), 3: (24, 20, 24)}
"""Large enough for every way of computing a 1x1 convolution."""


def image_of(shape: tuple[int, ...], *, seed: int = 1) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(memory_format=memory_format(len(shape) - 2, torch.device("cpu")))


def network_of(name: str, dims: Literal[2, 3], block: EncoderBlock = "plain") -> SkipUNet:
    backbone = replace(isotropic_backbone(dims, n_levels=3, base_width=4), encoder_block=block)
    network = build(Architecture(backbone, preset(name).genome(3)))
    return network.to(memory_format=memory_format(dims, torch.device("cpu")))  # type: ignore[call-overload, no-any-return]


def trained_once(network: SkipUNet, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    logits = network(x)
    loss = (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum()
    return logits.detach(), list(torch.autograd.grad(loss, list(network.parameters())))
