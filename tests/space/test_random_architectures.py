"""Random designs of every space with every operator, on random backbones: what is predicted is what is built, and all
of it learns."""

from __future__ import annotations

import random
from typing import Literal

import pytest
import torch
from sampled_architectures import sampled
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unetx_space.architecture import Architecture
from unetx_space.cost import cost
from unetx_space.design_space import SPACES, DesignSpace, SpaceName, design_space, narrowed
from unetx_space.network import build
from unetx_space.validity import faults

Dims = Literal[2, 3]
PER_SPACE = 334
"""Of each of 3 spaces in 2D and in 3D: 2,004 in all."""


def random_architecture(seed: int, dims: Dims, name: SpaceName) -> tuple[Architecture, tuple[int, ...]]:
    """A genome of the space with all operators at all places, on a random backbone; and a patch, mostly odd-sized."""
    other, patch = sampled(seed, dims, name)
    genome = everything(name, other.backbone.n_levels).sample(random.Random(f"{seed}|{dims}|{name}"))
    return Architecture(other.backbone, genome), patch


def everything(name: SpaceName, n_levels: int) -> DesignSpace:
    return narrowed(design_space(name, n_levels), attention="all", upsampler="all", fusion="all", alignment="all")


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


def check_all(seeds: range, dims: Dims, name: SpaceName) -> None:
    for seed in seeds:
        try:
            check(seed, dims, name)
        except Exception as error:
            error.add_note(f"seed {seed} in {dims}D, space {name}")
            raise


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SPACES)
def test_random_designs_cost_what_is_predicted_and_learn_everywhere(name: SpaceName, dims: Dims) -> None:
    check_all(range(PER_SPACE // 10 + 1), dims, name)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SPACES)
def test_two_thousand_random_designs_cost_what_is_predicted_and_learn_everywhere(name: SpaceName, dims: Dims) -> None:
    check_all(range(PER_SPACE // 10 + 1, PER_SPACE), dims, name)


def test_the_random_designs_use_every_operator_of_every_family() -> None:
    """Those of the fast test alone."""
    used: set[str] = set()
    for name in SPACES:
        for seed in range(PER_SPACE // 10 + 1):
            for node in random_architecture(seed, 2, name)[0].genome.nodes:
                used |= {str(node.attention), node.upsampler, f"fusion {node.fusion}", f"alignment {node.alignment}"}
    space = everything("default", 3)
    fusions = {f"fusion {name}" for name in space.fusions}
    alignments = {f"alignment {name}" for name in space.alignments}
    assert used == {*map(str, space.attentions), *space.upsamplers, *fusions, *alignments}
