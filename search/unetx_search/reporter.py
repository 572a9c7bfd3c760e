"""What a coordinator tells whoever shows the search to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import CurvePoint, Evaluation
    from unetx_studies.evidence import Evidence
    from unetx_studies.ranking import Ranked


class Reporter(Protocol):
    """Whoever shows the search to a person."""

    def trial_started(self, trial: int, worker: int, device: str, origin: str) -> None:
        """A worker took a trial."""

    def trial_step(self, trial: int, step: int) -> None:
        """It has trained so many steps."""

    def trial_rung(self, trial: int, point: CurvePoint) -> None:
        """It was scored on the way."""

    def trial_finished(self, trial: int, evaluation: Evaluation, best: Ranked | None, is_best: bool) -> None:
        """It ended, one way or another; ``best`` where that may have changed, and whether it is this one since now."""

    def trial_lost(self, trial: int, reason: str) -> None:
        """Its worker died; another will have it."""

    def trial_interrupted(self, trial: int) -> None:
        """It was left without a result and will be run again."""

    def measured(self, evidence: Evidence) -> None:
        """Enough trials have finished to say what their scores can tell apart; comes once a study."""
