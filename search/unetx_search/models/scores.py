"""Scores of a trained model on test cases, which are predicted from their files, as a user would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unetx_evaluators.evaluation import CaseScore
from unetx_evaluators.metrics import METRICS, case_scores, class_means, compare, summarise
from unetx_evaluators.tasks.preprocessing import prepared_label
from unetx_studies.model_folder import SCORES, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from unetx_evaluators.predicting.model_plan import ModelPlan
    from unetx_evaluators.predicting.predictor import Segmentation
    from unetx_evaluators.tasks import Source, Task
    from unetx_studies.model_folder import ModelFolder

T = TypeVar("T")


def score_on_tests(
    model: ModelFolder, source: Source, task: Task, device: str, n_threads: int, weights: str, console: Console
) -> None:
    """Write the scores on the test cases, of all folds averaged and of each; ``weights`` names what was scored."""
    from unetx_evaluators import device as devices
    from unetx_evaluators.predicting.predictor import Predictor

    profile, networks = devices.profile(device), model.networks()
    together = Predictor(networks, model.plan, profile)
    each = {str(fold): replace(together, networks=[one]) for fold, one in zip(model.folds, networks, strict=True)}
    predictors = {"test": together, **(each if len(each) > 1 else {})}
    scores: dict[str, list[CaseScore]] = {key: [] for key in predictors}
    with devices.torch_settings(profile, n_threads, devices.AUTOTUNED_STEPS), together.ready():
        for name in tracked(sorted(task.splits.test), "predicting test cases", console):
            case = source.read(name)
            for key, predictor in predictors.items():
                found = predictor.predict(case.image, case.spacing, name)
                scores[key] += prediction_scores(name, case.label, case.spacing, found, model.plan)
    by_fold = {fold: scores_json(scores.get(fold, scores["test"])) for fold in each}
    told = {"weights": weights, "folds": list(model.folds), "test": scores_json(scores["test"]), "by_fold": by_fold}
    write_json(model.path / SCORES, told)


def tracked(names: Sequence[T], what: str, console: Console) -> Iterator[T]:
    """Yield the names, with a progress bar on a terminal and a line elsewhere."""
    if not console.is_terminal:
        console.print(f"{what}: {len(names)}", markup=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(names, description=what)


def prediction_scores(
    name: str, truth: Any, spacing: Sequence[float], found: Segmentation, plan: ModelPlan
) -> tuple[CaseScore, ...]:
    """Return a case's scores by class: on the plan's voxels within the predicted box, and on the image's own."""
    n_classes, preparation = len(plan.classes), plan.preparation
    mm = preparation.network_spacing
    if preparation.slice_axis is not None:
        mm = (found.facts.spacing[preparation.slice_axis], *mm)
    on_plan = compare(prepared_label(truth, found.facts, preparation), found.prepared, n_classes, mm)
    own = compare(truth, found.label, n_classes, spacing)
    return case_scores(name, plan.classes, on_plan, own)


def scores_json(scores: Sequence[CaseScore]) -> dict[str, Any]:
    """Return means over classes and by class, and the scores of every case, for JSON."""
    return {
        "n_cases": len({score.case for score in scores}),
        "means": {name: mean_over_classes(scores, name) for name in METRICS},
        "metrics": summarise(scores),
        "cases": [{"case": one.case, "class": one.class_name, **one.values} for one in scores],
    }


def mean_over_classes(scores: Iterable[CaseScore], metric: str) -> float | None:
    """Return a metric's mean over classes; None where no case shows a class."""
    means = class_means(scores, metric)
    return METRICS[metric].average([*means.values()]) if means else None


def scores_text(test: dict[str, Any]) -> list[str]:
    """Return test scores as the lines of a table."""
    metrics = test["metrics"]
    if not metrics:
        return ["no test case shows any class"]
    classes = list(next(iter(metrics.values()))["by_class"])
    width = max(map(len, (*classes, "mean over classes")))
    heads = [metric["title"] + (f" ({metric['unit']})" if metric["unit"] else "") for metric in metrics.values()]
    lines = ["  ".join([f"{'class':<{width}}", *heads])]
    for name in (*classes, "mean over classes"):
        values = [
            test["means"][key] if name not in classes else metric["by_class"].get(name)
            for key, metric in metrics.items()
        ]
        cells = ("-" if value is None else f"{value:.4f}" for value in values)
        lines.append(
            "  ".join([f"{name:<{width}}", *(f"{cell:>{len(head)}}" for cell, head in zip(cells, heads, strict=True))])
        )
    return lines
