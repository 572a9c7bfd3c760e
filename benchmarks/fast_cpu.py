"""How much faster does a network train on one CPU thread with its slow modules swapped (training/fast_cpu/)?

    python benchmarks/fast_cpu.py > benchmarks/results/fast_cpu-1thread.txt

Forward and backward pass of the same network with torch's modules, with fused norms alone, and with 1x1 convolutions
swapped as well. Times are CPU milliseconds of this process, the least of several turns, the ways taking turns, so
that a busy machine distorts none more than the others.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from unittest.mock import patch as patched

import torch
from torch import nn

from unetx_evaluators.device import memory_format, profile
from unetx_evaluators.training.fast_cpu import fast_on_cpu, swaps
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.canonical import canonical
from unetx_space.cost import cost
from unetx_space.design_space import design_space
from unetx_space.genome import Genome
from unetx_space.network import build
from unetx_space.presets import preset

TURNS = 9
CASES = ((2, (128, 128), 8, 5), (2, (64, 64), 8, 5), (3, (32, 48, 32), 2, 4))
"""Dimensions, patch, batch size, levels."""
N_RANDOM, MAX_COST = 3, 1.5


@contextmanager
def norms_alone(network: nn.Module) -> Iterator[None]:
    with patched.object(swaps, "faster_pointwise", lambda _module: None), fast_on_cpu(network):
        yield


WAYS: Mapping[str, Callable[[nn.Module], AbstractContextManager[None]]] = {
    "torch": lambda _network: nullcontext(),
    "norms": norms_alone,
    "all": fast_on_cpu,
}


def designs(dims: int, patch: tuple[int, ...], n_levels: int) -> Iterator[tuple[str, Architecture]]:
    """Two presets, and the first random designs of the default space that cost little more than a U-Net."""
    backbone = isotropic_backbone(2 if dims == 2 else 3, n_levels=n_levels, base_width=8)

    def built(genome: Genome) -> Architecture:
        return Architecture(backbone, genome)

    unet = built(preset("u-net").genome(n_levels))
    yield "u-net", unet
    yield "attention-u-net", built(preset("attention-u-net").genome(n_levels))
    space, rng = design_space("default", n_levels), random.Random(0)
    limit, n_found = MAX_COST * cost(unet, patch).macs, 0
    while n_found < N_RANDOM:
        drawn = built(canonical(space.sample(rng)))
        if cost(drawn, patch).macs <= limit:
            n_found += 1
            yield f"random {n_found}", drawn


def least_ms(architecture: Architecture, patch: tuple[int, ...], batch_size: int) -> dict[str, float]:
    layout = memory_format(len(patch), torch.device("cpu"))
    network = build(architecture).to(memory_format=layout)  # type: ignore[call-overload]  # not in torch's stubs
    images = torch.randn(batch_size, 1, *patch, generator=torch.Generator().manual_seed(0)).contiguous(
        memory_format=layout
    )
    device = profile("cpu")
    least = dict.fromkeys(WAYS, float("inf"))
    for turn in range(TURNS + 2):
        for name, way in WAYS.items():
            network.zero_grad()
            with way(network):
                begin = time.process_time()
                with device.autocast():
                    logits = network(images)
                logits.float().square().mean().backward()
                ms = 1000 * (time.process_time() - begin)
            if turn > 1:  # the first turns warm up
                least[name] = min(least[name], ms)
    return least


def main() -> None:
    torch.set_num_threads(1)
    capability, dtype = torch.backends.cpu.get_cpu_capability(), profile("cpu").autocast_dtype or torch.float32
    print(f"torch {torch.__version__}, {capability}, {dtype}, 1 thread; CPU ms of forward and backward, base width 8,")
    print(f"least of {TURNS} turns, and against torch's modules")
    for dims, patch, batch_size, n_levels in CASES:
        print(f"\n{batch_size} x {'x'.join(map(str, patch)):12s}" + "".join(f"{name:>16s}" for name in WAYS))
        for name, architecture in designs(dims, patch, n_levels):
            least = least_ms(architecture, patch, batch_size)
            cells = "".join(f"{ms:9.1f} {ms / least['torch']:5.2f}x" for ms in least.values())
            print(f"{name:16s}{cells}", flush=True)


if __name__ == "__main__":
    main()
