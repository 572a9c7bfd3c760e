"""Our plans beside nnU-Net's on the two test sets, and whether their estimates of time and memory hold on this CPU.

    OMP_NUM_THREADS=1 python benchmarks/plans.py [DATA] > benchmarks/results/plans.txt

DATA holds hippocampus_msd and nuclei_dsb2018 (default: UNETX_TEST_DATA). nnU-Net's numbers are recorded in
results/plans_nnunet.json, which says how. Both read all cases, so that like is compared with like; a search plans from
its training cases. Times are CPU times of one thread, so that other work on the machine moves them little. Memory is
the peak of the resident set over two steps above where it was once the network was built, in a process of its own
(Linux); weights are in the estimate and not in the measurement. docs/planning.md explains the differences.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from math import prod
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Any, Literal

import torch

from unetx_evaluators import budgets, device
from unetx_evaluators.tasks.field_of_view import with_field_of_view
from unetx_evaluators.tasks.fingerprint import CaseFacts, fingerprint, survey
from unetx_evaluators.tasks.options import Machine, TaskOptions
from unetx_evaluators.tasks.planning import NetworkPlan, plan
from unetx_evaluators.tasks.preprocessing import Preparation, choose_preparation
from unetx_evaluators.tasks.sizing import LOSS_MACS, MACS_PER_SECOND
from unetx_evaluators.tasks.sources import Source, open_source
from unetx_evaluators.training.batches import Batch
from unetx_evaluators.training.recipe import Recipe
from unetx_evaluators.training.step import EagerStep
from unetx_space.architecture import Architecture
from unetx_space.backbone import Backbone
from unetx_space.cost import cost
from unetx_space.network import build
from unetx_space.presets import preset

NNUNET = Path(__file__).parent / "results" / "plans_nnunet.json"
N_STEPS = 7

SEEN_AS: tuple[tuple[str, str, Literal[2, 3]], ...] = (
    ("hippocampus_msd", "3d_fullres", 3),
    ("hippocampus_msd", "2d", 2),
    ("nuclei_dsb2018", "2d", 2),
)
"""Dataset, nnU-Net's configuration, our dimensions."""

MEASURED: tuple[tuple[tuple[int, ...], int, int], ...] = (
    ((128, 128), 5, 2),
    ((256, 256), 5, 2),
    ((32, 48, 32), 4, 3),
    ((40, 56, 40), 4, 3),
    ((64, 64, 64), 5, 2),
    ((64, 64, 64), 5, 30),
)
"""Patch, levels, classes."""


def main() -> None:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["UNETX_TEST_DATA"])
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {device.profile('cpu').name}\n")
    recorded = json.loads(NNUNET.read_text(encoding="utf-8"))
    print(f"Plans: {recorded['tool']} for 8 GB, ours for a GPU and for one CPU core\n")
    surveyed = {name: _surveyed(open_source(data / name, labels=None)) for name in recorded["datasets"]}
    for name, configuration, dims in SEEN_AS:
        theirs = recorded["datasets"][name]["configurations"][configuration]
        _compare(f"{name}, {configuration}", theirs, *surveyed[name], dims)
    _measure()


def _surveyed(source: Source) -> tuple[Source, list[CaseFacts]]:
    """Survey all cases, and measure reading and survey."""
    reading, surveying, facts = 0.0, 0.0, []
    for name in source.case_names:
        start = process_time()
        case = source.read(name)
        middle = process_time()
        facts.append(survey(case, name, len(source.classes)))
        reading, surveying = reading + middle - start, surveying + process_time() - middle
    n = len(facts) / 1000
    print(f"{source.name}: {reading / n:.1f} ms to read a case, {surveying / n:.1f} ms to survey it")
    return source, facts


def _compare(
    title: str, theirs: dict[str, Any], source: Source, facts: Sequence[CaseFacts], dims: Literal[2, 3]
) -> None:
    gpu, cpu = (_ours(source, facts, dims, machine) for machine in ("cuda", "cpu"))
    print(f"\n{title}\n{'':14}{'nnU-Net':>28}{'ours, GPU':>28}{'ours, CPU core':>28}")
    rows = [
        ("spacing, mm", _by(theirs["spacing"]), *(_by(preparation.network_spacing) for preparation, _ in (gpu, cpu))),
        (
            "normalisation",
            ", ".join(theirs["normalisation"]),
            *(", ".join(c.scheme for c in preparation.channels) for preparation, _ in (gpu, cpu)),
        ),
        ("patch", _by(theirs["patch"]), *(_by(network.patch) for _, network in (gpu, cpu))),
        ("batch", theirs["batch_size"], *[budgets.BATCH_SIZE[dims]] * 2),
        ("levels", len(theirs["strides"]), *(len(network.strides) for _, network in (gpu, cpu))),
        ("total stride", _total(theirs["strides"]), *(_total(network.strides) for _, network in (gpu, cpu))),
        ("widest", max(theirs["widths"]), *(max(network.widths) for _, network in (gpu, cpu))),
        ("image's share", "", *(f"{network.share:.0%}" for _, network in (gpu, cpu))),
        ("memory, GiB", "at most 8", *(f"{network.memory_gib:.2f}" for _, network in (gpu, cpu))),
        ("proxy, s", "", *(f"{network.seconds:.1f}" for _, network in (gpu, cpu))),
    ]
    for name, *cells in rows:
        print(f"{name:14}" + "".join(f"{cell!s:>28}" for cell in cells))


def _ours(
    source: Source, facts: Sequence[CaseFacts], dims: Literal[2, 3], machine: Machine
) -> tuple[Preparation, NetworkPlan]:
    options = TaskOptions(dims=dims, machine=machine)
    seen = fingerprint(facts)
    as_found = choose_preparation(seen, source.dims, source.channels, options)
    preparation = with_field_of_view(seen, as_found, len(source.channels), source.classes, options)
    return preparation, plan(seen, preparation, len(source.channels), len(source.classes), options)


def _measure() -> None:
    rates = ", ".join(f"{rate / 1e9:g} in {dims}D" for dims, rate in MACS_PER_SECOND["cpu"].items())
    print(f"\nOne CPU core; estimates by G multiply-adds a second: {rates}, and {LOSS_MACS} per voxel and class")
    print(f"{'':21}one step of a proxy{'':6}proxy, s{'':12}full size, GiB")
    print(f"{'patch':13} classes       ms    G/s  measured estimated  measured estimated")
    for patch, n_levels, n_classes in MEASURED:
        dims: Literal[2, 3] = 2 if len(patch) == 2 else 3
        backbone = Backbone(
            dims,
            in_channels=1,
            out_channels=n_classes,
            widths=tuple(min({2: 512, 3: 320}[dims], 32 * 2**level) for level in range(n_levels)),
            strides=((1,) * dims, *[(2,) * dims] * (n_levels - 1)),
        )
        unet = Architecture(backbone, preset("u-net").genome(n_levels))
        proxy = replace(unet, backbone=backbone.scaled(budgets.WIDTH_FACTOR))
        seconds, _ = _in_a_new_process(proxy, patch, N_STEPS)
        _, gib = _in_a_new_process(unet, patch, 2)
        n_steps, batch_size = budgets.STEPS[dims], budgets.BATCH_SIZE[dims]
        macs = (cost(proxy, patch).macs + LOSS_MACS * n_classes * prod(patch)) * batch_size
        planned = _planned(patch, n_levels, n_classes)
        print(
            f"{_by(patch):13} {n_classes:7} {1e3 * seconds:8.0f} {macs / seconds / 1e9:6.1f} {n_steps * seconds:9.1f} "
            f"{planned.seconds:9.1f} {gib:9.2f} {planned.memory_gib:9.2f}"
        )


def _planned(patch: tuple[int, ...], n_levels: int, n_classes: int) -> NetworkPlan:
    """A plan with the patch and levels that are measured."""
    options = TaskOptions(patch=patch, levels=n_levels)
    image = CaseFacts(
        name="",
        shape=patch,
        spacing=(1.0,) * len(patch),
        box=((0,) * len(patch), patch),
        class_voxels=(1,) * n_classes,
        thickness=(None,) * n_classes,
        intensities=((0.0, 1.0),),
        ranges=((0.0, 1.0),),
    )
    seen = fingerprint([image])
    preparation = choose_preparation(seen, 2 if len(patch) == 2 else 3, ("grey",), options)
    return plan(seen, preparation, 1, n_classes, options)


def _in_a_new_process(architecture: Architecture, patch: tuple[int, ...], n_steps: int) -> tuple[float, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_trained, architecture, patch, n_steps).result()


def _trained(architecture: Architecture, patch: tuple[int, ...], n_steps: int) -> tuple[float, float]:
    """CPU seconds of the fastest step, and memory of the steps in GiB."""
    dims, n_classes = len(patch), architecture.backbone.out_channels
    profile = device.with_safe_precision(device.profile("cpu"), architecture.backbone.sizes(patch))
    with device.torch_settings(profile, 1):
        network = build(architecture).to(memory_format=device.memory_format(dims, torch.device("cpu")))  # type: ignore[call-overload]
        step = EagerStep(network, Recipe(), profile)
        labels = torch.randint(0, n_classes, (budgets.BATCH_SIZE[dims], *patch), dtype=torch.uint8)
        batch = Batch(torch.randn(len(labels), 1, *patch), labels)
        memory = device.PeakMemory(profile.device)
        before = memory.mib() or 0.0
        seconds = []
        for _ in range(n_steps):
            start = process_time()
            step(batch, 1e-3).item()
            seconds.append(process_time() - start)
        return min(seconds), ((memory.mib() or 0.0) - before) / 1024


def _total(strides: Sequence[Sequence[int]]) -> str:
    total = [1] * len(strides[0])
    for stride in strides:
        total = [a * b for a, b in zip(total, stride, strict=True)]
    return _by(total)


def _by(numbers: Sequence[float]) -> str:
    return "x".join(f"{number:g}" for number in numbers)


if __name__ == "__main__":
    main()
