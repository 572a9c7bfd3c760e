"""How fast is the space: designs per second, building, a training step against MONAI's, documents from strangers.

    OMP_NUM_THREADS=1 python benchmarks/space.py > benchmarks/results/space-1thread.txt

Times are CPU times of one thread, so that other work on the machine moves them little. The two networks run in pairs,
in turns; the ratio is the median of the pairs with its 96 % interval (the second smallest and second largest of nine),
and the goal is missed when that lies above 1. Memory is the peak of the resident set over two steps above where it was
once the network was built, in a process of its own (Linux). Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import process_time
from typing import Literal

import monai
import torch
from monai.networks.nets.basic_unet import BasicUNet
from torch import nn

from unetx_space.architecture import Architecture
from unetx_space.backbone import MAX_LEVELS, isotropic_backbone
from unetx_space.canonical import key
from unetx_space.cost import cost
from unetx_space.design_space import SPACES, design_space
from unetx_space.documents import MAX_BYTES, MAX_DEPTH, loads
from unetx_space.errors import DocumentError
from unetx_space.genome import Genome
from unetx_space.network import build
from unetx_space.presets import PRESETS
from unetx_space.references import basic_unet
from unetx_space.validity import faults

Dims = Literal[2, 3]
MIN_DESIGNS_PER_SECOND = 3000
MAX_BUILD_MS = 50
N_DESIGNS, N_ROUNDS, N_PAIRS = 1000, 5, 9
N_LEVELS = 5
PATCH = {2: (256, 256), 3: (96, 96, 96)}
STEP_SHAPE = {2: (4, 1, 128, 128), 3: (1, 1, 48, 48, 48)}


def seconds(action: Callable[[], object]) -> float:
    start = process_time()
    action()
    return process_time() - start


def main() -> int:
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, MONAI {monai.__version__}, one thread")
    missed = [*designs(), *building(), *training_steps(), *documents()]
    print("\ngoals missed: " + ("; ".join(missed) or "none"))
    return 1 if missed else 0


def designs() -> list[str]:
    """Random valid designs a second, as a sampler needs them, and each part in microseconds."""
    print(f"\nRandom designs, {N_LEVELS} levels, 3D: sampled, checked, with key and cost; microseconds for each part")
    head = ("sample", "faults", "key", "cost")
    print(f"{'space':<11} {'designs/s':>9}" + "".join(f"{name:>10}" for name in head))
    missed = []
    for name in SPACES:
        rounds = [_design_times(name, seed) for seed in range(N_ROUNDS)]
        times = [median(column) / N_DESIGNS for column in zip(*rounds, strict=True)]
        per_second = 1 / sum(times)
        print(f"{name:<11} {per_second:9,.0f}" + "".join(f"{1e6 * time:10.0f}" for time in times))
        if per_second < MIN_DESIGNS_PER_SECOND and name == "default":
            missed.append(f"{MIN_DESIGNS_PER_SECOND} designs a second")
    return missed


def _design_times(name: str, seed: int) -> list[float]:
    space, rng = design_space(name, N_LEVELS), random.Random(seed)
    backbone = isotropic_backbone(3, n_levels=N_LEVELS)
    drawn: list[Architecture] = []
    steps: list[Callable[[Architecture], object]] = [
        faults,
        key,
        lambda architecture: cost(architecture, PATCH[3]),
    ]
    sampling = seconds(lambda: drawn.extend(Architecture(backbone, space.sample(rng)) for _ in range(N_DESIGNS)))
    assert not any(map(faults, drawn))
    return [sampling, *(seconds(lambda step=step: [step(a) for a in drawn]) for step in steps)]  # type: ignore[misc]


def building() -> list[str]:
    """Milliseconds to build a network with its initial values."""
    print("\nBuilding a network, milliseconds: U-Net (best of 9) and 20 random designs (median, largest)")
    print(f"{'backbone':<26} {'parameters':>12} {'U-Net':>8} {'random designs':>18}")
    missed = []
    for dims, base in ((2, 8), (2, 32), (3, 8), (3, 32)):
        backbone = isotropic_backbone(2 if dims == 2 else 3, n_levels=N_LEVELS, base_width=base)
        unet = Architecture(backbone, PRESETS["u-net"].genome(N_LEVELS))
        rng, space = random.Random(0), design_space("default", N_LEVELS)
        others = [Architecture(backbone, space.sample(rng)) for _ in range(20)]
        build(unet)
        unet_ms = 1000 * min(seconds(partial(build, unet)) for _ in range(9))  # nearly all of it draws random numbers
        times = sorted(1000 * seconds(partial(build, other)) for other in others)
        n_parameters = cost(unet, PATCH[dims]).n_parameters
        spread = f"{median(times):.0f}, {times[-1]:.0f}"
        print(f"{dims}D, width {base} at level 0{'':<6} {n_parameters:12,} {unet_ms:8.0f} {spread:>18}")
        if unet_ms > MAX_BUILD_MS:
            missed.append(f"build the {dims}D U-Net of width {base} in {MAX_BUILD_MS} ms")
    return missed


def training_steps() -> list[str]:
    """Forward and backward of the U-Net preset beside MONAI's BasicUNet with the same configuration."""
    print("\nForward and backward, ours beside MONAI's BasicUNet with the same configuration and batch")
    print(f"{'batch':<18} {'parameters':>11} {'ours ms':>8} {'MONAI ms':>9} {'ratio':>6} {'96 %':>13} {'peak MiB':>12}")
    missed = []
    for dims in (2, 3):
        ours, theirs = _step(dims, "ours"), _step(dims, "MONAI")
        ours(), theirs()  # warm up
        pairs = [
            (seconds(ours), seconds(theirs)) if i % 2 else tuple(reversed((seconds(theirs), seconds(ours))))
            for i in range(N_PAIRS)
        ]
        ratios = sorted(a / b for a, b in pairs)
        ms = [1000 * median(column) for column in zip(*pairs, strict=True)]
        peaks = [_peak_mib(dims, whose) for whose in ("ours", "MONAI")]
        shape = "x".join(map(str, STEP_SHAPE[dims]))
        print(
            f"{shape:<18} {_n_parameters(dims):>11} {ms[0]:8.0f} {ms[1]:9.0f} {median(ratios):6.3f} "
            f"{ratios[1]:.3f}..{ratios[-2]:.3f} {peaks[0]:5.0f}, {peaks[1]:5.0f}"
        )
        if ratios[1] > 1:
            missed.append(f"a training step as fast as MONAI's in {dims}D")
        if round(peaks[0]) > round(peaks[1]):
            missed.append(f"no more memory than MONAI in {dims}D")
    return missed


def _network(dims: int, whose: str) -> nn.Module:
    if whose == "ours":
        return build(basic_unet(2 if dims == 2 else 3))
    return BasicUNet(spatial_dims=dims, in_channels=1, out_channels=2)


def _n_parameters(dims: int) -> str:
    ours, theirs = (sum(p.numel() for p in _network(dims, whose).parameters()) for whose in ("ours", "MONAI"))
    assert ours == theirs
    return f"{ours:,}"


def _step(dims: int, whose: str) -> Callable[[], None]:
    network = _network(dims, whose)
    x = torch.randn(STEP_SHAPE[dims], generator=torch.Generator().manual_seed(0))

    def step() -> None:
        network.zero_grad(set_to_none=True)
        network(x).square().mean().backward()

    return step


def _peak_mib(dims: int, whose: str) -> float:
    """Median over three fresh processes, in which freed tensors go back to the system at once (glibc)."""
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    peaks = []
    for _ in range(3):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peaks.append(pool.submit(_measured_mib, dims, whose).result())
    return median(peaks)


def _measured_mib(dims: int, whose: str) -> float:
    """Peak of the resident set in two steps above what the network and its input left."""
    torch.set_num_threads(1)
    step = _step(dims, whose)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here, see proc(5)
    before = _resident_mib("VmRSS")
    step()
    step()
    return _resident_mib("VmHWM") - before


def _resident_mib(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def documents() -> list[str]:
    """Times of reading the largest architectures, and documents made to be slow."""
    loads(Architecture(isotropic_backbone(2), PRESETS["u-net"].genome(5)).dumps())  # imports the schema library
    print(f"\nReading a document; at most {MAX_BYTES:,} bytes and {MAX_DEPTH} levels of nesting are looked at")
    print(f"{'document':<42} {'bytes':>10} {'ms':>8}  what came of it")
    rows = []
    for name, text in _documents():
        outcome: list[str] = []
        time = min(seconds(lambda text=text, outcome=outcome: outcome.append(_outcome(text))) for _ in range(3))  # type: ignore[misc]
        rows.append((time, name, len(text.encode()), outcome[0]))
    for time, name, n_bytes, came in rows:
        print(f"{name:<42} {n_bytes:10,} {1000 * time:8.1f}  {came[:70]}")
    print(f"slowest: {max(rows)[1]}, {1000 * max(rows)[0]:.0f} ms; largest: {max(rows, key=lambda row: row[2])[1]}")
    return []


def _outcome(text: str) -> str:
    try:
        return f"an architecture of {len(loads(text).genome.nodes)} nodes"
    except DocumentError as error:
        return f"refused: {error}"


def _documents() -> Iterator[tuple[str, str]]:
    """Yield documents: a description and a text."""
    unet = Architecture(isotropic_backbone(2, n_levels=N_LEVELS), PRESETS["u-net"].genome(N_LEVELS))
    yield "U-Net, 5 levels", unet.dumps()
    deepest = isotropic_backbone(3, n_levels=MAX_LEVELS)
    largest = Architecture(deepest, PRESETS["unet++"].genome(MAX_LEVELS))
    yield f"UNet++, {MAX_LEVELS} levels", largest.dumps()
    filled = MAX_BYTES - len(largest.dumps()) - 100
    yield (
        "the same, provenance up to the cap",
        Architecture(deepest, largest.genome, provenance={"note": "x" * filled}).dumps(),
    )
    numbers = Architecture(deepest, largest.genome, provenance={"numbers": list(range(70_000))})
    yield "the same, provenance of many numbers", json.dumps(numbers.to_json())
    data = unet.to_json()
    data["genome"]["nodes"][0]["sources"] = ["E0"] * 100_000
    yield "100,000 equal sources", json.dumps(data)
    data["genome"]["nodes"][0]["sources"] = [f"E{i}" for i in range(90_000)]
    yield "90,000 different sources", json.dumps(data)
    data["genome"]["nodes"] = [Genome.to_json(unet.genome)["nodes"][0]] * 6000
    yield "6,000 nodes", json.dumps(data)
    yield "brackets without end", "[" * MAX_BYTES
    yield "a number of a million digits", '{"format": ' + "1" * (MAX_BYTES - 100) + "}"
    yield "80,000 unknown fields", json.dumps({f"f{i}": 0 for i in range(80_000)})
    yield "beyond the cap", " " * (MAX_BYTES + 1)


if __name__ == "__main__":
    sys.exit(main())
