"""What a coordinator reports to the display of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import CurvePoint, Evaluation
    from unetx_studies.evidence import Evidence
    from unetx_studies.ranking import Ranked


class Reporter(Protocol):
    """Receives the progress of a search, to show it."""

    def trial_started(self, trial: int, worker: int, device: str, origin: str) -> None:
        """A worker has begun a trial."""

    def trial_step(self, trial: int, step: int) -> None:
        """A trial has trained ``step`` steps."""

    def trial_rung(self, trial: int, point: CurvePoint) -> None:
        """A trial has a score at a rung."""

    def trial_finished(self, trial: int, evaluation: Evaluation, best: Ranked | None, is_best: bool) -> None:
        """A trial has ended. ``best`` is given where it may have changed, ``is_best`` where it is this trial's now."""

    def trial_lost(self, trial: int, reason: str) -> None:
        """A trial's worker was lost; another worker will run the trial."""

    def trial_interrupted(self, trial: int) -> None:
        """A trial was stopped without a result and will be run again."""

    def measured(self, evidence: Evidence) -> None:
        """Enough trials have finished to say what their scores can tell apart; this is called once a study."""
