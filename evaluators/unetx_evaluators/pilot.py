"""The pilot: short trainings of the U-Net preset that settle, once per dataset, how its proxies are trained.

It goes in rounds, so that its course depends on their results alone and not on the number of workers:

- **recipe**: every learning rate with every weight of the background trains for a quarter of the steps that time
  allows; the two best go on to half of them, and the better one is kept;
- **voxel size**, only where the plan leaves it open: a training for all of these steps at each of its sizes, scored on
  the original voxels. Coarser voxels must be clearly better than finer ones, because skips act on fine structures, and
  because coarser ones learn faster;
- **steps**: the fewest, among a quarter, half and all of those that time allows, than which no longer training is
  better by ``min_gain`` a doubling, and after which another seed ends within ``min_gain``: scores that jump from seed
  to seed rank nothing.

Values that the user has set are not tried. Scores are those of validation cases, as in a search; test cases are not
read. No torch here, and nothing waits: ``settle`` is a generator that yields rounds and is sent their results.
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
"""Smallest gain of Dice that justifies twice the steps."""
COARSER_GAIN = 0.02
"""Smallest gain of Dice on the original voxels that justifies coarser voxels."""
FIRST_SHARE = 4
"""The steps that time allows are this many times those of the first round."""
N_SECOND = 2
"""Number of recipes that go on to the second round."""

Spacing = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """The values among which a pilot chooses, and its largest effort."""

    max_steps: int
    """Steps that the time target allows on the planned patch."""
    min_gain: float = MIN_GAIN
    learning_rates: tuple[float, ...] = LEARNING_RATES
    """Learning rates to try; a single one is taken as it is."""
    background_weights: tuple[float, ...] = BACKGROUND_WEIGHTS
    alternatives: tuple[Spacing, ...] = ()
    """Voxel sizes to try (mm along the source's axes), the planned one last; nothing is tried for fewer than two."""
    steps: int | None = None
    """The steps that the user has set; None: the pilot decides."""

    @property
    def has_open_choices(self) -> bool:
        """Whether there is anything to settle."""
        candidates = (self.learning_rates, self.background_weights, self.alternatives)
        return self.steps is None or any(len(values) > 1 for values in candidates)


@dataclass(frozen=True, slots=True)
class PilotJob:
    """One training of the U-Net preset."""

    round: str
    budget: Budget
    spacing: Spacing | None = None
    """Voxel size in mm along the source's axes; None: the planned one, where no other is tried."""
    seed: int = 0

    @property
    def description(self) -> str:
        """A text for people on the steps, recipe, voxel size and seed that it tries."""
        recipe = self.budget.recipe
        details = f", voxels of {in_mm(self.spacing or ())}" if self.round == "voxel size" else ""
        details += f", seed {self.seed}" if self.seed else ""
        return (
            f"{self.budget.steps} steps, learning rate {recipe.learning_rate:g}, background weight "
            f"{recipe.background_weight:g}{details}"
        )


@dataclass(frozen=True, slots=True)
class PilotRun:
    """The result of a job."""

    job: PilotJob
    outcome: Outcome
    score: float | None
    """The objective on the original voxels."""
    curve: tuple[tuple[int, float, float], ...]
    """Steps, score and training loss at every rung."""
    seconds: float

    @property
    def comparable_score(self) -> float:
        """The score of a complete run, and minus infinity of any other."""
        return self.score if self.score is not None and self.outcome is Outcome.COMPLETE else -math.inf


@dataclass(frozen=True, slots=True)
class Pilot:
    """The choices of a pilot, with its runs."""

    budget: Budget
    spacing: Spacing | None
    """The voxel size that was chosen, where several were tried."""
    runs: tuple[PilotRun, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    """A sentence for every choice, by its name."""
    still_gaining: float | None = None
    """Dice that the last doubling of the steps gained, where the time target was the limit; scores are then those of
    half-trained networks."""

    def choices(self, planned: Mapping[str, Any]) -> dict[str, Any]:
        """The task's choices ``planned``, each that the pilot settled replaced by its value and reason."""
        recipe = self.budget.recipe
        values = {
            "learning_rate": recipe.learning_rate,
            "background_weight": recipe.background_weight,
            "steps": self.budget.steps,
            "spacing": self.spacing,
        }
        settled = {name: {"value": values[name], "reason": reason} for name, reason in self.reasons.items()}
        obsolete = {"alternatives"} if "spacing" in settled else set()
        return {**{name: choice for name, choice in planned.items() if name not in obsolete}, **settled}

    def to_json(self) -> dict[str, Any]:
        """The pilot as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The pilot of which ``data`` is ``to_json()``, read from JSON."""

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
    """The budget with another number of steps; its rungs keep their shares of it."""
    rungs = sorted({max(1, round(rung * steps / budget.steps)) for rung in budget.rungs})
    return replace(budget, steps=steps, rungs=tuple(rungs))


def settle(budget: Budget, limits: Limits) -> Rounds:
    """Yield rounds of jobs, be sent their evaluations in the same order, and return the pilot's choices.

    ``budget`` is the task's default, from which values that are not tried are taken.
    """
    return _RunningPilot(budget, limits).rounds()


class _RunningPilot:
    """The state of a pilot between its rounds."""

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
                recipes = [
                    run.job.budget.recipe for run in sorted(runs, key=lambda run: -run.comparable_score)[:n_kept]
                ]
        chosen = recipes[0]
        self._reasons["learning_rate"] = _why(chosen.learning_rate, limits.learning_rates)
        self._reasons["background_weight"] = _why(chosen.background_weight, limits.background_weights)
        return chosen

    def _best_spacing(self, recipe: Recipe, steps: int) -> Generator[list[PilotJob], list[Evaluation], Spacing | None]:
        alternatives = self._limits.alternatives
        if len(alternatives) < 2:
            return self._planned
        runs = yield from self._round("voxel size", [(recipe, spacing, steps) for spacing in alternatives])
        best, *coarser = sorted(runs, key=lambda run: run.job.spacing or ())
        for run in coarser:
            if run.comparable_score >= best.comparable_score + COARSER_GAIN:
                best = run
        scores = ", ".join(f"{_dice(run.score)} at {in_mm(run.job.spacing or ())}" for run in runs)
        self._reasons["spacing"] = (
            f"{in_mm(best.job.spacing or ())}: by Dice on the original voxels in the pilot ({scores}); coarser voxels "
            f"must gain {COARSER_GAIN:g} over finer ones"
        )
        return best.job.spacing

    def _enough_steps(
        self, recipe: Recipe, spacing: Spacing | None, first: int
    ) -> Generator[list[PilotJob], list[Evaluation], tuple[int, float | None]]:
        """The fewest steps that are enough, and the gain of the last doubling where the time target was the limit."""
        min_gain, lengths = self._limits.min_gain, [first]
        while 2 * lengths[-1] <= self._limits.max_steps:
            lengths.append(2 * lengths[-1])
        runs = yield from self._round("steps", [(recipe, spacing, steps) for steps in lengths])
        scores = ", ".join(f"{_dice(run.score)} after {steps}" for run, steps in zip(runs, lengths, strict=True))
        for n, (run, steps) in enumerate(zip(runs[:-1], lengths, strict=False)):
            if any(
                longer.comparable_score - run.comparable_score >= min_gain * more
                for more, longer in enumerate(runs[n + 1 :], start=1)
            ):
                continue
            (again,) = yield from self._round("another seed", [(recipe, spacing, steps)], seed=1)
            scores += f", {_dice(again.score)} after {steps} with another seed"
            if abs(again.comparable_score - run.comparable_score) < min_gain:
                self._reasons["steps"] = (
                    f"{steps}: twice as many, or four times, gain less than {min_gain:g} Dice a doubling in the pilot, "
                    f"and another seed differs by less ({scores})"
                )
                return steps, None
        gain = runs[-1].comparable_score - runs[-2].comparable_score if len(runs) > 1 else 0.0
        rises = f"; the last doubling gained {gain:+.4f} Dice, so scores still rise with training"
        is_rising = gain >= min_gain
        self._reasons["steps"] = (
            f"{lengths[-1]}: as many as the time target allows ({scores}){rises if is_rising else ''}"
        )
        return lengths[-1], gain if is_rising else None

    def _round(
        self, name: str, candidates: Sequence[tuple[Recipe, Spacing | None, int]], seed: int = 0
    ) -> Generator[list[PilotJob], list[Evaluation], list[PilotRun]]:
        """The runs of all candidates, of which those that an earlier round has trained are not trained again."""
        all_jobs = [
            PilotJob(name, replace(with_steps(self._budget, steps), recipe=recipe), spacing, seed)
            for recipe, spacing, steps in candidates
        ]
        runs = {(run.job.budget, run.job.spacing, run.job.seed): run for run in self._runs}
        jobs = [job for job in all_jobs if (job.budget, job.spacing, job.seed) not in runs]
        results = (yield jobs) if jobs else []
        for job, result in zip(jobs, results, strict=True):
            curve = tuple((point.step, point.score, point.loss) for point in result.curve)
            original = result.insight.original_dice
            score = result.score if original is None else original
            runs[job.budget, job.spacing, job.seed] = run = PilotRun(job, result.outcome, score, curve, result.seconds)
            self._runs.append(run)
        return [runs[job.budget, job.spacing, job.seed] for job in all_jobs]


def _why(chosen: float, candidates: Sequence[float]) -> str:
    if len(candidates) == 1:
        return f"{chosen:g}: set by the user"
    return f"{chosen:g}: the best of {', '.join(f'{value:g}' for value in candidates)} in the pilot"


def _dice(score: float | None) -> str:
    return "none" if score is None else f"{score:.4f}"
