"""The verdict on finals: what their scores let conclude, in one sentence, and what they cannot show."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unetx_studies.spread import CONFIDENCE
from unetx_studies.verdict.differences import Difference, Scores
from unetx_studies.verdict.paired_tests import holm, sign_flip, signed_rank, smallest_p
from unetx_studies.verdict.selection import best_of

MARGIN = 0.005
"""Difference of Dice below which two designs are the same in practice."""
EQUIVALENCE = 0.9
"""Two one-sided tests at 5 % are one interval of 90 % (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics
15(6), 657-680, 1987)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of a design with a baseline; all numbers are the design's less the baseline's."""

    design: str
    baseline: str
    difference: Difference
    low: float
    high: float
    """Bounds of the 95 % interval for this comparison alone."""
    p_value: float
    """The two-sided p-value over seeds and groups, corrected for all comparisons (Holm)."""
    p_sign_flip: float
    """The p-value of the groups' mean differences by sign flips, these trainings taken as given; corrected (Holm)."""
    p_signed_rank: float
    """The p-value of the groups' mean differences by Wilcoxon's ranks; corrected (Holm)."""
    p_seeds: float
    """The p-value of the seeds' mean differences by sign flips, these cases taken as given; not corrected."""
    better: float | None
    """The probability of being better by more than the margin; None where the noise is unknown."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The design with the highest mean of those that could win, with what choosing it has added taken out."""

    design: str
    reference: str
    n_rivals: int
    difference: Difference
    """The difference to the reference, corrected for choosing."""
    better: float | None
    """The probability of being better by more than the margin; None where the noise is unknown."""

    @property
    def scope(self) -> str:
        """What a conclusion from one seed or one patient is about, as the beginning of a sentence."""
        if self.difference.n_seeds == 1:
            return "In these trainings alone,"
        return "For this patient alone," if self.difference.n_groups == 1 else ""


@dataclass(frozen=True, slots=True)
class Cheapest:
    """The cheapest design that is shown not to be worse than the reference by more than the margin."""

    design: str
    cost: float
    """The cost in units of the reference's."""
    low: float
    """Lower bound of the one-sided 95 % interval of its difference, for this design alone."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All conclusions from finals."""

    comparisons: tuple[Comparison, ...]
    chosen: Chosen | None
    cheapest: Cheapest | None
    conclusion: str
    """The conclusion in one sentence."""
    limits: tuple[str, ...]
    """What these finals cannot say, a sentence each."""


def verdict(
    scores: Scores,
    candidates: Sequence[str],
    baselines: Sequence[str],
    *,
    margin: float = MARGIN,
    costs: Mapping[str, float] | None = None,
    asked: int | None = None,
    out: Collection[str] = (),
) -> Verdict:
    """The verdict on candidates against baselines, of which the first is the reference.

    The scores must not be those that chose the candidates.
    With costs, the cheapest design is named among candidates and baselines. ``asked`` is how many candidates there
    should have been; those that are ``out`` were given up early as hopeless, and can win only where all were.
    """
    present = {name for name, own in zip(scores.designs, scores.values, strict=True) if not np.isnan(own).all()}
    candidates = [name for name in candidates if name in present]
    baselines = [name for name in baselines if name in present]
    comparisons = _comparisons(scores, candidates, baselines, margin)
    reference = baselines[0] if baselines else None
    rivals = [name for name in candidates if name not in out] or candidates
    chosen = _chosen(scores, rivals, reference, margin) if reference is not None else None
    others = [name for name in (*candidates, *baselines) if name != reference]
    cheapest = None if reference is None or costs is None else _cheapest(scores, others, reference, costs, margin)
    cost = None if chosen is None or costs is None else costs[chosen.design] / costs[chosen.reference]
    return Verdict(
        comparisons,
        chosen,
        cheapest,
        conclusion(chosen, margin, cost),
        limits(scores, comparisons, len(candidates), asked),
    )


def _comparisons(
    scores: Scores, candidates: Sequence[str], baselines: Sequence[str], margin: float
) -> tuple[Comparison, ...]:
    pairs = [(design, baseline) for design in candidates for baseline in baselines]
    found = [scores.difference(*pair) for pair in pairs]
    p = holm([one.p_value for one in found])
    flips, ranks = (holm([test(one.by_group) for one in found]) for test in (sign_flip, signed_rank))
    return tuple(
        Comparison(
            *pair, one, *one.interval(), float(p[i]), float(flips[i]), float(ranks[i]), sign_flip(one.by_seed),
            one.probability_above(margin),
        )
        for i, (pair, one) in enumerate(zip(pairs, found, strict=True))
    )  # fmt: skip


def _chosen(scores: Scores, candidates: Sequence[str], reference: str, margin: float) -> Chosen | None:
    """The winner among the candidates, on the seeds and cases that all of them and the reference have."""
    kept = [scores.designs.index(name) for name in (*candidates, reference)]
    has = ~np.isnan(scores.values[kept])
    seeds = has.any(2).all(0)
    cases = has[:, seeds].all((0, 1))
    if not candidates or not seeds.any() or not cases.any():
        return None
    values = scores.values[kept][:, seeds][:, :, cases]
    groups = [scores.groups[case] for case in np.flatnonzero(cases)]
    best, found = best_of(values[:-1] - values[-1], groups)
    return Chosen(candidates[best], reference, len(candidates), found, found.probability_above(margin))


def _cheapest(
    scores: Scores, designs: Sequence[str], reference: str, costs: Mapping[str, float], margin: float
) -> Cheapest | None:
    """The cheapest that costs less than the reference and is shown not to be worse (Holm over all that cost less)."""
    cheaper = [name for name in designs if costs[name] < costs[reference]]
    found = [scores.difference(name, reference) for name in cheaper]
    p = holm([1.0 - (one.probability_above(-margin) or 0.0) for one in found])
    as_good = [(costs[cheaper[i]], i) for i in range(len(found)) if p[i] <= 1.0 - CONFIDENCE]
    if not as_good:
        return None
    cost, i = min(as_good)
    return Cheapest(cheaper[i], cost / costs[reference], found[i].interval(2 * CONFIDENCE - 1)[0])


def conclusion(chosen: Chosen | None, margin: float, cost: float | None = None) -> str:
    """The conclusion in one sentence. ``cost`` is the design's in units of the reference's."""
    if chosen is None:
        return "No conclusion: no design and baseline have scores on a common seed and case."
    name, other = chosen.design, chosen.reference
    if chosen.difference.standard_error is None:
        return f"No conclusion: one seed and one patient do not say how far {name} and {other} would differ on others."
    low, high = chosen.difference.interval()
    numbers = f"{chosen.difference.mean:+.4f} Dice, 95 % interval {low:+.4f} to {high:+.4f}"
    if chosen.n_rivals > 1:
        numbers += f", corrected for choosing the best of {chosen.n_rivals}"
    if low > margin:
        found = f"{name} is better than {other} by more than the margin of {margin:g}: {numbers}."
    elif low > 0.0:
        found = f"{name} is better than {other}: {numbers}; not shown to be by more than the margin of {margin:g}."
    elif high < 0.0:
        found = f"{name} is worse than {other}: {numbers}."
    elif all(abs(bound) < margin for bound in chosen.difference.interval(EQUIVALENCE)):
        found = f"{name} and {other} are equivalent within the margin of {margin:g}: {numbers}."
    else:
        rest = f"{other} is as good as far as this shows{', and cheaper' if cost is not None and cost > 1.0 else ''}"
        if cost is not None and cost < 1.0:
            rest = f"it has {cost:.0%} of its cost"
        found = f"{'no' if chosen.scope else 'No'} evidence that {name} is better than {other}: {numbers}; {rest}."
    return f"{chosen.scope} {found}".lstrip()


def limits(
    scores: Scores, comparisons: Sequence[Comparison], n_candidates: int, asked: int | None = None
) -> tuple[str, ...]:
    """What the numbers of designs, seeds, cases and patients keep these finals from saying."""
    found: list[str] = []
    n_seeds = min((one.difference.n_seeds for one in comparisons), default=len(scores.seeds))
    n_groups = min((one.difference.n_groups for one in comparisons), default=len(set(scores.groups)))
    n_cases = min((one.difference.n_cases for one in comparisons), default=len(scores.groups))
    if asked is not None and n_candidates < asked:
        found.append(f"Only {n_candidates} of the {asked} designs asked for are compared: no others have scores.")
    if n_seeds == 1:
        found.append("One seed: what is said is about these trainings; another seed may turn it round.")
    elif smallest_p(n_seeds) > 1.0 - CONFIDENCE:
        found.append(
            f"{n_seeds} seeds can never reach 5 % by their signs alone (at best p = {smallest_p(n_seeds):.2g}): the "
            "intervals lean on normally distributed seed noise."
        )
    if n_cases == 1:
        found.append("One case: what is said is about this case and tells nothing about others.")
    elif n_groups == 1:
        found.append("All cases are of one patient: what is said is about this patient and tells nothing about others.")
    elif smallest_p(n_groups) > 1.0 - CONFIDENCE:
        found.append(
            f"{n_groups} patients can never reach 5 % by their signs or ranks (at best p = {smallest_p(n_groups):.2g})."
        )
    holes = len(scores.groups) - n_cases, len(scores.seeds) - n_seeds
    if any(holes):
        found.append(f"Where scores are missing, comparisons leave out cases ({holes[0]}) and seeds ({holes[1]}).")
    return tuple(found)
