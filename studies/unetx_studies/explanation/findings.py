"""What is concluded from the trainings of a design: changes of scores with intervals, paired by case, roles of skips.

Intervals are those of the verdict (``verdict/differences.py``): over groups of cases, and over seeds where there are
several. A change is that of a case's Dice, the mean over its classes. A class that only one of two predictions shows,
and the truth does not, counts 1 where it is not predicted: nothing was to be found and nothing was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np

from unetx_evaluators.evaluation import OBJECTIVE, CaseScore, NetworkScores
from unetx_evaluators.insight import GateStatistics, Replacement, SkipSimilarity, StageGradient
from unetx_evaluators.metrics import METRICS, class_means, objective
from unetx_studies.verdict import difference
from unetx_studies.verdict.conclusions import MARGIN

EDGE = "nsd"
"""The metric by which a change at the edge is told."""
DECISIVE = 0.1
"""A skip is decisive from this loss of Dice on."""
ALIKE = 0.5
"""From this CKA on a skip's map is called much like the decoder's own."""
HEAD = "head"
Pair = tuple[str, str]
"""Source and node."""


class Role(StrEnum):
    """What a skip is to the trained network, by its mean in its place."""

    DECISIVE = "decisive"  # surely worse without, by DECISIVE or more
    HELPS = "helps"  # surely worse without, by more than the margin
    SPARE = "not needed"  # surely the same within the margin
    HARMFUL = "in the way"  # surely better without, by more than the margin
    OPEN = "open"  # the interval holds more than one of these


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen of one seed: the design, trained, and its twin without skips."""

    seed: int
    intact: NetworkScores
    without: Mapping[Pair, Mapping[Replacement, NetworkScores | None]]
    """The scores with a skip replaced; None where no case could stand in for another."""
    similarities: tuple[SkipSimilarity, ...]
    gates: tuple[GateStatistics, ...]
    volumes: Mapping[str, Mapping[str, int]]
    """Voxels in the truth, by case and class."""
    gradients: Mapping[int, tuple[StageGradient, ...]]
    """By training step."""
    twin_scores: tuple[CaseScore, ...] = ()
    """Empty where the design has no skips."""
    twin_gradients: Mapping[int, tuple[StageGradient, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A mean difference and its 95 % interval; None where there is but one case (or group of them) and one seed."""

    mean: float
    low: float | None
    high: float | None
    n_cases: int


@dataclass(frozen=True, slots=True)
class SkipEffect:
    """One skip."""

    node: str
    source: str
    dice: Mapping[Replacement, Change | None]
    edge: Mapping[Replacement, Change | None]
    """Of the surface Dice."""
    by_class: Mapping[str, Change | None]
    """Of the Dice of each class, with the skip's mean in its place."""
    small_recall: Mapping[Replacement, float | None]
    """Change of the share of small targets that are hit; None where there are none."""
    cka: float | None
    """With the upsampled map beside it; the mean over seeds."""
    gate: GateStatistics | None
    role: Role
    says: str
    """A sentence."""


@dataclass(frozen=True, slots=True)
class Flow:
    """The gradient of a stage at some steps, as a share of the head's (geometric means)."""

    share: float | None
    twin: float | None
    """Of the same stage without skips."""
    factor: Change | None
    """The first over the second; ``n_cases`` counts steps. None for a stage that the twin lacks."""


@dataclass(frozen=True, slots=True)
class StageFlow:
    """One stage early and midway."""

    stage: str
    early: Flow
    midway: Flow


@dataclass(frozen=True, slots=True)
class SizeScore:
    """How many targets of a size were hit, over all seeds."""

    class_name: str
    size: str
    n_targets: int
    recall: float | None
    max_voxels: int | None


@dataclass(frozen=True, slots=True)
class VolumeScore:
    """The cases that show little, some or much of a class, by thirds of its voxels in the truth."""

    class_name: str
    size: str
    n_cases: int
    max_voxels: int | None
    dice: float | None
    """The mean over these cases and all seeds."""


@dataclass(frozen=True, slots=True)
class EdgeScore:
    """A class at its edge: every metric's mean over cases and seeds."""

    class_name: str
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Explanation:
    """All of it."""

    seeds: tuple[int, ...]
    dice: float
    """The objective on the validation cases; the mean over seeds."""
    twin_dice: float | None
    all_skips: Change | None
    """What all skips together are worth: the design less its twin without any, both trained."""
    skips: tuple[SkipEffect, ...]
    stages: tuple[StageFlow, ...]
    early: tuple[int, ...]
    """Steps that are called early."""
    midway: tuple[int, ...]
    gates: tuple[GateStatistics, ...]
    """Of maps behind a fusion or a block; a skip's own stands with it."""
    sizes: tuple[SizeScore, ...]
    volumes: tuple[VolumeScore, ...]
    edges: tuple[EdgeScore, ...]
    limits: tuple[str, ...]
    """What this cannot say, a sentence each."""


def explained(
    looks: Sequence[Looked],
    *,
    early: Sequence[int],
    midway: Sequence[int],
    groups: Mapping[str, str] | None = None,
    margin: float = MARGIN,
) -> Explanation:
    """From one look or several; ``groups`` names the group of a case where that is not the case itself."""
    groups = groups or {}
    has_twin = all(look.twin_scores for look in looks)
    skips = tuple(_skip(looks, pair, groups, margin) for pair in looks[0].without)
    return Explanation(
        seeds=tuple(look.seed for look in looks),
        dice=_mean([objective(look.intact.case_scores) for look in looks]),
        twin_dice=_mean([objective(look.twin_scores) for look in looks]) if has_twin else None,
        all_skips=(
            _changes([(look.twin_scores, look.intact.case_scores) for look in looks], OBJECTIVE, groups)
            if has_twin
            else None
        ),
        skips=skips,
        stages=_stages(looks, early, midway),
        early=tuple(early),
        midway=tuple(midway),
        gates=_gates(looks, None),
        sizes=_sizes(looks),
        volumes=tuple(score for name in looks[0].intact.recalls for score in _volumes(looks, name)),
        edges=_edges(looks),
        limits=tuple(_limits(looks, groups, skips)),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _mean_of_known(values: Iterable[float | None]) -> float | None:
    """None where none is known."""
    known = [value for value in values if value is not None]
    return _mean(known) if known else None


# Skips


def _skip(looks: Sequence[Looked], pair: Pair, groups: Mapping[str, str], margin: float) -> SkipEffect:
    def change(metric: str, way: Replacement, class_name: str | None = None) -> Change | None:
        after = [look.without[pair][way] for look in looks]
        pairs = [(look.intact.case_scores, one.case_scores) for look, one in zip(looks, after, strict=True) if one]
        return _changes(pairs, metric, groups, class_name) if len(pairs) == len(looks) else None

    source, node = pair
    cka = _mean_of_known(s.cka for look in looks for s in look.similarities if (s.source, s.node) == pair)
    dice = {way: change(OBJECTIVE, way) for way in Replacement}
    role = role_of(dice[Replacement.MEAN], margin)
    return SkipEffect(
        node,
        source,
        dice,
        {way: change(EDGE, way) for way in Replacement},
        {name: change(OBJECTIVE, Replacement.MEAN, name) for name in looks[0].intact.recalls},
        {way: _small_recall(looks, pair, way) for way in Replacement},
        cka,
        next(iter(_gates(looks, pair)), None),
        role,
        _says(role, dice, cka, margin),
    )


def role_of(change: Change | None, margin: float = MARGIN) -> Role:
    """By the whole interval; open where there is none."""
    if change is None or change.low is None or change.high is None:
        return Role.OPEN
    if change.high < -margin:
        return Role.DECISIVE if change.mean <= -DECISIVE else Role.HELPS
    if change.low > margin:
        return Role.HARMFUL
    return Role.SPARE if -margin <= change.low and change.high <= margin else Role.OPEN


def _says(role: Role, dice: Mapping[Replacement, Change | None], cka: float | None, margin: float) -> str:
    mean, zero = dice[Replacement.MEAN], dice[Replacement.ZERO]
    match role:
        case Role.DECISIVE | Role.HELPS | Role.HARMFUL:
            assert mean is not None
            way = "rises" if role is Role.HARMFUL else "falls"
            return f"{role}: Dice {way} by {abs(mean.mean):.3f} when it says the same of every image"
        case Role.OPEN:
            return f"{role}: these cases do not tell whether it matters"
    if role_of(zero, margin) in (Role.DECISIVE, Role.HELPS):
        return "a constant would do: needed, but it may say the same of every image"
    if cka is not None and cka >= ALIKE:
        return f"redundant: not needed, and much like what the decoder has already (CKA {cka:.2f})"
    return "unused: not needed, and unlike what the decoder has"


Scored = Sequence[CaseScore]


def _changes(
    pairs: Sequence[tuple[Scored, Scored]], metric: str, groups: Mapping[str, str], class_name: str | None = None
) -> Change | None:
    """Over the cases that every seed has, of one class or the mean over all; ``pairs`` are scores before and after, a
    seed each."""

    def wanted(scores: Scored) -> Scored:
        return [score for score in scores if class_name in (None, score.class_name)]

    by_seed = [_by_case(wanted(before), wanted(after), metric) for before, after in pairs]
    cases = [case for case in by_seed[0] if all(case in row for row in by_seed)]
    if not cases:
        return None
    values = np.array([[row[case] for case in cases] for row in by_seed])
    return _change(values, [groups.get(case, case) for case in cases])


def _change(values: np.ndarray[tuple[int, int], np.dtype[np.float64]], groups: Sequence[str]) -> Change:
    found = difference(values, groups)
    low, high = (bound if math.isfinite(bound) else None for bound in found.interval())
    return Change(found.mean, low, high, found.n_cases)


def _by_case(before: Scored, after: Scored, metric: str) -> dict[str, float]:
    """Of every case that shows any class the change of a metric that lies in 0..1, the mean over its classes."""
    ends = {(score.case, score.class_name): score.values.get(metric) for score in after}
    changes: dict[str, list[float]] = {}
    for score in before:
        start, end = score.values.get(metric), ends.get((score.case, score.class_name))
        if start is not None or end is not None:
            apart = (1.0 if end is None else end) - (1.0 if start is None else start)
            changes.setdefault(score.case, []).append(apart)
    return {case: _mean(values) for case, values in changes.items()}


def _small_recall(looks: Sequence[Looked], pair: Pair, way: Replacement) -> float | None:
    after = [look.without[pair][way] for look in looks]
    before = [look.intact for look in looks]
    first, second = _recall_of_small(before), _recall_of_small([one for one in after if one is not None])
    return None if first is None or second is None else second - first


def _recall_of_small(measured: Sequence[NetworkScores]) -> float | None:
    parts = [part for one in measured for sizes in one.recalls.values() for part in sizes if part.size == "small"]
    n_targets = sum(part.n_targets for part in parts)
    return sum(part.n_hit for part in parts) / n_targets if n_targets else None


def _gates(looks: Sequence[Looked], pair: Pair | None) -> tuple[GateStatistics, ...]:
    """The mean over seeds of a skip's gate, if it has one; or of all that are no skip's."""
    found: dict[Pair, list[GateStatistics]] = {}
    for look in looks:
        for gate in look.gates:
            if (gate.at, gate.node) == pair or (pair is None and gate.at in ("fused", "block")):
                found.setdefault((gate.at, gate.node), []).append(gate)
    return tuple(
        GateStatistics(
            node,
            at,
            gates[0].type,
            _mean_of_known(gate.mean for gate in gates),
            _mean_of_known(gate.share_closed for gate in gates),
            _mean_of_known(gate.share_open for gate in gates),
        )
        for (at, node), gates in found.items()
    )


# Gradients


def _stages(looks: Sequence[Looked], early: Sequence[int], midway: Sequence[int]) -> tuple[StageFlow, ...]:
    first = next(iter(looks[0].gradients.values()), ())
    names = [gradient.stage for gradient in first if gradient.stage != HEAD]
    return tuple(StageFlow(name, _flow(looks, name, early), _flow(looks, name, midway)) for name in names)


def _flow(looks: Sequence[Looked], stage: str, steps: Sequence[int]) -> Flow:
    own = _log_shares([look.gradients for look in looks], stage, steps)
    twin = _log_shares([look.twin_gradients or {} for look in looks], stage, steps)
    known = np.isfinite(own - twin).all(axis=0)
    factor = None
    if known.any():
        change = _change((own - twin)[:, known], [str(step) for step in np.flatnonzero(known)])
        low, high = (None if bound is None else math.exp(bound) for bound in (change.low, change.high))
        factor = Change(math.exp(change.mean), low, high, change.n_cases)
    return Flow(_geometric(own), _geometric(twin), factor)


def _log_shares(
    gradients: Sequence[Mapping[int, Sequence[StageGradient]]], stage: str, steps: Sequence[int]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """[seed, step]: the logarithm of a stage's gradient over the head's; NaN where either is unknown or zero."""

    def share(at: Sequence[StageGradient]) -> float:
        norms = {gradient.stage: gradient.norm for gradient in at}
        own, head = norms.get(stage), norms.get(HEAD)
        return math.log(own / head) if own and head else math.nan

    return np.array([[share(by_step.get(step, ())) for step in steps] for by_step in gradients])


def _geometric(logs: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float | None:
    known = logs[np.isfinite(logs)]
    return math.exp(known.mean()) if known.size else None


# Sizes and edges


def _sizes(looks: Sequence[Looked]) -> tuple[SizeScore, ...]:
    scores = []
    for name, parts in looks[0].intact.recalls.items():
        for index, part in enumerate(parts):
            n_hit = sum(look.intact.recalls[name][index].n_hit for look in looks)
            recall = n_hit / (part.n_targets * len(looks)) if part.n_targets else None
            scores.append(SizeScore(name, part.size, part.n_targets, recall, part.max_voxels))
    return tuple(scores)


def _volumes(looks: Sequence[Looked], class_name: str) -> Iterator[VolumeScore]:
    """Thirds as of targets: cases of equal volume share one, the smaller."""
    found: dict[str, list[float]] = {}
    for look in looks:
        for score in look.intact.case_scores:
            dice = score.values.get(OBJECTIVE)
            if score.class_name == class_name and dice is not None:
                found.setdefault(score.case, []).append(dice)
    shown = {case: looks[0].volumes[case][class_name] for case in found if looks[0].volumes[case][class_name]}
    ordered = sorted(shown.values())
    n = len(ordered)
    ends = [0, *(ordered[-(-n * third // 3) - 1] if n else 0 for third in (1, 2, 3))]
    for size, (above, most) in zip(("small", "medium", "large"), pairwise(ends), strict=True):
        cases = [case for case, volume in shown.items() if above < volume <= most]
        largest = max((shown[case] for case in cases), default=None)
        dice = _mean_of_known(dice for case in cases for dice in found[case])
        yield VolumeScore(class_name, size, len(cases), largest, dice)


def _edges(looks: Sequence[Looked]) -> tuple[EdgeScore, ...]:
    means = {metric: [class_means(look.intact.case_scores, metric) for look in looks] for metric in METRICS}
    return tuple(
        EdgeScore(name, {metric: _mean_of_known(one.get(name) for one in seeds) for metric, seeds in means.items()})
        for name in looks[0].intact.recalls
    )


# Limits


def _limits(looks: Sequence[Looked], groups: Mapping[str, str], skips: Sequence[SkipEffect]) -> list[str]:
    cases = dict.fromkeys(score.case for score in looks[0].intact.case_scores)
    n_groups = len({groups.get(case, case) for case in cases})
    said = ["A role is one in these trained networks: a design that is trained without the skip may do as well."]
    if not skips:
        said = ["The design has no skips, so that there is nothing to take away and no twin to compare with."]
    if len(looks) == 1:
        said.append("One training: intervals are about other cases, not about other trainings; --seeds 3 tells those.")
    if n_groups == 1:
        said.append("All validation cases are of one group: there are no intervals over cases, and no shuffling.")
    elif n_groups < len(cases):
        said.append(f"The {len(cases)} validation cases are of {n_groups} groups, which intervals go by.")
    return said
