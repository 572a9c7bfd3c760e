"""Is the demo task hard enough that skips matter? U-Net against the net without skips, demo budget, three seeds.

    python benchmarks/demo_skips.py > benchmarks/results/demo_skips-2cores-3seeds.txt

The demo must separate the two by at least 0.05 mean Dice, or a search on it would show nothing.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from unetx_evaluators.budgets import default_budget
from unetx_evaluators.evaluation import Evaluation, NullObserver
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import DemoSource, Task, TaskOptions, prepare
from unetx_space.architecture import Architecture
from unetx_space.presets import PRESETS

SEEDS = (0, 1, 2)
NEEDED = 0.05


def evaluate(task: Task, name: str, seed: int) -> Evaluation:
    """Run one evaluation on one thread."""
    backbone = task.backbone()
    architecture = Architecture(backbone, PRESETS[name].genome(backbone.n_levels))
    return ProxyEvaluator().evaluate(architecture, task, default_budget(task), seed, NullObserver())


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        task = prepare(DemoSource(), Path(folder), TaskOptions())
        runs = [(name, seed) for seed in SEEDS for name in ("u-net", "no-skip")]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            results = dict(zip(runs, pool.map(evaluate, [task] * len(runs), *zip(*runs, strict=True)), strict=True))
    print(f"demo task, {default_budget(task)}")
    print(f"{'seed':>4}  {'U-Net':>7}  {'no-skip':>7}  {'gap':>7}  {'seconds':>15}")
    gaps = []
    for seed in SEEDS:
        unet, bare = results["u-net", seed], results["no-skip", seed]
        assert unet.score is not None, unet
        assert bare.score is not None, bare
        gaps.append(unet.score - bare.score)
        seconds = f"{unet.seconds:.0f} and {bare.seconds:.0f}"
        print(f"{seed:>4}  {unet.score:7.4f}  {bare.score:7.4f}  {gaps[-1]:+7.4f}  {seconds:>15}")
    print(f"smallest gap {min(gaps):+.4f}, needed {NEEDED:+.2f}")
    for name in ("u-net", "no-skip"):
        print(f"{name}, seed 0, mean Dice by class: {by_class(results[name, 0])}")
    return 0 if min(gaps) >= NEEDED else 1


def by_class(evaluation: Evaluation) -> str:
    """Means by class over the cases in which the class has a score."""
    names = dict.fromkeys(score.class_name for score in evaluation.case_scores)
    means = []
    for name in names:
        dice = [d for s in evaluation.case_scores if s.class_name == name and (d := s.values["dice"]) is not None]
        means.append(f"{name} {sum(dice) / len(dice):.3f}")
    return ", ".join(means)


if __name__ == "__main__":
    sys.exit(main())
