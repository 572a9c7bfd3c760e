"""How fast is an evaluation: a step beside a bare loop, evaluations an hour beside the script a user would write.

    python benchmarks/trainer.py --data DATA > benchmarks/results/trainer-2cores.txt

Needs a machine with nothing else to do. ``profile_step.py`` gives the first part. For the second, ``plain_search.py``
and our evaluator train the same designs on the same cases, patches, batches, steps and number of validations, in turns:
the script one after the other with all cores (torch's default), ours in two worker processes of one thread each. Start
and caching are left out on both sides. Ours is told with everything that it does by default: dry run, scores of all
kinds, zero-cost features, diagnosis.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import profile_step

from unetx_evaluators.budgets import default_budget
from unetx_evaluators.evaluation import Evaluation, NullObserver
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import Task, TaskOptions, open_source, prepare
from unetx_evaluators.tasks.sources import ClassMap
from unetx_evaluators.tasks.sources.files import FileSource
from unetx_space.architecture import Architecture
from unetx_space.presets import PRESETS

DATASETS = {"nuclei_dsb2018": 4.0, "hippocampus_msd": 3.0}
"""With how many times the script's evaluations an hour are wanted."""
DESIGNS = ("u-net", "attention-u-net")
PLAIN = Path(__file__).with_name("plain_search.py")


def design(task: Task, name: str) -> Architecture:
    backbone = task.backbone()
    return Architecture(backbone, PRESETS[name].genome(backbone.n_levels))


def described(source: FileSource, task: Task, name: str) -> dict[str, Any]:
    """The task as ``plain_search.py`` wants it, with one design at the width that is trained."""
    budget = default_budget(task)
    architecture = design(task, name)
    trained = replace(architecture, backbone=architecture.backbone.scaled(budget.width_factor))

    class_map = source.class_map
    assert isinstance(class_map, ClassMap)

    def pairs(cases: Sequence[str]) -> list[dict[str, str]]:
        files = (source.cases[case] for case in cases)
        return [{"image": str(one.images[0].resolve()), "label": str(one.label.resolve())} for one in files]

    return {
        "train": pairs(task.splits.train),
        "selection": pairs(task.splits.selection[: budget.selection_cases]),
        "patch": list(task.patch),
        "n_classes": len(task.classes),
        "label_values": list(class_map.values),
        "steps": budget.steps,
        "batch_size": budget.batch_size,
        "validations": len(budget.rungs),
        "architectures": [json.dumps(trained.to_json())],
    }


def plain(description: dict[str, Any], folder: Path) -> tuple[float, float]:
    """Seconds and Dice of one evaluation by the user's script."""
    file = folder / "task.json"
    file.write_text(json.dumps(description), encoding="utf-8")
    words = [sys.executable, str(PLAIN), str(file), "--trials", "1"]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    told = json.loads(run.stdout.splitlines()[-1])
    return told["seconds"], told["scores"][0]


def evaluate(task: Task, name: str, seed: int) -> Evaluation:
    return ProxyEvaluator().evaluate(design(task, name), task, default_budget(task), seed, NullObserver())


def warm_up(worker: int) -> int:
    """Have a worker import what it needs; not so fast that one worker does it for both."""
    from unetx_evaluators.training import trainer

    time.sleep(2)
    return len(trainer.__name__) + worker


def compare(dataset: str, data: Path, folder: Path, pool: ProcessPoolExecutor) -> float:
    """Print one line a design; the ratio of evaluations an hour over all of them."""
    source = open_source(data / dataset)
    assert isinstance(source, FileSource)
    task = prepare(source, folder, TaskOptions())
    print(f"\n{dataset}: {default_budget(task)}, patch {'x'.join(map(str, task.patch))}")
    print(f"  {'design':<16}{'script s':>9}{'Dice':>8}{'ours s for two':>16}{'Dice':>16}{'ratio':>7}")
    ratios = []
    for number, name in enumerate(DESIGNS):
        seconds, dice = plain(described(source, task, name), folder)
        began = time.perf_counter()
        results = list(pool.map(evaluate, [task] * 2, [name] * 2, [2 * number, 2 * number + 1]))
        own_seconds = time.perf_counter() - began
        ratios.append(2 * seconds / own_seconds)
        scores = ", ".join(f"{result.score:.4f}" for result in results)
        print(f"  {name:<16}{seconds:9.0f}{dice:8.4f}{own_seconds:16.0f}{scores:>16}{ratios[-1]:7.1f}", flush=True)
    return fmean(ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the two datasets")
    asked = parser.parse_args()
    profile_step.main()
    enough = True
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
    ):
        list(pool.map(warm_up, (0, 1)))
        for dataset, wanted in DATASETS.items():
            ratio = compare(dataset, asked.data, Path(folder), pool)
            print(f"  {ratio:.1f} times the evaluations an hour, {wanted:g} wanted")
            enough &= ratio >= wanted
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
