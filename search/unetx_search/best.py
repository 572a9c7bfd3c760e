"""The best design of a study as files: ``best.json`` and ``best.svg``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetx_evaluators.metrics import summarise
from unetx_space.files import write_whole
from unetx_studies.drawing import to_svg
from unetx_studies.neighbours import BEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unetx_evaluators.evaluation import CaseScore
    from unetx_evaluators.tasks import Task
    from unetx_space.architecture import Architecture
    from unetx_studies.store import TrialRecord


def save_best(
    trial: TrialRecord,
    architecture: Architecture,
    scores: Sequence[CaseScore],
    study: str,
    task: Task,
    folder: Path,
) -> None:
    """Write ``best.json`` and ``best.svg`` for the design of the best trial."""
    told = replace(
        architecture,
        score={
            "dice": trial.score,
            "metric": "mean over foreground classes of the mean Dice over validation cases",
            "original_dice": trial.original_dice,
            "metrics": summarise(scores),
            "budget": asdict(trial.budget),
            "seed": trial.seed,
        },
        provenance={
            **whereabouts(study, trial.number, task),
            "origin": str(trial.origin),
            "key": trial.key,
            "versions": dict(trial.versions),
        },
    )
    told.save(folder / BEST)
    write_whole(folder / "best.svg", to_svg(told))


def whereabouts(study: str, trial: int, task: Task) -> dict[str, Any]:
    """The part of an architecture's provenance that is known before it is trained."""
    return {
        "study": study,
        "trial": trial,
        "task": {
            "name": task.name,
            "digest": task.digest,
            "channels": list(task.channels),
            "classes": list(task.classes),
            "spacing": list(task.spacing),
            "patch": list(task.patch),
            "normalisation": task.choices.get("normalisation", {}).get("value"),
        },
    }
