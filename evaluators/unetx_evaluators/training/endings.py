"""How an evaluation ends early, on purpose."""

from __future__ import annotations

from unetx_evaluators.evaluation import Outcome


class EvaluationEnded(Exception):
    """There is nothing more to train, and that is a result; ``evaluate`` turns it into an Evaluation."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        self.outcome = outcome
        self.reason = reason
        super().__init__(reason)
