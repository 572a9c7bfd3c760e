"""How noisy is a score, and how well does it foretell a longer training? Runs the trainings; noise_report.py judges.

    python benchmarks/noise.py nuclei --data DATA --minutes 60      # goes on where it stopped
    python benchmarks/noise.py slices --data DATA --minutes 60
    python benchmarks/noise_report.py > benchmarks/results/noise.txt

A seeded dozen of random designs of the default space, at most 1.5 times as dear as the U-Net. Every variant of the
recipe trains eight of them on three seeds, the default budget all twelve; so do the references, on two seeds and four
times as long. Several
read-outs are taken of every run (hard and soft Dice by case and class, of the last and of averaged weights, on the way
and at the end), so that they are compared on the same trainings. One line of JSON a run goes to
benchmarks/results/noise-SET.jsonl; runs that stand there already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unetx_evaluators.budgets import SELECTION_CASES, WIDTH_FACTOR, default_budget
from unetx_evaluators.device import DeviceProfile, memory_format, profile, trusted
from unetx_evaluators.inference import predict_logits
from unetx_evaluators.tasks import Task, TaskOptions, open_source, prepare
from unetx_evaluators.training.batches import BatchStream
from unetx_evaluators.training.cases import Case, open_cases
from unetx_evaluators.training.fast_cpu import fast_on_cpu
from unetx_evaluators.training.recipe import Recipe, learning_rate
from unetx_evaluators.training.step import EagerStep
from unetx_space.architecture import Architecture
from unetx_space.canonical import canonical, key
from unetx_space.cost import cost
from unetx_space.design_space import design_space
from unetx_space.presets import PRESETS
from unetx_space.validity import faults

RESULTS = Path(__file__).parent / "results"
N_DESIGNS, N_VARIANT_DESIGNS = 12, 8
VARIANT_SEEDS, REFERENCE_SEEDS = (0, 1, 2), (100, 101)
REFERENCE_LENGTH = 4
MAX_COST = 1.5
OVERLAP = 0.25
AVERAGED = (0.1,)
"""Time constants of the averaged weights, as shares of the steps."""
READ_AT = (0.9, 1.0)
"""Shares of the steps."""


@dataclass(frozen=True)
class Set:
    """A dataset as this experiment uses it."""

    folder: str
    options: TaskOptions
    steps: int
    batch_size: int
    default: str
    """The variant that is the default budget."""


SETS = {
    "nuclei": Set("nuclei_dsb2018", TaskOptions(patch=(64, 64)), steps=400, batch_size=8, default="present"),
    "slices": Set("hippocampus_msd", TaskOptions(dims=2), steps=200, batch_size=16, default="small-batch"),
}


@dataclass(frozen=True)
class Variant:
    """A way of training at the same cost as every other."""

    recipe: Recipe
    batch_factor: float = 1.0
    """Larger batches and fewer steps for it; below 1 the reverse."""

    def steps(self, chosen: Set) -> int:
        return round(chosen.steps / self.batch_factor)

    def batch_size(self, chosen: Set) -> int:
        return round(chosen.batch_size * self.batch_factor)


REFERENCE = "reference"
PRESENT = Recipe(learning_rate=1e-2, warmup=0.1, background_weight=0.3)
VARIANTS = {
    "present": Variant(PRESENT),
    "naive": Variant(replace(PRESENT, learning_rate=3e-3, warmup=0.0, background_weight=1.0)),
    "small-batch": Variant(PRESENT, batch_factor=0.5),
    "smaller-batch": Variant(PRESENT, batch_factor=0.25),
}


@dataclass(frozen=True)
class Run:
    """One training."""

    dataset: str
    variant: str
    design: int
    seed: int

    @property
    def is_reference(self) -> bool:
        return self.variant == REFERENCE


def runs(dataset: str, variants: list[str]) -> Iterator[Run]:
    """Variants seed by seed and references design by design, so that a stop leaves what can be used."""
    for variant in variants:
        if variant == REFERENCE:
            yield from (Run(dataset, variant, design, seed) for design in range(N_DESIGNS) for seed in REFERENCE_SEEDS)
        else:
            n_designs = N_DESIGNS if variant == SETS[dataset].default else N_VARIANT_DESIGNS
            yield from (Run(dataset, variant, design, seed) for seed in VARIANT_SEEDS for design in range(n_designs))


def designs(task: Task) -> list[Architecture]:
    """The seeded dozen, no two alike."""
    backbone, rng = task.backbone(), random.Random(0)
    space = design_space("default", backbone.n_levels)
    limit = MAX_COST * cost(Architecture(backbone, PRESETS["u-net"].genome(backbone.n_levels)), task.patch).macs
    found: dict[str, Architecture] = {}
    while len(found) < N_DESIGNS:
        architecture = Architecture(backbone, canonical(space.sample(rng)))
        if not faults(architecture, task.patch) and cost(architecture, task.patch).macs <= limit:
            found.setdefault(key(architecture), architecture)
    return list(found.values())


@lru_cache(maxsize=2)
def opened(dataset: str, data: Path, cache: Path) -> Task:
    chosen = SETS[dataset]
    return prepare(open_source(data / chosen.folder), cache, chosen.options)


def check_default(chosen: Set, task: Task) -> None:
    """That the variant which stands for the default budget trains as it does."""
    variant, budget = VARIANTS[chosen.default], default_budget(task)
    assert variant.recipe == Recipe(), variant.recipe
    assert (variant.steps(chosen), variant.batch_size(chosen)) == (budget.steps, budget.batch_size), budget


def train(run: Run, data: Path, cache: Path) -> dict[str, Any]:
    """One training on one thread, and what was read of it."""
    torch.set_num_threads(1)
    started = time.process_time()
    task, chosen = opened(run.dataset, data, cache), SETS[run.dataset]
    variant = VARIANTS["present" if run.is_reference else run.variant]
    architecture = designs(task)[run.design]
    trained = replace(architecture, backbone=architecture.backbone.scaled(WIDTH_FACTOR))
    device = trusted(profile("cpu"), trained.backbone.sizes(task.patch))
    cases = open_cases(task, device, SELECTION_CASES[2])
    network = trained.build(seed=run.seed).to(memory_format=memory_format(task.dims))  # type: ignore[call-overload]
    n_steps = variant.steps(chosen) * (REFERENCE_LENGTH if run.is_reference else 1)
    batches = BatchStream(cases.train, task.patch, variant.batch_size(chosen), run.seed, variant.recipe, device.device)
    with fast_on_cpu(network):
        loss_sum, read_outs = train_and_read(network, batches, cases.selection, task, device, variant.recipe, n_steps)
    return {
        "variant": run.variant,
        "design": run.design,
        "seed": run.seed,
        "key": key(architecture),
        "steps": n_steps,
        "seconds": round(time.process_time() - started, 1),
        "precision": str(device.autocast_dtype or torch.float32).removeprefix("torch."),
        "loss_sum": round(loss_sum, 3),
        "dice": read_outs,
    }


def train_and_read(
    network: nn.Module,
    batches: BatchStream,
    selection: tuple[Case, ...],
    task: Task,
    device: DeviceProfile,
    recipe: Recipe,
    n_steps: int,
) -> tuple[float, dict[str, Any]]:
    """The sum of the losses, and Dice at each of READ_AT and with averaged weights."""
    step = EagerStep(network, recipe, device)
    averages = {share: [p.detach().clone() for p in network.parameters()] for share in AVERAGED}
    read_outs: dict[str, Any] = {}
    loss_sum = 0.0
    for number in range(1, n_steps + 1):
        loss_sum += step(batches.batch(number), learning_rate(number, n_steps, recipe)).item()
        for share, weights in averages.items():
            torch._foreach_lerp_(weights, [p.detach() for p in network.parameters()], 1 / min(number, share * n_steps))
        for share in READ_AT:
            if number == round(share * n_steps):
                read_outs[f"last@{share}"] = read(network, selection, task, device)
    for share, weights in averages.items():
        with torch.no_grad():
            for parameter, averaged in zip(network.parameters(), weights, strict=True):
                parameter.copy_(averaged)
        read_outs[f"averaged {share}@1.0"] = read(network, selection, task, device)
    return loss_sum, read_outs


@torch.no_grad()
def read(network: nn.Module, cases: tuple[Case, ...], task: Task, device: DeviceProfile) -> dict[str, Any]:
    """Hard and soft Dice, ``[cases][classes]``."""
    network.eval()
    scores: dict[str, list[list[float]]] = {"hard": [], "soft": []}
    for case in cases:
        logits = predict_logits(network, case.image, task.patch, device, overlap=OVERLAP, batch_size=16)
        predicted, probabilities = logits.argmax(0), logits.softmax(0)
        truth = [case.label == index for index in range(1, len(task.classes))]
        scores["hard"].append([dice((predicted == i).float(), t) for i, t in enumerate(truth, start=1)])
        scores["soft"].append([dice(probabilities[i], t) for i, t in enumerate(truth, start=1)])
    network.train()
    return scores


def dice(foreground: Tensor, truth: Tensor) -> float:
    total = float(foreground.sum() + truth.sum())
    return round(2 * float(foreground[truth].sum()) / total, 4) if total else float(np.nan)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=SETS)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the two datasets")
    parser.add_argument("--cache", type=Path, default=Path("runs/.cache"))
    parser.add_argument("--variants", default=",".join(("present", REFERENCE, *list(VARIANTS)[1:])))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0, help="no run begins later than this")
    asked = parser.parse_args()
    file = RESULTS / f"noise-{asked.dataset}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["variant"], row["design"], row["seed"]) for row in rows}
    waiting = [
        run for run in runs(asked.dataset, asked.variants.split(",")) if (run.variant, run.design, run.seed) not in done
    ]
    print(f"{len(done)} runs done, {len(waiting)} to do", file=sys.stderr)
    check_default(SETS[asked.dataset], opened(asked.dataset, asked.data, asked.cache))
    ends = time.monotonic() + 60 * asked.minutes
    with ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool, file.open("a") as out:
        running: set[Future[dict[str, Any]]] = set()
        while running or (waiting and time.monotonic() < ends):
            while waiting and len(running) < asked.workers and time.monotonic() < ends:
                running.add(pool.submit(train, waiting.pop(0), asked.data, asked.cache))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                out.write(json.dumps(future.result()) + "\n")
                out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
