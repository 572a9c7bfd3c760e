"""The whole idea by hand: a space, a sampler's proposals, short trainings, the best design.

    python examples/by_hand.py [TRIALS]

What a real search adds: worker processes, records that survive crashes, a pilot that settles how to train, limits of
cost and memory, early stopping, and other seeds for the best designs. Without those, the highest score is partly luck.
"""

import sys
from pathlib import Path

import optuna

from unetx_evaluators.budgets import default_budget
from unetx_evaluators.evaluation import NullObserver
from unetx_evaluators.pilot import with_steps
from unetx_evaluators.proxy import ProxyEvaluator
from unetx_evaluators.tasks import DemoSource, TaskOptions, prepare
from unetx_space import PRESETS, Architecture, canonical, cost, design_space, faults, key

task = prepare(DemoSource(n_cases=40), Path("runs/.cache"), TaskOptions())  # cropped, normalised, split, on disk
backbone = task.backbone()  # encoder, widths and strides: the same for every design
space = design_space("default", backbone.n_levels)
budget = with_steps(default_budget(task), 60)
evaluator = ProxyEvaluator()
unet = Architecture(backbone, canonical(PRESETS["u-net"].genome(backbone.n_levels)))
limit = 2 * cost(unet, task.patch).macs
known: dict[str, float] = {}  # equal designs have equal keys


def score(design: Architecture) -> float:
    """Mean Dice over the validation cases after a short training."""
    if key(design) not in known:
        answer = evaluator.evaluate(design, task, budget, seed=0, observer=NullObserver())
        known[key(design)] = answer.score or 0.0
    return known[key(design)]


def objective(trial: optuna.Trial) -> float:
    """What the sampler's genes are worth."""
    genome = canonical(space.suggest(trial))
    design = Architecture(backbone, genome)
    if faults(design, task.patch) or cost(design, task.patch).macs > limit:
        raise optuna.TrialPruned
    trial.set_user_attr("architecture", design.dumps())
    return score(design)


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, multivariate=True))
print(f"U-Net: Dice {score(unet):.4f}")
study.optimize(objective, n_trials=int(sys.argv[1]) if len(sys.argv) > 1 else 10)
best = max((t for t in study.trials if t.value is not None), key=lambda t: t.value or 0.0, default=None)
if best is not None:
    Path("runs/by_hand.json").write_text(best.user_attrs["architecture"], encoding="utf-8")
    print(f"trial {best.number}: Dice {best.value:.4f}; draw it with: unetx-search show runs/by_hand.json")
