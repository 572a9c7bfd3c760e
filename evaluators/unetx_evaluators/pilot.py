"""The pilot: short trainings of the U-Net preset that settle, once per dataset, how its proxies are trained.

In rounds, so that its course depends on the answers alone and not on how many workers give them:

- **recipe**: every learning rate with every weight of the background trains for a quarter of the steps that time
  allows; the two best go on to half of them, and the better one is kept;
- **voxel size**, only where the plan leaves it open: a training for all of these steps at each of its sizes, scored on
  the original voxels. Coarser voxels must be clearly better than finer ones, because what skips are worth shows in fine
  structures, and because they learn faster;
- **steps**: the fewest, among a quarter, half and all of those that time allows, than which no longer training is
  better by ``min_gain`` a doubling, and after which another seed ends within ``min_gain``: scores that jump from seed
  to seed rank nothing.

What the user has set is not tried. All of it is scored on validation cases, as a search is; test cases are not read.
No torch here, and nobody is waited for: ``settle`` is a generator that hands out rounds and takes their answers.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any, Self

from unetx_evaluators.evaluation import Budget, Evaluation, Outcome
from unetx_evaluators.tasks.preprocessing import in_mm
from unetx_evaluators.training.recipe import Recipe

LEARNING_RATES = (1e-2, 3e-3)
BACKGROUND_WEIGHTS = (1.0, 0.3)
MIN_GAIN = 0.01
"""Dice that twice the steps must gain to be worth them."""
COARSER_GAIN = 0.02
"""Dice on the original voxels that coarser voxels must gain over finer ones to be taken."""
FIRST_SHARE = 4
"""The first round trains for one part in so many of the steps that time allows."""
N_SECOND = 2
"""Recipes that go on to the second round."""

Spacing = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pilot may settle, and how far it may go."""

    max_steps: int
    """As many as the time target allows on the planned patch."""
    min_gain: float = MIN_GAIN
    learning_rates: tuple[float, ...] = LEARNING_RATES
    """One alone is not a question."""
    background_weights: tuple[float, ...] = BACKGROUND_WEIGHTS
    alternatives: tuple[Spacing, ...] = ()
    """Voxel sizes in question (mm along the source's axes), the planned one last; fewer than two: none is."""
    steps: int | None = None
    """Of the user; None: the pilot decides."""

    @property
    def leave_questions(self) -> bool:
        """Whether there is anything to settle."""
        tried = (self.learning_rates, self.background_weights, self.alternatives)
        return self.steps is None or any(len(values) > 1 for values in tried)


@dataclass(frozen=True, slots=True)
class PilotJob:
    """One training of the U-Net preset."""

    round: str
    budget: Budget
    spacing: Spacing | None = None
    """mm along the source's axes; None: the planned one, where that is not in question."""
    seed: int = 0

    @property
    def words(self) -> str:
        """What it tries, for people."""
        recipe = self.budget.recipe
        at = f", voxels of {in_mm(self.spacing or ())}" if self.round == "voxel size" else ""
        at += f", seed {self.seed}" if self.seed else ""
        return (
            f"{self.budget.steps} steps, learning rate {recipe.learning_rate:g}, background weight "
            f"{recipe.background_weight:g}{at}"
        )


@dataclass(frozen=True, slots=True)
class PilotRun:
    """What came of a job."""

    job: PilotJob
    outcome: Outcome
    score: float | None
    """The objective, on the original voxels."""
    curve: tuple[tuple[int, float, float], ...]
    """Steps, score and training loss at every rung."""
    seconds: float

    @property
    def worth(self) -> float:
        """For comparisons: what did not complete is worth nothing."""
        return self.score if self.score is not None and self.outcome is Outcome.COMPLETE else -math.inf


@dataclass(frozen=True, slots=True)
class Pilot:
    """What a pilot has settled."""

    budget: Budget
    spacing: Spacing | None
    """The voxel size that was chosen, where it was in question."""
    runs: tuple[PilotRun, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    """For every choice a sentence."""
    still_gaining: float | None = None
    """What the last doubling of the steps gained, where time ended the growth; scores are then of half-trained
    networks."""

    def choices(self, planned: Mapping[str, Any]) -> dict[str, Any]:
        """A task's choices with what this settled, value and reason, in the place of what was planned."""
        recipe = self.budget.recipe
        values = {
            "learning_rate": recipe.learning_rate,
            "background_weight": recipe.background_weight,
            "steps": self.budget.steps,
            "spacing": self.spacing,
        }
        settled = {name: {"value": values[name], "reason": reason} for name, reason in self.reasons.items()}
        decided = {"alternatives"} if "spacing" in settled else set()
        return {**{name: choice for name, choice in planned.items() if name not in decided}, **settled}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        def spacing(value: Sequence[float] | None) -> Spacing | None:
            return None if value is None else tuple(value)

        runs = tuple(
            PilotRun(
                PilotJob(
                    run["job"]["round"],
                    Budget.from_json(run["job"]["budget"]),
                    spacing(run["job"]["spacing"]),
                    run["job"]["seed"],
                ),
                Outcome(run["outcome"]),
                run["score"],
                tuple((step, score, loss) for step, score, loss in run["curve"]),
                run["seconds"],
            )
            for run in data["runs"]
        )
        budget = Budget.from_json(data["budget"])
        return cls(budget, spacing(data["spacing"]), runs, data["reasons"], data["still_gaining"])


Rounds = Generator[list[PilotJob], list[Evaluation], Pilot]


def with_steps(budget: Budget, steps: int) -> Budget:
    """The budget with another length; its rungs keep their shares of it."""
    rungs = sorted({max(1, round(rung * steps / budget.steps)) for rung in budget.rungs})
    return replace(budget, steps=steps, rungs=tuple(rungs))


def settle(budget: Budget, limits: Limits) -> Rounds:
    """Yields rounds of jobs, takes their evaluations in the same order, and returns what they came to.

    ``budget`` is the task's own default; what is not in question stays as it says.
    """
    return _Settling(budget, limits).rounds()


class _Settling:
    """A pilot under way."""

    def __init__(self, budget: Budget, limits: Limits) -> None:
        self._budget = budget
        self._limits = limits
        self._planned = limits.alternatives[-1] if limits.alternatives else None
        self._runs: list[PilotRun] = []
        self._reasons: dict[str, str] = {}

    def rounds(self) -> Rounds:
        limits, most = self._limits, self._limits.steps or self._limits.max_steps
        first = max(1, most // FIRST_SHARE)
        recipe = yield from self._best_recipe(first, 2 * first)
        spacing = yield from self._best_spacing(recipe, FIRST_SHARE * first)
        steps, still_gaining = limits.steps, None
        if steps is None:
            steps, still_gaining = yield from self._enough_steps(recipe, spacing, first)
        else:
            self._reasons["steps"] = f"{steps}: set by the user"
        budget = replace(with_steps(self._budget, steps), recipe=recipe)
        return Pilot(budget, spacing, tuple(self._runs), self._reasons, still_gaining)

    def _best_recipe(self, first: int, second: int) -> Generator[list[PilotJob], list[Evaluation], Recipe]:
        limits, base = self._limits, self._budget.recipe
        recipes = [
            replace(base, learning_rate=rate, background_weight=weight)
            for rate, weight in product(limits.learning_rates, limits.background_weights)
        ]
        for steps, n_kept in ((first, N_SECOND), (second, 1)):
            if len(recipes) > 1:
                runs = yield from self._round("recipe", [(recipe, self._planned, steps) for recipe in recipes])
                recipes = [run.job.budget.recipe for run in sorted(runs, key=lambda run: -run.worth)[:n_kept]]
        chosen = recipes[0]
        self._reasons["learning_rate"] = _why(
            f"{chosen.learning_rate:g}", limits.learning_rates, [f"{rate:g}" for rate in limits.learning_rates]
        )
        self._reasons["background_weight"] = _why(
            f"{chosen.background_weight:g}",
            limits.background_weights,
            [f"{weight:g}" for weight in limits.background_weights],
        )
        return chosen

    def _best_spacing(self, recipe: Recipe, steps: int) -> Generator[list[PilotJob], list[Evaluation], Spacing | None]:
        alternatives = self._limits.alternatives
        if len(alternatives) < 2:
            return self._planned
        runs = yield from self._round("voxel size", [(recipe, spacing, steps) for spacing in alternatives])
        best, *coarser = sorted(runs, key=lambda run: run.job.spacing or ())
        for run in coarser:
            if run.worth >= best.worth + COARSER_GAIN:
                best = run
        told = ", ".join(f"{_dice(run.score)} at {in_mm(run.job.spacing or ())}" for run in runs)
        self._reasons["spacing"] = (
            f"{in_mm(best.job.spacing or ())}: by Dice on the original voxels in the pilot ({told}); coarser voxels "
            f"must gain {COARSER_GAIN:g} over finer ones"
        )
        return best.job.spacing

    def _enough_steps(
        self, recipe: Recipe, spacing: Spacing | None, first: int
    ) -> Generator[list[PilotJob], list[Evaluation], tuple[int, float | None]]:
        """The fewest steps that are enough; and what the last doubling gained, where time was the reason to end."""
        min_gain, lengths = self._limits.min_gain, [first]
        while 2 * lengths[-1] <= self._limits.max_steps:
            lengths.append(2 * lengths[-1])
        runs = yield from self._round("steps", [(recipe, spacing, steps) for steps in lengths])
        told = ", ".join(f"{_dice(run.score)} after {steps}" for run, steps in zip(runs, lengths, strict=True))
        for n, (run, steps) in enumerate(zip(runs[:-1], lengths, strict=False)):
            if any(longer.worth - run.worth >= min_gain * more for more, longer in enumerate(runs[n + 1 :], start=1)):
                continue
            (again,) = yield from self._round("another seed", [(recipe, spacing, steps)], seed=1)
            told += f", {_dice(again.score)} after {steps} with another seed"
            if abs(again.worth - run.worth) < min_gain:
                self._reasons["steps"] = (
                    f"{steps}: twice as many, or four times, gain less than {min_gain:g} Dice a doubling in the pilot, "
                    f"and another seed differs by less ({told})"
                )
                return steps, None
        gain = runs[-1].worth - runs[-2].worth if len(runs) > 1 else 0.0
        rises = f"; the last doubling gained {gain:+.4f} Dice, so scores still rise with training"
        is_rising = gain >= min_gain
        self._reasons["steps"] = (
            f"{lengths[-1]}: as many as the time target allows ({told}){rises if is_rising else ''}"
        )
        return lengths[-1], gain if is_rising else None

    def _round(
        self, name: str, tried: Sequence[tuple[Recipe, Spacing | None, int]], seed: int = 0
    ) -> Generator[list[PilotJob], list[Evaluation], list[PilotRun]]:
        """What was trained before is not trained again."""
        asked = [
            PilotJob(name, replace(with_steps(self._budget, steps), recipe=recipe), spacing, seed)
            for recipe, spacing, steps in tried
        ]
        known = {(run.job.budget, run.job.spacing, run.job.seed): run for run in self._runs}
        jobs = [job for job in asked if (job.budget, job.spacing, job.seed) not in known]
        answers = (yield jobs) if jobs else []
        for job, answer in zip(jobs, answers, strict=True):
            curve = tuple((point.step, point.score, point.loss) for point in answer.curve)
            original = answer.insight.original_dice
            score = answer.score if original is None else original
            known[job.budget, job.spacing, job.seed] = run = PilotRun(job, answer.outcome, score, curve, answer.seconds)
            self._runs.append(run)
        return [known[job.budget, job.spacing, job.seed] for job in asked]


def _why(chosen: str, values: Sequence[float], tried: Sequence[str]) -> str:
    return (
        f"{chosen}: set by the user" if len(values) == 1 else f"{chosen}: the best of {', '.join(tried)} in the pilot"
    )


def _dice(score: float | None) -> str:
    return "none" if score is None else f"{score:.4f}"
