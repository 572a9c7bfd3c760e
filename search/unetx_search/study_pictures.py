"""The pictures that a search keeps: predictions of its leading designs, and what the dashboard shows of every trial."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unetx_search.winner_files import search_provenance
from unetx_studies.artifacts import attach_drawing, attach_result, remove_artifacts
from unetx_studies.overlays import predictions_svg, read_predictions, write_predictions
from unetx_studies.trial_note import curve_svg, result_words

if TYPE_CHECKING:
    from optuna.trial import Trial

    from unetx_evaluators.evaluation import CaseScore, Evaluation
    from unetx_evaluators.tasks import Task
    from unetx_space.architecture import Architecture
    from unetx_studies.ranking import Ranking
    from unetx_studies.store import Records, TrialRecord

PREDICTIONS = "predictions"
"""Name of the folder in a study's with a file of predictions for each trial of a leading design."""
OVERLAYS = "predictions.svg"
"""Name of a trial's artifact with its predictions drawn over images."""
N_LEADING = 8
"""Number of designs at the top of the ranking whose predictions are kept, beside those of presets."""
MAX_FILES = 60
"""Number of files with predictions beyond which those of other designs are removed."""
PLOT_EVERY_S = 60.0
PLOT_SHARE = 0.01
"""The largest share of a search's time that drawing the study's figures takes, about."""


def predictions_file(study: Path, trial: int) -> Path:
    return study / PREDICTIONS / f"trial-{trial}.zip"


@dataclass(slots=True)
class StudyPictures:
    """Keeps the pictures of a study; none of images or predictions where its task forbids that."""

    folder: Path
    study: str
    task: Task
    records: Records
    plot: Callable[[], None]
    """Draws the study's figures."""
    clock_s: Callable[[], float] = time.monotonic
    _next_plot_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._next_plot_s = self.clock_s() + PLOT_EVERY_S

    def remove_unwanted(self, url: str) -> None:
        """Remove the predictions of earlier runs where the task forbids images; ``url`` is the database's."""
        kept = self.folder / PREDICTIONS
        if self.task.no_images and kept.exists():
            remove_artifacts(url, self.study, OVERLAYS, self.folder)
            shutil.rmtree(kept)

    def keep(self, trial: TrialRecord, evaluation: Evaluation, ranking: Ranking) -> None:
        """Keep an evaluation's predictions, and draw the figures now and then; ``ranking`` is of other trials."""
        if evaluation.predictions and not self.task.no_images:
            file = predictions_file(self.folder, trial.number)
            file.parent.mkdir(exist_ok=True)
            write_predictions(file, evaluation.predictions)
            self._remove_old_files(ranking)
        began_s = self.clock_s()
        if began_s >= self._next_plot_s:
            self.plot()
            now_s = self.clock_s()
            self._next_plot_s = now_s + max(PLOT_EVERY_S, (now_s - began_s) / PLOT_SHARE)

    def _remove_old_files(self, ranking: Ranking) -> None:
        files = {
            int(file.stem.removeprefix("trial-")): file for file in (self.folder / PREDICTIONS).glob("trial-*.zip")
        }
        if len(files) > MAX_FILES:
            wanted = [one for place, one in enumerate(ranking.designs) if place < N_LEADING or one.origin.is_given]
            kept = {trial.number for one in wanted for trial in one.trials}
            for number in sorted(files.keys() - kept)[:-N_LEADING]:  # the newest may lead once they are ranked
                files[number].unlink(missing_ok=True)

    def attach(self, trial: Trial, record: TrialRecord, architecture: Architecture) -> None:
        """Attach a trial's pictures in the dashboard: its design's drawing, and at its end the results."""
        where = search_provenance(self.study, record.number, self.task)
        attach_drawing(trial, replace(architecture, provenance=where), self.folder)
        if record.is_finished:
            scores = self.records.case_scores(record.number)
            attach_result(trial, self._pictures(record, scores), result_words(record, scores), self.folder)

    def _pictures(self, record: TrialRecord, scores: Sequence[CaseScore]) -> Mapping[str, str]:
        name = f"{self.study}, trial {record.number}"
        found = {} if self.task.no_images else read_predictions(predictions_file(self.folder, record.number))
        drawn = {
            OVERLAYS: predictions_svg(self.task, found.values(), scores, f"{name}: predictions"),
            "curve.svg": curve_svg(self.records.curve(record.number), f"{name}: Dice over steps"),
        }
        return {file: svg for file, svg in drawn.items() if svg is not None}
