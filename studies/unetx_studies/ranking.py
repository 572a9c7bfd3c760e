"""Which design of a study is the best so far, and which evaluations belong to a preset. Pure functions of records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from unetx_evaluators.evaluation import Outcome

if TYPE_CHECKING:
    from unetx_studies.store import EvaluationRecord

PRESET, REPLICATE_OF, ADAPTED = "preset ", "replicate of ", ", adapted"
"""Parts of an origin: ``preset u-net``, ``replicate of preset u-net``, ``preset u-net, adapted``."""


def is_given(origin: str) -> bool:
    """The evaluation is of a preset, or repeats one with another seed; no sampler proposed it."""
    return origin.removeprefix(REPLICATE_OF).startswith(PRESET)


def preset_key(evaluations: Iterable[EvaluationRecord], name: str) -> str | None:
    """The design as which a preset was tried, adapted to a narrowed space or not; None before it was."""
    wanted = f"{PRESET}{name}"
    found = (e.key for e in evaluations if e.origin.removeprefix(REPLICATE_OF).removesuffix(ADAPTED) == wanted)
    return next(found, None)


def complete(evaluations: Iterable[EvaluationRecord]) -> tuple[EvaluationRecord, ...]:
    """Those that have a final score, by trial number."""
    found = (e for e in evaluations if e.outcome is Outcome.COMPLETE and e.score is not None)
    return tuple(sorted(found, key=lambda e: e.trial_number))


def ranking(evaluations: Iterable[EvaluationRecord]) -> tuple[EvaluationRecord, ...]:
    """Every design once, by its first complete evaluation, the best score first and the earlier of equals.

    That is the evaluation on the seed which all designs share, initial values and batches included, so that like is
    compared with like. A second seed measures noise and moves nobody: the highest of several seeds would favour who was
    tried more often, and so would a mean, up or down, by what the seeds have in common for all designs.
    """
    first: dict[str, EvaluationRecord] = {}
    for evaluation in complete(evaluations):
        first.setdefault(evaluation.key, evaluation)
    return tuple(sorted(first.values(), key=lambda e: (-(e.score or 0.0), e.trial_number)))
