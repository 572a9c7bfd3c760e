"""The files of a study's winners: ``best.json`` and ``best.svg``, ``cheapest.json`` and ``cheapest.svg``."""

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
    """Keeps the files of a study's winners up to date with its ranking."""

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
    """The trials of each winner that was written, by name of the file."""

    def update(self, ranking: Ranking) -> None:
        """Write the winners that are other designs, or have another seed, than those written before."""
        found = self.cheapest(ranking)
        for name, winner in ((BEST, ranking.best), (CHEAPEST, found.design if found else None)):
            told = {"cheapest": found.facts} if found is not None and name == CHEAPEST else {}
            trials = () if winner is None else tuple(trial.number for trial in winner.trials)
            if self._written.get(name) != trials:
                write_winner(self.folder / name, None if winner is None else self._described(winner, told))
                self._written[name] = trials

    def finish(self, ranking: Ranking) -> None:
        """Write all winners again at the end, as scores of other designs have moved their estimates, too."""
        self._written.clear()
        self.update(ranking)

    def cheapest(self, ranking: Ranking) -> Cheapest | None:
        """Find the cheapest design that is as good as U-Net, by this study's cost and margin."""
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
                **search_provenance(self.study, first.number, self.task),
                "trials": [trial.number for trial in winner.trials],
                "origin": str(first.origin),
                "key": first.key,
                "versions": dict(first.versions),
            },
        )


def write_winner(path: Path, architecture: Architecture | None) -> None:
    """Write a winner as JSON with its drawing beside it; without a winner both files are removed."""
    drawing = path.with_suffix(".svg")
    if architecture is None:
        for file in (path, drawing):
            file.unlink(missing_ok=True)
    else:
        architecture.save(path)
        write_whole(drawing, to_svg(architecture))


def search_provenance(study: str, trial: int | None, task: Task) -> dict[str, Any]:
    """Return the provenance of a study's architecture: study, trial and task."""
    return {"study": study, "trial": trial, "task": task_facts(task)}


def task_facts(task: Task) -> dict[str, Any]:
    """Return what provenance says of a task, from which exports know how images are prepared."""
    return {
        "name": task.name,
        "digest": task.digest,
        "channels": list(task.channels),
        "classes": list(task.classes),
        "spacing": list(task.spacing),
        "patch": list(task.patch),
        "normalisation": task.choices.get("normalisation", {}).get("value"),
    }
