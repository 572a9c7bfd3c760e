"""What a score means: trains what proxies_report.py judges. Resumable; a few hours for everything on two cores.

    python benchmarks/proxies.py score --data DATA --minutes 60        # goes on where it stopped
    python benchmarks/proxies.py voxels --data DATA --minutes 60
    python benchmarks/proxies.py spread --data DATA --minutes 60
    python benchmarks/proxies.py agreement --data DATA --sets isbi2012_em --minutes 60
    python benchmarks/proxies_report.py > benchmarks/results/proxies.txt

Every dataset is asked for as a search does it, its pilot included, on two CPU workers of one thread each.

``score``: the U-Net under the default budget on two seeds. Beside it the same trained eight times longer;
``plain_search.py`` with the same steps and batch, on the original voxels, in patches of as many voxels; and the plan
and training of before (original voxels, batches of 8 in 2D and 2 in 3D, learning rate 1e-2, background weight 0.3).

``voxels``: the U-Net on voxels so many times coarser in-plane, learning rate 3e-3, background weight 1, default steps.

``spread``: a seeded dozen of random designs, at most 1.5 times as dear as the U-Net, on two seeds, default budget.

``agreement``: the same designs, U-Net and no-skip. References are trained eight times longer on two seeds. Proxies of
equal steps: from scratch; started from the encoder of a trained U-Net; from all of its parameters that have the same
name and shape; from parameters that sampled designs of the space have trained in turns. And from scratch, four times
longer. What evaluations start from is trained once a study, three times as long as they are.

One line of JSON a run goes to benchmarks/results/proxies-SET.jsonl; what stands there is not repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file

from unetx_evaluators.budgets import default_budget
from unetx_evaluators.evaluation import Budget, Evaluation, NullObserver, Parent
from unetx_evaluators.pilot import with_steps
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import Task, TaskOptions, open_source, prepare
from unetx_evaluators.tasks.sources import ClassMap
from unetx_evaluators.tasks.sources.files import FileSource
from unetx_evaluators.training.recipe import Recipe
from unetx_search.config import SearchConfig
from unetx_search.executors.local import LocalExecutor
from unetx_search.executors.slots import make_slots
from unetx_search.resolving import resolve_request
from unetx_space.architecture import Architecture
from unetx_space.canonical import canonical, key
from unetx_space.cost import cost
from unetx_space.design_space import design_space
from unetx_space.network import build
from unetx_space.presets import PRESETS
from unetx_space.validity import faults

RESULTS = Path(__file__).parent / "results"
PLAIN = Path(__file__).with_name("plain_search.py")
GROUPS = {"acdc_cardiac": "^(patient[0-9]+)"}
"""Patients of the sets that have several cases of one."""
SETS_2D = ("ph2_skin", "isbi2012_em", "fuseg_foot_ulcer", "nuclei_dsb2018")
SETS = (*SETS_2D, "acdc_cardiac", "hippocampus_msd")
SEEDS, REFERENCE_SEEDS = (0, 1), (100, 101)
PARENT_SEED = 1000
LONGER, PARENT_LENGTH, FOUR = 8, 3, 4
N_DESIGNS = 12
MAX_COST = 1.5
"""Times the U-Net's multiply-adds."""
FACTORS = (1.0, 1.5, 2.0, 3.0)
"""Of coarser voxels."""
PROXIES = ("scratch", "encoder", "all", "shared", "four times longer")


@dataclass(frozen=True)
class Run:
    """One training."""

    part: str
    dataset: str
    variant: str
    design: str
    """Number of a design among the dozen, or name of a preset."""
    seed: int

    @property
    def is_alone(self) -> bool:
        """Whether a run uses all cores by itself."""
        return self.variant == "plain"


def runs(part: str, dataset: str) -> Iterator[Run]:
    """Runs in an order that leaves usable results after a stop."""
    if part == "score":
        for variant, seeds in (("default", SEEDS), ("before", SEEDS), ("longer", SEEDS[:1]), ("plain", SEEDS[:1])):
            yield from (Run(part, dataset, variant, "u-net", seed) for seed in seeds)
        return
    if part == "voxels":
        yield from (Run(part, dataset, f"{factor:g} times coarser", "u-net", 0) for factor in FACTORS)
        return
    dozen = [str(number) for number in range(N_DESIGNS)]
    if part == "spread":
        yield from (Run(part, dataset, "default", design, seed) for seed in SEEDS for design in dozen)
        return
    dozen = ["u-net", "no-skip", *dozen]
    for variant in PROXIES[:-1]:
        yield from (Run(part, dataset, variant, design, seed) for seed in SEEDS for design in dozen)
    yield from (Run(part, dataset, "reference", design, seed) for design in dozen for seed in REFERENCE_SEEDS)
    yield from (Run(part, dataset, PROXIES[-1], design, seed) for design in dozen for seed in SEEDS[:1])


@lru_cache(maxsize=1)
def settled(dataset: str, data: Path, out: Path) -> tuple[Task, Budget]:
    """The task and budget with which a search begins, its pilot included, or those that the cache holds."""
    config = SearchConfig(data=data / dataset, out=out, gpus=0, group_by=GROUPS.get(dataset))
    slots = make_slots(0, cpu_workers=2)
    console = Console(file=sys.stderr)
    found = resolve_request(
        config, config.source(), "cpu", lambda task: LocalExecutor(ProxyEvaluator(), task, slots), console
    )
    return found.task, found.budget


@lru_cache(maxsize=1)
def as_before(dataset: str, data: Path, out: Path) -> tuple[Task, Budget]:
    """The plan with original voxels and the recipe that was tuned on two sets."""
    source = open_source(data / dataset)
    task, budget = settled(dataset, data, out)
    finest = min(task.alternatives, default=None)
    options = TaskOptions(group_by=GROUPS.get(dataset), spacing=finest)
    task = prepare(source, out / ".cache", options)
    steps, batch_size = {2: (200, 8), 3: (240, 2)}[task.dims]
    recipe = Recipe(learning_rate=1e-2, background_weight=0.3)
    return task, replace(with_steps(budget, steps), batch_size=batch_size, recipe=recipe)


@lru_cache(maxsize=1)
def coarser(dataset: str, factor: float, data: Path, out: Path) -> tuple[Task, Budget]:
    """The spacing, coarsened as the planner does, finest axes first."""
    original, _ = as_before(dataset, data, out)
    finest = min(original.spacing) * factor
    spacing = tuple(max(mm, finest) for mm in original.spacing)
    source, options = open_source(data / dataset), TaskOptions(group_by=GROUPS.get(dataset), spacing=spacing)
    task = prepare(source, out / ".cache", options)
    return task, replace(default_budget(task), recipe=Recipe(learning_rate=3e-3, background_weight=1.0))


def designs(task: Task) -> list[Architecture]:
    """The seeded dozen of distinct designs."""
    backbone, rng = task.backbone(), random.Random(0)
    space = design_space("default", backbone.n_levels)
    limit = MAX_COST * cost(Architecture(backbone, PRESETS["u-net"].genome(backbone.n_levels)), task.patch).macs
    found: dict[str, Architecture] = {}
    while len(found) < N_DESIGNS:
        architecture = Architecture(backbone, canonical(space.sample(rng)))
        if not faults(architecture, task.patch) and cost(architecture, task.patch).macs <= limit:
            found.setdefault(key(architecture), architecture)
    return list(found.values())


def architecture(task: Task, design: str) -> Architecture:
    if design.isdigit():
        return designs(task)[int(design)]
    backbone = task.backbone()
    return Architecture(backbone, PRESETS[design].genome(backbone.n_levels))


def train(run: Run, data: Path, out: Path) -> dict[str, Any]:
    """The row of one training on one thread."""
    torch.set_num_threads(1)
    began = time.process_time()
    if run.part == "voxels":
        task, budget = coarser(run.dataset, float(run.variant.partition(" ")[0]), data, out)
    else:
        task, budget = (as_before if run.variant == "before" else settled)(run.dataset, data, out)
    match run.variant:
        case "longer" | "reference":
            budget = with_steps(budget, LONGER * budget.steps)
        case "four times longer":
            budget = with_steps(budget, FOUR * budget.steps)
        case "encoder" | "all" | "shared":
            budget = replace(budget, parent=parent(task, budget, run.variant))
    began_training = time.process_time()
    result = ProxyEvaluator().evaluate(
        architecture(task, run.design), task, budget, run.seed, NullObserver(), diagnosed_above=float("inf")
    )
    now = time.process_time()
    return {
        **row(run, task, budget, result),
        "seconds": round(now - began_training, 1),
        "before_s": round(began_training - began, 1),
    }


def row(run: Run, task: Task, budget: Budget, result: Evaluation) -> dict[str, Any]:
    by_class: dict[str, list[float]] = {}
    for score in result.case_scores:
        dice = score.values["dice"]
        if dice is not None:
            by_class.setdefault(score.class_name, []).append(dice)
    return {
        "part": run.part,
        "variant": run.variant,
        "design": run.design,
        "seed": run.seed,
        "steps": budget.steps,
        "batch_size": budget.batch_size,
        "learning_rate": budget.recipe.learning_rate,
        "background_weight": budget.recipe.background_weight,
        "patch": list(task.patch),
        "spacing": [round(mm, 4) for mm in task.spacing],
        "share": round(share(task), 3),
        "outcome": str(result.outcome),
        "dice": result.score,
        "original_dice": result.insight.original_dice,
        "by_class": {name: round(sum(values) / len(values), 4) for name, values in by_class.items()},
        "curve": [[point.step, round(point.score, 4), round(point.loss, 4)] for point in result.curve],
        "loss_sum": result.loss_sum,
    }


def share(task: Task) -> float:
    """The share of the median training image that a patch covers."""
    shapes = np.array([task.label(name).shape[-task.dims :] for name in task.splits.train])
    median = np.median(shapes, axis=0)
    return float(np.prod(np.minimum(task.patch, median) / median))


def parent(task: Task, budget: Budget, variant: str) -> Parent:
    """The weights that evaluations start from, trained once and kept with the task."""
    file = f"parents/{'shared' if variant == 'shared' else 'u-net'}-{budget.steps}.safetensors"
    path = task.folder / file
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        longer = with_steps(budget, PARENT_LENGTH * budget.steps)
        if variant == "shared":
            train_in_turns(task, longer, path)
        else:
            u_net = architecture(task, "u-net")
            ProxyEvaluator().evaluate(u_net, task, longer, PARENT_SEED, NullObserver(), weights=path)
    parts = ("stem.", "encoder.") if variant == "encoder" else ("",)
    return Parent(file, hashlib.sha256(path.read_bytes()).hexdigest(), parts)


def train_in_turns(task: Task, budget: Budget, path: Path) -> None:
    """Parameters by name and shape, shared by designs that are sampled anew at every step.

    Moments of the optimiser are kept by name and shape, too. A name that has several shapes keeps the one that was
    trained most.
    """
    from unetx_evaluators.device import memory_format, profile, with_safe_precision
    from unetx_evaluators.training.batches import BatchStream
    from unetx_evaluators.training.cases import open_cases
    from unetx_evaluators.training.fast_cpu import fast_on_cpu
    from unetx_evaluators.training.loss import heads_loss
    from unetx_evaluators.training.recipe import learning_rate

    rng, recipe = random.Random(PARENT_SEED), budget.recipe
    backbone = task.backbone().scaled(budget.width_factor)
    space = design_space("default", backbone.n_levels)
    device = with_safe_precision(profile("cpu"), backbone.sizes(task.patch))
    batches = BatchStream(
        open_cases(task, device, 1).train, task.patch, budget.batch_size, PARENT_SEED, recipe, device.device
    )
    shared: dict[tuple[str, torch.Size], tuple[torch.Tensor, dict[str, Any]]] = {}
    for step in range(1, budget.steps + 1):
        while faults(sampled := Architecture(backbone, canonical(space.sample(rng))), task.patch):
            pass
        network = build(sampled, seed=PARENT_SEED).to(memory_format=memory_format(task.dims, device.device))  # type: ignore[call-overload]
        named = dict(network.named_parameters())
        optimizer = torch.optim.AdamW(
            named.values(), lr=learning_rate(step, budget.steps, recipe), weight_decay=recipe.weight_decay
        )
        with torch.no_grad():
            for name, parameter in named.items():
                if known := shared.get((name, parameter.shape)):
                    parameter.copy_(known[0])
                    optimizer.state[parameter] = known[1]
        batch = batches.batch(step)
        with fast_on_cpu(network):
            with device.autocast():
                logits = network(batch.images.contiguous(memory_format=memory_format(task.dims, device.device)))
            heads_loss([logits], batch.labels, recipe.background_weight, ignores=task.ignores).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(named.values(), recipe.max_grad_norm)
        optimizer.step()
        for name, parameter in named.items():
            shared[name, parameter.shape] = parameter.detach(), optimizer.state[parameter]
    ascending = sorted(shared.items(), key=lambda item: float(item[1][1].get("step", 0)))
    save_file({name: value.contiguous() for (name, _), (value, _) in ascending}, path)


def described(source: FileSource, task: Task, name: str, budget: Budget) -> dict[str, Any]:
    """The task in the form of ``plain_search.py``, with one design at the width that is trained."""
    full = architecture(task, name)
    trained = replace(full, backbone=full.backbone.scaled(budget.width_factor))

    class_map = source.class_map
    assert isinstance(class_map, ClassMap)

    def pairs(cases: Sequence[str]) -> list[dict[str, str]]:
        files = (source.cases[case] for case in cases)
        return [{"image": str(one.images[0].resolve()), "label": str(one.label.resolve())} for one in files]

    return {
        "train": pairs(task.splits.train),
        "validation": pairs(task.splits.validation[: budget.validation_cases]),
        "patch": list(task.patch),
        "n_classes": len(task.classes),
        "label_values": list(class_map.values),
        "steps": budget.steps,
        "batch_size": budget.batch_size,
        "validations": len(budget.rungs),
        "architectures": [json.dumps(trained.to_json())],
    }


def plain(dataset: str, design: str, data: Path, out: Path) -> tuple[float, float]:
    """Seconds and Dice of a design by the script that a user would write: on original voxels, with all cores."""
    source = open_source(data / dataset)
    assert isinstance(source, FileSource)
    original, _ = as_before(dataset, data, out)
    _, budget = settled(dataset, data, out)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task.json"
        file.write_text(json.dumps(described(source, original, design, budget)), encoding="utf-8")
        words = [sys.executable, str(PLAIN), str(file), "--trials", "1"]
        told = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    return told["seconds"], told["scores"][0]


def train_plainly(run: Run, data: Path, out: Path) -> dict[str, Any]:
    """The row of a ``plain`` run."""
    seconds, dice = plain(run.dataset, run.design, data, out)
    found = {"part": run.part, "variant": run.variant, "design": run.design, "seed": run.seed}
    return {**found, "dice": dice, "original_dice": dice, "wall_s": round(seconds, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=("score", "voxels", "spread", "agreement"))
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the datasets")
    parser.add_argument("--sets", default="", help="names, separated by commas; all that are there by default")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="for the prepared data")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0, help="no run begins later than this")
    asked_for = parser.parse_args()
    known = SETS_2D if asked_for.part == "spread" else SETS
    ends = time.monotonic() + 60 * asked_for.minutes
    for dataset in asked_for.sets.split(",") if asked_for.sets else known:
        work_off(asked_for.part, dataset, asked_for.data, asked_for.out, asked_for.workers, ends)
    return 0


def work_off(part: str, dataset: str, data: Path, out: Path, n_workers: int, ends: float) -> None:
    """The runs of a part that are missing, until the time is up."""
    file = RESULTS / f"proxies-{dataset}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["part"], row["variant"], row["design"], row["seed"]) for row in rows}
    if part == "agreement":  # the spread's runs are those from scratch
        of_spread = [{**row, "part": part, "variant": "scratch"} for row in rows if row["part"] == "spread"]
        same = [row for row in of_spread if (part, "scratch", row["design"], row["seed"]) not in done]
        with file.open("a") as results:
            results.writelines(json.dumps(row) + "\n" for row in same)
        done |= {(part, "scratch", row["design"], row["seed"]) for row in same}
    waiting = [run for run in runs(part, dataset) if (run.part, run.variant, run.design, run.seed) not in done]
    print(f"{dataset}: {len(done)} runs are there, {len(waiting)} to do", file=sys.stderr)
    if not waiting or time.monotonic() >= ends:
        return
    settled(dataset, data, out)
    with file.open("a") as results:

        def note(found: dict[str, Any]) -> None:
            results.write(json.dumps(found) + "\n")
            results.flush()

        together: Sequence[Run] = [run for run in waiting if not run.is_alone]
        for variant in dict.fromkeys(run.variant for run in together):
            if variant in ("encoder", "shared"):  # before two workers would do it at once
                parent(*settled(dataset, data, out), variant)
        with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
            queue, running = list(together), set[Future[dict[str, Any]]]()
            while running or (queue and time.monotonic() < ends):
                while queue and len(running) < n_workers and time.monotonic() < ends:
                    running.add(pool.submit(train, queue.pop(0), data, out))
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    note(future.result())
        for run in waiting:
            if run.is_alone and time.monotonic() < ends:
                note(train_plainly(run, data, out))


if __name__ == "__main__":
    sys.exit(main())
