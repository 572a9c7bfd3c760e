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
    import optuna

    from unetx_evaluators.tasks import Task
    from unetx_studies.store import Records


def save_best(records: Records, study: optuna.Study, task: Task, folder: Path) -> None:
    """Write ``best.json`` and ``best.svg`` for the best design, when there is one."""
    record = records.best()
    if record is None:
        return
    architecture = replace(
        records.architecture(record.key),
        score={
            "dice": record.score,
            "metric": "mean over foreground classes of the mean Dice over validation cases",
            "original_dice": records.original_dice().get(record.trial_number),
            "metrics": summarise(records.case_scores(record.trial_number)),
            "budget": asdict(record.budget),
            "seed": record.seed,
        },
        provenance={
            **whereabouts(study, record.trial_number, task),
            "origin": record.origin,
            "key": record.key,
            "versions": dict(record.versions),
        },
    )
    architecture.save(folder / BEST)
    write_whole(folder / "best.svg", to_svg(architecture))


def whereabouts(study: optuna.Study, trial: int, task: Task) -> dict[str, Any]:
    """The part of an architecture's provenance that is known before it is trained."""
    return {
        "study": study.study_name,
        "trial": trial,
        "task": {
            "name": task.name,
            "digest": task.digest,
            "channels": list(task.channels),
            "classes": list(task.classes),
            "spacing": list(task.spacing),
            "patch": list(task.patch),
        },
    }
