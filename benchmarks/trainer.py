"""How fast is an evaluation: a step beside a bare loop, evaluations an hour beside the script a user would write.

    python benchmarks/trainer.py --data DATA > benchmarks/results/trainer-2cores.txt

Needs a machine with nothing else to do. ``profile_step.py`` gives the first part. For the second, ``plain_search.py``
and our evaluator train the same designs on the same cases with the same batches, steps and number of validations, in
turns: the script one after the other with all cores (torch's default) on the original voxels, in patches of as many
voxels as ours; ours in two worker processes of one thread each under the budget that a search settles. Both are scored
on the original voxels. Start, caching and pilot are left out. Ours is told with everything that it does for most
designs: dry run, scores of all kinds.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

import profile_step
from proxies import architecture, plain, settled

from unetx_evaluators.evaluation import Budget, Evaluation, NullObserver
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import Task

DATASETS = ("ph2_skin", "acdc_cardiac", "hippocampus_msd")
WANTED = 3.0
"""Times the script's evaluations an hour."""
DESIGNS = ("u-net", "attention-u-net")


def evaluate(task: Task, budget: Budget, name: str, seed: int) -> Evaluation:
    return ProxyEvaluator().evaluate(
        architecture(task, name), task, budget, seed, NullObserver(), diagnosed_above=math.inf
    )


def warm_up(worker: int) -> int:
    """Import what a worker needs, slowly enough that one worker does not do it for both."""
    from unetx_evaluators.training import trainer

    time.sleep(2)
    return len(trainer.__name__) + worker


def compare(dataset: str, data: Path, out: Path, pool: ProcessPoolExecutor) -> float:
    """Print a line for each design, and return the ratio of evaluations an hour over all of them."""
    task, budget = settled(dataset, data, out)
    print(f"\n{dataset}: {budget.steps} steps, batch {budget.batch_size}, patch {task.patch} of {task.spacing} mm")
    print(f"  {'design':<16}{'script s':>9}{'Dice':>8}{'ours s for two':>16}{'Dice':>16}{'ratio':>7}")
    ratios = []
    for number, name in enumerate(DESIGNS):
        seconds, dice = plain(dataset, name, data, out)
        began = time.perf_counter()
        results = list(pool.map(evaluate, [task] * 2, [budget] * 2, [name] * 2, [2 * number, 2 * number + 1]))
        own_seconds = time.perf_counter() - began
        ratios.append(2 * seconds / own_seconds)
        scores = ", ".join(f"{result.insight.original_dice:.4f}" for result in results)
        print(f"  {name:<16}{seconds:9.0f}{dice:8.4f}{own_seconds:16.0f}{scores:>16}{ratios[-1]:7.1f}", flush=True)
    return fmean(ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the datasets")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="for the prepared data")
    asked = parser.parse_args()
    profile_step.main()
    enough = True
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(warm_up, (0, 1)))
        for dataset in DATASETS:
            ratio = compare(dataset, asked.data, asked.out, pool)
            print(f"  {ratio:.1f} times the evaluations an hour, {WANTED:g} wanted")
            enough &= ratio >= WANTED
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
