"""Concludes from the trainings of a design what its skips do, how gradients arrive, and how sizes and edges fare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean

import numpy as np

from unetx_evaluators.evaluation import OBJECTIVE
from unetx_evaluators.insight import StageGradient
from unetx_evaluators.metrics import METRICS, class_means, objective
from unetx_studies.explanation.changes import Table, change_of_scores, change_of_table, mean_of_known
from unetx_studies.explanation.facts import (
    Change,
    EdgeScore,
    Explanation,
    Flow,
    SeedObservations,
    SizeScore,
    SkipEffect,
    StageFlow,
    VolumeScore,
)
from unetx_studies.explanation.skips import gate_means, skip_effect
from unetx_studies.verdict.conclusions import MARGIN

HEAD = "head"
"""The name of the last stage in gradients, to which all others are compared."""


def make_explanation(
    seeds: Sequence[SeedObservations],
    *,
    early: Sequence[int],
    midway: Sequence[int],
    groups: Mapping[str, str] | None = None,
    margin: float = MARGIN,
) -> Explanation:
    """The explanation of a design from what was observed with one seed or several.

    ``early`` and ``midway`` are training steps, ``groups`` names the group of a case where that is not the case itself.
    """
    groups = groups or {}
    has_twin = all(seed.twin_scores for seed in seeds)
    skips = tuple(skip_effect(seeds, pair, groups, margin) for pair in seeds[0].without)
    return Explanation(
        seeds=tuple(seed.seed for seed in seeds),
        dice=fmean([objective(seed.intact.case_scores) for seed in seeds]),
        twin_dice=fmean([objective(seed.twin_scores) for seed in seeds]) if has_twin else None,
        all_skips=(
            change_of_scores([(seed.twin_scores, seed.intact.case_scores) for seed in seeds], OBJECTIVE, groups)
            if has_twin
            else None
        ),
        skips=skips,
        stages=_stages(seeds, early, midway),
        early=tuple(early),
        midway=tuple(midway),
        gates=tuple(gate for (at, _), gate in gate_means(seeds).items() if at in ("fused", "block")),
        sizes=_sizes(seeds),
        volumes=tuple(score for name in seeds[0].intact.recalls for score in _volumes(seeds, name)),
        edges=_edges(seeds),
        limits=tuple(_limits(seeds, groups, skips)),
    )


# Gradients


def _stages(seeds: Sequence[SeedObservations], early: Sequence[int], midway: Sequence[int]) -> tuple[StageFlow, ...]:
    first = next(iter(seeds[0].gradients.values()), ())
    names = [gradient.stage for gradient in first if gradient.stage != HEAD]
    return tuple(StageFlow(name, _flow(seeds, name, early), _flow(seeds, name, midway)) for name in names)


def _flow(seeds: Sequence[SeedObservations], stage: str, steps: Sequence[int]) -> Flow:
    own = _log_shares([seed.gradients for seed in seeds], stage, steps)
    twin = _log_shares([seed.twin_gradients or {} for seed in seeds], stage, steps)
    known = np.isfinite(own - twin).all(axis=0)
    factor = None
    if known.any():
        change = change_of_table((own - twin)[:, known], [str(step) for step in np.flatnonzero(known)])
        low, high = (None if bound is None else math.exp(bound) for bound in (change.low, change.high))
        factor = Change(math.exp(change.mean), low, high, change.n_cases)
    return Flow(_geometric(own), _geometric(twin), factor)


def _log_shares(gradients: Sequence[Mapping[int, Sequence[StageGradient]]], stage: str, steps: Sequence[int]) -> Table:
    """[seed, step]: the logarithm of a stage's gradient over the head's; NaN where either is unknown or zero."""

    def share(at: Sequence[StageGradient]) -> float:
        norms = {gradient.stage: gradient.norm for gradient in at}
        own, head = norms.get(stage), norms.get(HEAD)
        return math.log(own / head) if own and head else math.nan

    return np.array([[share(by_step.get(step, ())) for step in steps] for by_step in gradients])


def _geometric(logs: Table) -> float | None:
    known = logs[np.isfinite(logs)]
    return math.exp(known.mean()) if known.size else None


# Sizes and edges


def _sizes(seeds: Sequence[SeedObservations]) -> tuple[SizeScore, ...]:
    scores = []
    for name, parts in seeds[0].intact.recalls.items():
        for index, part in enumerate(parts):
            n_hit = sum(seed.intact.recalls[name][index].n_hit for seed in seeds)
            recall = n_hit / (part.n_targets * len(seeds)) if part.n_targets else None
            scores.append(SizeScore(name, part.size, part.n_targets, recall, part.max_voxels))
    return tuple(scores)


def _volumes(seeds: Sequence[SeedObservations], class_name: str) -> Iterator[VolumeScore]:
    """The scores of a class by thirds of its volume; cases of equal volume share a third, the smaller."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        for score in seed.intact.case_scores:
            dice = score.values.get(OBJECTIVE)
            if score.class_name == class_name and dice is not None:
                found.setdefault(score.case, []).append(dice)
    volumes = {case: seeds[0].volumes[case][class_name] for case in found if seeds[0].volumes[case][class_name]}
    ordered = sorted(volumes.values())
    n = len(ordered)
    ends = [0, *(ordered[-(-n * third // 3) - 1] if n else 0 for third in (1, 2, 3))]
    for size, (above, most) in zip(("small", "medium", "large"), pairwise(ends), strict=True):
        cases = [case for case, volume in volumes.items() if above < volume <= most]
        largest = max((volumes[case] for case in cases), default=None)
        dice = mean_of_known(dice for case in cases for dice in found[case])
        yield VolumeScore(class_name, size, len(cases), largest, dice)


def _edges(seeds: Sequence[SeedObservations]) -> tuple[EdgeScore, ...]:
    means = {metric: [class_means(seed.intact.case_scores, metric) for seed in seeds] for metric in METRICS}
    return tuple(
        EdgeScore(
            name,
            {metric: mean_of_known(of_class.get(name) for of_class in by_seed) for metric, by_seed in means.items()},
        )
        for name in seeds[0].intact.recalls
    )


# Limits


def _limits(seeds: Sequence[SeedObservations], groups: Mapping[str, str], skips: Sequence[SkipEffect]) -> list[str]:
    cases = dict.fromkeys(score.case for score in seeds[0].intact.case_scores)
    n_groups = len({groups.get(case, case) for case in cases})
    limits = ["A role is one in these trained networks: a design that is trained without the skip may do as well."]
    if not skips:
        limits = ["The design has no skips, so that there is nothing to take away and no twin to compare with."]
    if not seeds[0].gradients:
        limits.append(
            "A trained model has no twin without skips, and its gradients are gone: explain its architecture.json for "
            "these."
        )
    elif len(seeds) == 1:
        limits.append(
            "One training: intervals are about other cases, not about other trainings; --seeds 3 tells those."
        )
    if n_groups == 1:
        limits.append("All validation cases are of one group: there are no intervals over cases, and no shuffling.")
    elif n_groups < len(cases):
        limits.append(f"The {len(cases)} validation cases are of {n_groups} groups, which intervals go by.")
    return limits
