"""What an evaluation spends beside its training steps: scores at rungs and at the end, diagnosis, dry run.

    python benchmarks/extras.py --data DATA > benchmarks/results/extras-2cores.txt

A U-Net is evaluated once on each dataset with the default budget on one CPU thread, as a worker does it, first without
and then with a diagnosis. Told is CPU time, which a neighbour on the machine does not change. Everything but steps (the
making of their batches included) shall take at most MOST of an evaluation that is not diagnosed.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from unetx_evaluators import diagnosis, scoring, zero_cost
from unetx_evaluators.budgets import default_budget
from unetx_evaluators.evaluation import Budget, Evaluation, NullObserver
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import Task, TaskOptions, open_source, prepare
from unetx_evaluators.training import batches, dry_run, step, trainer
from unetx_space.architecture import Architecture
from unetx_space.presets import PRESETS

DATASETS = ("ph2_skin", "isbi2012_em", "hippocampus_msd")
MOST = 0.08
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("steps", step.EagerStep, "__call__"),
    ("batches", batches.BatchStream, "batch"),
    ("rungs", scoring.Scorer, "rung_scores"),
    ("final", scoring.Scorer, "everything"),
    ("metrics", scoring, "case_scores"),
    ("original", scoring, "resampled_label_map"),
    ("dry run", dry_run, "dry_run"),
    ("zero-cost", zero_cost, "zero_cost"),
    ("gradients", trainer, "stage_gradients"),
    ("similar", diagnosis, "skip_similarities"),
)
"""What is timed: the heading, and where the function is looked up. Metrics and the label maps on original
voxels are parts of the final scores."""


@contextmanager
def timed(clock: Callable[[], float] = time.process_time, *more: tuple[str, Any, str]) -> Iterator[Counter[str]]:
    """Inside, the seconds of every part, and of ``more``, are summed: of the CPU unless another clock is given."""
    seconds: Counter[str] = Counter()

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = clock()
            try:
                return call(*args, **kwargs)
            finally:
                seconds[name] += clock() - began

        return run

    with ExitStack() as patches:
        for name, owner, attribute in (*PARTS, *more):
            patches.enter_context(patch.object(owner, attribute, watched(name, getattr(owner, attribute))))
        yield seconds


def evaluate(task: Task, budget: Budget, *, diagnose: bool) -> tuple[Evaluation, Counter[str], float]:
    """The evaluation, the CPU seconds of its parts, and those of the whole."""
    backbone = task.backbone()
    architecture = Architecture(backbone, PRESETS["u-net"].genome(backbone.n_levels))
    above = 0.0 if diagnose else math.inf
    with timed() as seconds:
        began = time.process_time()
        result = ProxyEvaluator().evaluate(architecture, task, budget, 0, NullObserver(), diagnosed_above=above)
        return result, seconds, time.process_time() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the datasets")
    parser.add_argument("--cache", type=Path, help="where they are, or will be, prepared")
    parser.add_argument("--only", nargs="*", default=DATASETS, help="some of the datasets")
    asked = parser.parse_args()
    print(
        f"{'':<28}{'all s':>8}" + "".join(f"{name:>11}" for name, *_ in PARTS) + f"{'rest':>8}{'extras':>8}{'Dice':>8}"
    )
    enough = True
    with tempfile.TemporaryDirectory() as folder:
        for dataset in asked.only:
            task = prepare(open_source(asked.data / dataset), asked.cache or Path(folder), TaskOptions())
            budget = default_budget(task)
            evaluate(task, replace(budget, steps=2, rungs=(1, 2)), diagnose=True)  # compiles, and reads the data
            for diagnose in (False, True):
                result, seconds, total = evaluate(task, budget, diagnose=diagnose)
                told = sum(seconds.values()) - seconds["metrics"] - seconds["original"]
                extras = 1 - (seconds["steps"] + seconds["batches"]) / total
                shares = "".join(f"{seconds[name] / total:11.1%}" for name, *_ in PARTS)
                name = f"{dataset}{', diagnosed' if diagnose else ''}"
                rest = (total - told) / total
                print(f"{name:<28}{total:8.1f}{shares}{rest:8.1%}{extras:8.1%}{result.score:8.4f}", flush=True)
                enough &= diagnose or extras <= MOST
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
