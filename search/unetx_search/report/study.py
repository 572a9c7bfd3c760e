"""What a report of a study is made of: its records and files, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetx_evaluators.tasks.task import Task
from unetx_search.cheapest import COSTS, CostOf
from unetx_search.config import read_request, read_settings
from unetx_search.explain import EXPLAIN
from unetx_search.finals.config import FINALS, REFERENCE
from unetx_search.finals.report import VERDICT
from unetx_search.preparing import ARRAYS, TASK
from unetx_search.run import REQUEST, SETTINGS
from unetx_search.status import Status, read_status
from unetx_search.study_pictures import predictions_file
from unetx_space import Architecture, training_memory
from unetx_space.canonical import canonical
from unetx_space.files import read_object
from unetx_studies.overlays import read_predictions
from unetx_studies.ranking import Ranked, Ranking, preset_key
from unetx_studies.report import numbers
from unetx_studies.store import Records, find_location, open_store
from unetx_studies.verdict import case_means

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import CaseScore, CurvePoint
    from unetx_evaluators.views import Prediction
    from unetx_space.genome import Genome


@dataclass(frozen=True, slots=True)
class Pictured:
    """The predictions and scores of one training of a design, by case."""

    trial: int
    predictions: Mapping[str, Prediction]
    dice: Mapping[str, float]


@dataclass(frozen=True)
class ReportedStudy:
    """All that a report needs of a study, read once."""

    status: Status
    ranking: Ranking
    architectures: Mapping[str, Architecture]
    reference: str | None
    curves: Mapping[int, Sequence[CurvePoint]]
    cases: Mapping[str, Mapping[str, float]]
    """Mean Dice by case, of the best design and U-Net, over their seeds."""
    pictured: Mapping[str, Pictured]
    """Predictions of the best design and U-Net by their keys, where they were kept."""
    insights: Mapping[int, Mapping[str, Any]]
    explained: Mapping[str, Mapping[str, Any]]
    """The findings of ``unetx-search explain``, by the designs' names."""
    costs: Mapping[str, float]
    cost_by: str
    task: Mapping[str, Any]
    prepared: Task | None
    """The task with its arrays; None where they are gone or images may not be shown."""
    settings: Mapping[str, Any]
    verdict: Mapping[str, Any] | None

    @property
    def designs(self) -> tuple[Ranked, ...]:
        return self.ranking.designs

    @property
    def best(self) -> Ranked | None:
        return self.ranking.best

    @property
    def unet(self) -> Ranked | None:
        return self.ranking.get(self.reference)

    @cached_property
    def genomes(self) -> dict[str, Genome]:
        return {key: canonical(one.genome) for key, one in self.architectures.items()}

    @cached_property
    def effects(self) -> tuple[numbers.Effect, ...]:
        """The effect of each choice on the score, of the choices that are known."""
        return numbers.effects(self.designs, self.genomes)

    @cached_property
    def progress(self) -> tuple[numbers.ProgressPoint, ...]:
        """The best score and estimate after each complete trial; computing it takes seconds in a long study."""
        return numbers.progress(self.status.evaluations)

    def name(self, one: Ranked) -> str:
        if one.key == self.reference:
            return "U-Net"
        return f"{one.number} ({one.origin.preset})" if one.origin.preset else f"trial {one.number}"


def read_reported_study(folder: Path) -> ReportedStudy:
    """Read the study in ``folder`` for a report. Raises RequestError when there is none, or a file of it is damaged."""
    status = read_status(folder)
    location = find_location(folder)
    ranking = Ranking(status.evaluations)
    with open_store(location.url, create=False, read_only=True) as store:
        records = Records(store, status.study)
        architectures = records.architectures()
        reference = preset_key(status.trials, REFERENCE)
        told = [one for one in (ranking.best, ranking.get(reference)) if one is not None]
        cases = {one.key: _mean_by_case([records.case_scores(trial.number) for trial in one.trials]) for one in told}
        pictured = {one.key: seen for one in told if (seen := _pictured(folder, records, one)) is not None}
        insights = {one.number: records.insight(one.number) or {} for one in told}
        curves = records.curves()
    settings = read_settings(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    by = read_request(folder / REQUEST).cheap_by if (folder / REQUEST).exists() else "macs"
    patch = tuple(settings["task"]["patch"]) if settings else ()
    task = read_object(folder / TASK, {}, "the next run of the study writes it") if (folder / TASK).exists() else {}
    cost_of = CostOf(by, lambda key: training_memory(architectures[key], patch))
    return ReportedStudy(
        status=status,
        ranking=ranking,
        architectures=architectures,
        reference=reference,
        curves=curves,
        cases=cases,
        pictured=pictured,
        insights=insights,
        explained={
            "U-Net" if one.key == reference else f"trial {one.number}": explanation
            for one in told
            if (explanation := _explained(folder, one.number)) is not None
        },
        costs={one.key: float(cost_of(one.first)) for one in ranking.designs},
        cost_by=COSTS[by],
        task=task,
        prepared=_prepared(task),
        settings=settings,
        verdict=_verdict(folder),
    )


def _mean_by_case(trainings: Sequence[Sequence[CaseScore]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for scores in trainings:
        for case, dice in case_means(scores).items():
            found.setdefault(case, []).append(dice)
    return {case: sum(values) / len(values) for case, values in found.items()}


def _pictured(folder: Path, records: Records, one: Ranked) -> Pictured | None:
    """Read the training nearest to the design's mean whose predictions were kept; of two as near, the lower."""
    for trial in sorted(one.trials, key=lambda trial: (round(abs((trial.score or 0.0) - one.dice), 9), trial.score)):
        if predictions := read_predictions(predictions_file(folder, trial.number)):
            return Pictured(trial.number, predictions, case_means(records.case_scores(trial.number)))
    return None


def _prepared(data: Mapping[str, Any]) -> Task | None:
    arrays = Path(str(data.get(ARRAYS, "")))
    if ARRAYS not in data or data["no_images"] or not arrays.is_dir():
        return None
    return Task.from_json(arrays, data)


def _explained(folder: Path, number: int) -> Mapping[str, Any] | None:
    path = folder / EXPLAIN / f"trial-{number}" / "explain.json"
    return read_object(path, {"skips": list}, "run unetx-search explain again") if path.exists() else None


def _verdict(folder: Path) -> Mapping[str, Any] | None:
    path = folder / FINALS / VERDICT
    return read_object(path, {"conclusion": str}, "hold the finals again") if path.exists() else None
