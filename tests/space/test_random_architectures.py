"""Random designs of every space with every operator, on random backbones: what is predicted is what is built, and all
of it learns."""

from __future__ import annotations

import random
from typing import Literal

import pytest
import torch
from sampled_architectures import sampled
from test_space_training_memory import measured
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unetx_space import SPACES, Architecture, SpaceName, build, cost, design_space, faults, narrowed, training_memory

Dims = Literal[2, 3]
FAST, ALL = range(12), range(12, 334)
"""Of each of 3 spaces in 2D and in 3D: 2,004 in all."""


def random_architecture(seed: int, dims: Dims, name: SpaceName) -> tuple[Architecture, tuple[int, ...]]:
    """On a random backbone, with all operators at all places; and a patch, mostly odd-sized. Every other genome is made
    without the design space's help."""
    architecture, patch = sampled(seed, dims, name)
    if seed % 2:
        return architecture, patch
    space = design_space(name, architecture.backbone.n_levels)
    wide = narrowed(space, attention="all", upsampler="all", fusion="all", alignment="all")
    return Architecture(architecture.backbone, wide.sample(random.Random(f"{seed}|{dims}|{name}"))), patch


def check(seed: int, dims: Dims, name: SpaceName) -> None:
    architecture, patch = random_architecture(seed, dims, name)
    assert faults(architecture, patch) == ()
    network = build(architecture, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, architecture.backbone.in_channels, *patch, generator=generator)
    with FlopCounterMode(display=False) as counter:
        maps = network.features(x)
        output = network.head(maps[network.output])
        n_flops = counter.get_total_flops()
    predicted = cost(architecture, patch)
    assert predicted.n_parameters == sum(parameter.numel() for parameter in network.parameters())
    assert 2 * predicted.conv_macs == n_flops
    assert output.shape == (1, architecture.backbone.out_channels, *patch)

    for stage in maps.values():
        stage.retain_grad()
    heads = [output, *(head(maps[node]) for node, head in network.side_heads.items())]
    torch.stack([_probe(logits, generator) for logits in heads]).sum().backward()  # type: ignore[no-untyped-call]
    for path, parameter in network.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
    for node in network.decoder:
        gradient = maps[node].grad
        assert gradient is not None, node
        assert gradient.any(), node


def _probe(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A random projection: no gradient vanishes by symmetry."""
    return (logits * torch.randn(logits.shape, generator=generator)).sum()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seeds", [FAST, pytest.param(ALL, marks=pytest.mark.slow)], ids=["some", "two thousand"])
def test_random_designs_cost_what_is_predicted_and_learn_everywhere(seeds: range, name: SpaceName, dims: Dims) -> None:
    for seed in seeds:
        try:
            check(seed, dims, name)
        except Exception as error:
            error.add_note(f"seed {seed} in {dims}D, space {name}")
            raise


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SPACES)
def test_random_designs_keep_what_the_formula_says(name: SpaceName, dims: Dims) -> None:
    """Within 10 %, for what is left out weighs on maps as small as these."""
    for seed in range(3):
        architecture, patch = sampled(seed, dims, name)
        factor = architecture.backbone.factor(0, architecture.backbone.n_levels - 1)
        larger = tuple(n + 2 * f for n, f in zip(patch, factor, strict=True))
        assert training_memory(architecture, larger) == pytest.approx(measured(architecture, larger), rel=0.1)
