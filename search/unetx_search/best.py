"""The winners of a study as files: ``best.json`` and ``best.svg``, ``cheapest.json`` and ``cheapest.svg``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetx_evaluators.metrics import summarise
from unetx_search.cheapest import Cheapest, cheapest
from unetx_space.files import write_whole
from unetx_studies.drawing import to_svg
from unetx_studies.study_folders import BEST, CHEAPEST

if TYPE_CHECKING:
    from unetx_evaluators.tasks import Task
    from unetx_search.config import CheapBy
    from unetx_space.architecture import Architecture
    from unetx_studies.ranking import Ranked, Ranking
    from unetx_studies.store import Records, TrialRecord


@dataclass(slots=True)
class WinnerFiles:
    """Keeps the files of a study's winners as its ranking says."""

    folder: Path
    study: str
    records: Records
    task: Task
    reference: str
    """The key of U-Net's design."""
    by: CheapBy
    margin: float
    cost_of: Callable[[TrialRecord], float]
    _written: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The trials of each winner that was written, by file."""

    def follow(self, ranking: Ranking) -> None:
        """While the study runs: a winner is written where it is another design, or has another seed."""
        found = self.cheapest(ranking)
        for name, winner in ((BEST, ranking.best), (CHEAPEST, found.design if found else None)):
            told = {"cheapest": found.facts} if found is not None and name == CHEAPEST else {}
            trials = () if winner is None else tuple(trial.number for trial in winner.trials)
            if self._written.get(name) != trials:
                keep_winner(self.folder / name, None if winner is None else self._described(winner, told))
                self._written[name] = trials

    def finish(self, ranking: Ranking) -> None:
        """At the end: written anew, as further scores of other designs move the estimates, too."""
        self._written.clear()
        self.follow(ranking)

    def cheapest(self, ranking: Ranking) -> Cheapest | None:
        """The cheapest design that is as good as U-Net, by this study's cost and margin."""
        return cheapest(ranking, self.reference, self.by, self.margin, self.cost_of)

    def _described(self, winner: Ranked, told: dict[str, Any]) -> Architecture:
        """The design with what is known of it."""
        first = winner.first
        scores = [score for trial in winner.trials for score in self.records.case_scores(trial.number)]
        return replace(
            self.records.architecture(winner.key),
            score={
                "dice": winner.dice,
                "metric": "mean over foreground classes of the mean Dice over validation cases, mean over seeds",
                "estimate": winner.estimate,
                "standard_error": winner.standard_error,
                "original_dice": winner.original_dice,
                "metrics": summarise(scores),
                "budget": asdict(first.budget),
                "seeds": list(winner.seeds),
                **told,
            },
            provenance={
                **whereabouts(self.study, first.number, self.task),
                "trials": [trial.number for trial in winner.trials],
                "origin": str(first.origin),
                "key": first.key,
                "versions": dict(first.versions),
            },
        )


def keep_winner(path: Path, architecture: Architecture | None) -> None:
    """A winner as JSON and its drawing beside it; where there is none, or none any more, both files go."""
    drawing = path.with_suffix(".svg")
    if architecture is None:
        for file in (path, drawing):
            file.unlink(missing_ok=True)
    else:
        architecture.save(path)
        write_whole(drawing, to_svg(architecture))


def whereabouts(study: str, trial: int | None, task: Task) -> dict[str, Any]:
    """The part of an architecture's provenance that is known before it is trained."""
    return {"study": study, "trial": trial, "task": task_facts(task)}


def task_facts(task: Task) -> dict[str, Any]:
    """What provenance tells of a task: exports read from it how images are to be prepared."""
    return {
        "name": task.name,
        "digest": task.digest,
        "channels": list(task.channels),
        "classes": list(task.classes),
        "spacing": list(task.spacing),
        "patch": list(task.patch),
        "normalisation": task.choices.get("normalisation", {}).get("value"),
    }
