"""The recommendation of an audit to the next searches of a task, and the file that keeps it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from unetx_evaluators.tasks.cache import read_json, reporting_write_errors
from unetx_search.piloting import PILOTS
from unetx_space.files import write_whole
from unetx_studies.proxy_agreement import Bounded, agreement, excess_regret

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import Budget
    from unetx_evaluators.tasks import Task
    from unetx_studies.spread import Vector

FORMAT = 1
"""The version of the rule, which is raised whenever an audit would recommend by another one."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """How long a search should train each design, and why."""

    steps: int | None
    """The steps; None where nothing is shown, and a search keeps its default."""
    reason: str


def recommended(
    proxies: Mapping[int, Vector], default: int, reference: Vector, truth: Vector, margin: float
) -> Recommendation:
    """Recommend steps by the scores ``[designs, seeds]`` after each number of steps, against those of the references.

    Steps count that rank: the 95 % interval of Kendall's correlation with the references lies above 0. What is lost by
    choosing the best of the designs by them is measured against the most steps. Recommended are the fewest steps that
    are shown to lose at most the margin more (all of the interval); more than the default's only where the default is
    shown to lose more than the margin (the same). Otherwise nothing is shown, and the default stays.
    """
    lengths = sorted(proxies)
    most = lengths[-1]
    ranking = [n for n in lengths if agreement(proxies[n], reference, truth).kendall.low > 0.0]
    if not ranking:
        why = "nothing is shown, as no number of steps is shown to rank designs as the references do"
        return Recommendation(None, f"{why}; {default} stay")
    excess = {steps: excess_regret(proxies[steps], proxies[most], truth) for steps in lengths}
    for steps in ranking:
        if steps <= default and excess[steps].high <= margin:
            return Recommendation(
                steps,
                f"{steps}: the fewest by which a choice is expected to lose at most {margin:g} Dice more than by "
                f"{most}: {_words(excess[steps])}",
            )
    if most in ranking and excess[default].low > margin:
        return Recommendation(
            most,
            f"{most}: a choice by {default} is expected to lose more than {margin:g} Dice beside one by {most}: "
            f"{_words(excess[default])}",
        )
    told = ", ".join(f"{_words(excess[steps])} by {steps}" for steps in lengths if steps <= default)
    return Recommendation(
        None,
        f"nothing is shown: a choice is expected to lose, beyond one by {most} steps, {told}; {margin:g} Dice count, "
        f"and {default} stay",
    )


def _words(excess: Bounded) -> str:
    return f"{excess.value:+.4f} (95 %: {excess.low:+.4f} to {excess.high:+.4f})"


@dataclass(frozen=True, slots=True)
class AuditFile:
    """The file that keeps a recommendation, beside the task's pilot and named by all that it depends on.

    That is the data as the networks get them and how they are trained, but for how long.
    """

    path: Path

    @classmethod
    def of(cls, task: Task, budget: Budget) -> Self:
        question = json.dumps([FORMAT, task.digest, asdict(replace(budget, steps=1, rungs=(1,)))], sort_keys=True)
        return cls(task.folder / PILOTS / f"audit-{hashlib.sha256(question.encode()).hexdigest()[:16]}.json")

    def read(self) -> Recommendation | None:
        """Read the recommendation; None where there is none that can be used."""
        data = read_json(self.path)
        if data is None:
            return None
        steps, reason = data.get("steps"), data.get("reason")
        is_sound = isinstance(reason, str) and (steps is None or (type(steps) is int and steps > 0))
        return Recommendation(steps, str(reason)) if is_sound else None

    def write(self, recommendation: Recommendation) -> None:
        with reporting_write_errors(self.path.parent):
            self.path.parent.mkdir(exist_ok=True)
            write_whole(self.path, json.dumps(asdict(recommendation), indent=2) + "\n")
