"""The numbers of a report on a study's designs: progress, fronts, frequencies and effects of choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtr, stdtrit

from unetx_space.genome import Genome
from unetx_space.operators.catalogue import PLAIN_ATTENTION, PLAIN_FUSION, PLAIN_UPSAMPLER
from unetx_studies.ranking import Ranking, complete
from unetx_studies.spread import CONFIDENCE
from unetx_studies.verdict.paired_tests import holm

if TYPE_CHECKING:
    from unetx_studies.ranking import Ranked
    from unetx_studies.store import TrialRecord

BEST_SHARE = 1 / 3
"""The share of the designs that count as the best ones where choices are counted."""
MOST_ESTIMATES = 60
"""Points of a study, at most, for which the best estimate is computed; in a long study most are near its beginning, as
the time that each takes grows with the cube of the trials."""
FEWEST_DESIGNS = 3
"""Designs with a choice, and as many without, from which on its effect is estimated."""
DESIGNS_PER_CHOICE = 2
"""Designs for each choice from which on all choices are adjusted for each other."""
FAR = 8.0
"""Median absolute deviations below the median, from which on a value would press all others together in a figure."""

Choice = tuple[str, str]
"""A skip as (source, node), or an operator as (kind, name)."""
PLAIN = {"attention": PLAIN_ATTENTION, "upsampler": PLAIN_UPSAMPLER, "fusion": PLAIN_FUSION}
"""The operator of each kind with which the others are compared."""
CROSS_LEVEL, NO_OWN_SKIP = ("sources", "one more cross-level source a node"), ("sources", "no own-level skip")

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Column = np.ndarray[tuple[int], np.dtype[np.float64]]


def lowest_shown(values: Sequence[float]) -> float:
    """The bound below which lie the few values that would press all others together, as of the net without skips."""
    middle = median(values)
    return middle - FAR * max(median(abs(value - middle) for value in values), 1e-4)


@dataclass(frozen=True, slots=True)
class ProgressPoint:
    """How far a study had come after a trial."""

    trial: int
    dice: float
    best_dice: float
    """The highest single score so far, which is partly luck."""
    best_estimate: float | None
    """The highest shrunken estimate so far; None where it is not computed, as for the first designs."""


def progress(trials: Sequence[TrialRecord]) -> tuple[ProgressPoint, ...]:
    """The progress of a study after each complete trial, in order."""
    done = complete(trials)
    is_long, last = len(done) > 4 * MOST_ESTIMATES, max(1, len(done))
    points = np.geomspace(1, last, MOST_ESTIMATES) if is_long else np.linspace(1, last, min(MOST_ESTIMATES, last))
    estimated_after = {round(point) for point in points}
    ranking, highest, found = Ranking(), -np.inf, []
    for n_done, trial in enumerate(done, start=1):
        ranking.add(trial)
        dice = trial.score or 0.0
        highest = max(highest, dice)
        best = ranking.best if n_done in estimated_after and len(ranking.designs) >= FEWEST_DESIGNS else None
        found.append(ProgressPoint(trial.number, dice, float(highest), None if best is None else best.estimate))
    return tuple(found)


def pareto_front(designs: Sequence[Ranked], cost_of: Mapping[str, float]) -> tuple[Ranked, ...]:
    """The designs than which no other is both better by its estimate and no more expensive, the cheapest first."""
    front: list[Ranked] = []
    for one in sorted(designs, key=lambda one: (cost_of[one.key], -one.estimate, one.number)):
        if not front or one.estimate > front[-1].estimate:
            front.append(one)
    return tuple(front)


@dataclass(frozen=True, slots=True)
class Frequency:
    """The shares of the best designs, and of all, that make a choice."""

    among_best: float
    among_all: float


def skip_frequencies(designs: Sequence[Ranked], genomes: Mapping[str, Genome]) -> dict[Choice, Frequency]:
    """The frequency of every skip (source, node) that some design has."""
    return _frequencies(designs, {one.key: list(_skips(genomes[one.key])) for one in designs})


def operator_frequencies(designs: Sequence[Ranked], genomes: Mapping[str, Genome]) -> dict[Choice, Frequency]:
    """The frequency of every operator (kind, name) of the kinds in PLAIN, counted by nodes."""
    return _frequencies(designs, {one.key: list(_operators(genomes[one.key])) for one in designs})


def n_best(designs: Sequence[Ranked]) -> int:
    """How many designs count as the best ones: a third of the ranking, at least one."""
    return max(1, round(BEST_SHARE * len(designs)))


def _frequencies(designs: Sequence[Ranked], made: Mapping[str, Sequence[Choice]]) -> dict[Choice, Frequency]:
    best, every = (_shares([made[one.key] for one in some]) for some in (designs[: n_best(designs)], designs))
    return {choice: Frequency(best.get(choice, 0.0), share) for choice, share in sorted(every.items())}


def _shares(made: Sequence[Sequence[Choice]]) -> dict[Choice, float]:
    """The mean share of each choice among a design's choices of its kind; a skip is there or not."""
    found: dict[Choice, float] = {}
    for choices in made:
        kinds = Counter(kind for kind, _ in choices)
        for choice in choices:
            found[choice] = found.get(choice, 0.0) + (1 / kinds[choice[0]] if choice[0] in PLAIN else 1.0)
    return {choice: n / len(made) for choice, n in found.items()}


def _skips(genome: Genome) -> Iterator[Choice]:
    for node in genome.nodes:
        for source in node.sources:
            yield str(source), str(node.ref)


def _operators(genome: Genome) -> Iterator[Choice]:
    for node in genome.nodes:
        yield "attention", node.attention.type
        yield "upsampler", node.upsampler
        yield "fusion", node.fusion


@dataclass(frozen=True, slots=True)
class Effect:
    """How much Dice goes with a choice that all decoder nodes make, against the plain one, other choices alike."""

    question: str
    choice: str
    difference: float
    low: float
    high: float
    """Bounds of the 95 % interval of this choice alone."""
    p_value: float
    """The two-sided p-value, corrected for all choices (Holm)."""
    n_designs: int
    """Designs that make the choice at some node."""
    is_adjusted: bool
    """Whether it is adjusted for the other choices of the same designs; else there are too few designs for that, and
    choices that go together share what they are worth."""


def effects(designs: Sequence[Ranked], genomes: Mapping[str, Genome]) -> tuple[Effect, ...]:
    """The effect of every choice that enough designs make and enough do not, by least squares over designs.

    The Dice of a design, its mean over seeds, is regressed on the share of nodes that make each choice, and on the
    number of cross-level sources a node. Standard errors are robust against unequal noise (HC3; MacKinnon and White,
    Journal of Econometrics 29, 305-325, 1985). Designs without any skip are left out: they are in a class of their own.
    A sampler that learns proposes what did well, which makes these differences a description of what was tried rather
    than an experiment.
    """
    kept = [one for one in designs if any(node.sources for node in genomes[one.key].nodes)]
    table = {choice: np.array([_share(genomes[one.key], choice) for one in kept]) for choice in _choices(kept, genomes)}
    shares = {choice: values for choice, values in table.items() if _is_estimable(values)}
    if len(kept) < 2 * FEWEST_DESIGNS or not shares:
        return ()
    y = np.array([one.dice for one in kept])
    together = len(kept) >= DESIGNS_PER_CHOICE * (len(shares) + 1) and _has_full_rank(list(shares.values()))
    questions = dict.fromkeys(question for question, _ in shares)
    groups = [list(shares)] if together else [[c for c in shares if c[0] == question] for question in questions]
    found = [row for group in groups for row in _fitted(group, shares, y)]
    p_values = holm([2.0 * float(stdtr(df, -abs(v) / e)) if e > 0 else float(v == 0) for _, v, e, df in found])
    return tuple(
        Effect(
            *choice, value, value - (reach := float(stdtrit(df, (1 + CONFIDENCE) / 2)) * error), value + reach,
            float(p), int((table[choice] > 0).sum()), together,
        )
        for (choice, value, error, df), p in zip(found, p_values, strict=True)
    )  # fmt: skip


def _fitted(
    group: Sequence[Choice], shares: Mapping[Choice, Column], y: Column
) -> Iterator[tuple[Choice, float, float, int]]:
    """Coefficient, standard error and degrees of freedom of each choice of a group, adjusted for the others of it."""
    if not _has_full_rank([shares[choice] for choice in group]):
        group = group[:1]
    x = np.column_stack([np.ones(len(y)), *(shares[choice] for choice in group)])
    values, errors = _least_squares(x, y)
    for choice, value, error in zip(group, values[1:], errors[1:], strict=True):
        yield choice, float(value), float(error), max(1, len(y) - x.shape[1])


def _choices(designs: Sequence[Ranked], genomes: Mapping[str, Genome]) -> list[Choice]:
    made = {choice for one in designs for choice in _operators(genomes[one.key])}
    return [CROSS_LEVEL, NO_OWN_SKIP, *sorted(choice for choice in made if PLAIN[choice[0]] != choice[1])]


def _share(genome: Genome, choice: Choice) -> float:
    nodes = genome.nodes
    if choice == CROSS_LEVEL:
        return fmean(sum(source.level != node.ref.level for source in node.sources) for node in nodes)
    if choice == NO_OWN_SKIP:
        return fmean(all(source.level != node.ref.level for source in node.sources) for node in nodes)
    return fmean(choice in set(_operators(Genome((node,)))) for node in nodes)


def _is_estimable(values: Column) -> bool:
    n_with = int((values > 0).sum())
    apart = float(np.ptp(values)) if len(values) else 0.0
    n_without = len(values) - n_with
    return bool(apart > 0 and n_with >= FEWEST_DESIGNS and (n_without >= FEWEST_DESIGNS or apart >= 1 / 2))


def _has_full_rank(columns: Sequence[Column]) -> bool:
    x = np.column_stack([np.ones(len(columns[0])), *columns])
    return len(x) > x.shape[1] and bool(np.linalg.matrix_rank(x) == x.shape[1])


def _least_squares(x: Matrix, y: Column) -> tuple[Column, Column]:
    """Coefficients and their HC3 standard errors."""
    inverse = np.linalg.inv(x.T @ x)
    values = inverse @ x.T @ y
    leverage = np.clip(np.einsum("np,pq,nq->n", x, inverse, x), 0.0, 1.0 - 1e-9)
    scaled = (y - x @ values) / (1.0 - leverage)
    covariance = inverse @ (x.T * scaled**2) @ x @ inverse
    return values, np.sqrt(np.maximum(np.diag(covariance), 0.0))
