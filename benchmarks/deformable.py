"""How fast the deformable upsampler is on one CPU thread: torch's grid sampler against bags of rows, side by side.

    python benchmarks/deformable.py > benchmarks/results/deformable_cpu_1thread.txt

Times are CPU milliseconds of this process, the least of several turns, the two ways taking turns, so that a busy
machine distorts neither more than the other. Memory is the most that tensors take in one training step, beyond the
network and its input.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from math import prod
from unittest.mock import patch

import torch

from unetx_space.initial_values import initialise
from unetx_space.operators import dynamic_upsampling as upsampling
from unetx_space.operators.deformable_sampling import FEWEST_FOR_BAGS, bag_sampled, grid_sampled

WAYS = {"grid": grid_sampled, "bags": bag_sampled}
TURNS = 7
CASES = [  # channels in and out, coarse size, batch; stride 2 on every axis
    (16, 8, (16, 24, 16), 2),
    (32, 16, (12, 12, 12), 2),
    (64, 32, (8, 12, 8), 2),
    (128, 64, (4, 6, 4), 2),
    (128, 64, (2, 3, 2), 2),
    (32, 16, (64, 64), 4),
    (16, 8, (64, 64), 2),
    (64, 32, (32, 32), 4),
    (32, 16, (16, 16), 2),
]


def step(case: int, voxels: float) -> tuple[Callable[[], object], Callable[[], object]]:
    """The forward pass without gradients, and forward and backward pass, of an upsampler with offsets of ``voxels``."""
    c_in, c_out, size, batch = CASES[case]
    module = upsampling.DeformableUpsampling(c_in, c_out, (2,) * len(size))
    initialise(module, seed=0)
    generator = torch.Generator().manual_seed(0)
    spread = voxels / upsampling.MOVE_RATE / (c_in * 3 ** len(size)) ** 0.5
    with torch.no_grad():
        module.moves.weight.normal_(0, spread, generator=generator)
    x = torch.randn(batch, c_in, *size, generator=generator).requires_grad_()

    def forward() -> None:
        with torch.no_grad():
            module(x)

    return forward, lambda: module(x).square().sum().backward()


def least_ms(run: Callable[[], object]) -> dict[str, float]:
    """CPU milliseconds of ``run`` by each way of reading the taps."""
    least = dict.fromkeys(WAYS, float("inf"))
    for turn in range(TURNS + 1):
        for name, way in WAYS.items():
            with patch.object(upsampling, "sampled", way):
                begin = time.process_time()
                run()
            if turn > 0:  # the first turn warms up
                least[name] = min(least[name], 1000 * (time.process_time() - begin))
    return least


def peak_mib(run: Callable[[], object], way: str) -> float:
    """Peak of the tensors' memory during ``run``, above that before."""
    with patch.object(upsampling, "sampled", WAYS[way]):
        run()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            run()
    assert profile.profiler is not None
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return float(max(itertools.accumulate(n_bytes for _, n_bytes in changes)) / 2**20)


def row(case: int) -> str:
    c_in, c_out, size, batch = CASES[case]
    forward, training = step(case, 1.0)
    times = [least_ms(run) for run in (forward, training)]
    cells = [f"{t['grid']:8.1f} {t['bags']:8.1f} {t['grid'] / t['bags']:6.1f}x" for t in times]
    memory = " ".join(f"{peak_mib(training, way):7.1f}" for way in WAYS)
    n_fine = batch * prod(size) * 2 ** len(size)
    taken = "bags" if n_fine >= FEWEST_FOR_BAGS[len(size)] else "grid"
    return f"{batch} x {c_in:3d} -> {c_out:2d}  {'x'.join(map(str, size)):9s}" + "".join(cells) + f"  {memory}  {taken}"


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread, float32, stride 2,")
    print("offsets of 1 coarse voxel (standard deviation); CPU ms, least of", TURNS, "turns")
    print(f"{'':26s}{'forward':>24s}{'forward + backward':>24s}   step's peak, MiB")
    print(
        f"{'batch, channels, coarse':26s}"
        + f"{'grid':>8s} {'bags':>8s} {'ratio':>7s}" * 2
        + f"{'grid':>9s} {'bags':>7s}  taken"
    )
    for case in range(len(CASES)):
        print(row(case), flush=True)


if __name__ == "__main__":
    main()
