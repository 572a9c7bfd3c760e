"""What each skip of a design does: its map replaced, its role, its likeness to the decoder's own map, its gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unetx_evaluators.evaluation import OBJECTIVE, NetworkScores
from unetx_evaluators.insight import GateStatistics, Replacement
from unetx_studies.explanation.changes import change_of_scores, mean_of_known
from unetx_studies.explanation.facts import Change, Pair, Role, SeedObservations, SkipEffect
from unetx_studies.verdict.conclusions import MARGIN

EDGE = "nsd"
"""The metric by which a change at the edge is measured, the surface Dice."""
DECISIVE = 0.1
"""A skip is decisive from this loss of Dice on."""
ALIKE = 0.5
"""From this CKA on a skip's map is called much like the decoder's own."""


def skip_effect(seeds: Sequence[SeedObservations], pair: Pair, groups: Mapping[str, str], margin: float) -> SkipEffect:
    """What one skip does, from what was observed with every seed; ``groups`` are those of the cases."""

    def change(metric: str, way: Replacement, class_name: str | None = None) -> Change | None:
        after = [seed.without[pair][way] for seed in seeds]
        pairs = [(seed.intact.case_scores, end.case_scores) for seed, end in zip(seeds, after, strict=True) if end]
        return change_of_scores(pairs, metric, groups, class_name) if len(pairs) == len(seeds) else None

    source, node = pair
    cka = mean_of_known(s.cka for seed in seeds for s in seed.similarities if (s.source, s.node) == pair)
    dice = {way: change(OBJECTIVE, way) for way in Replacement}
    role = role_of(dice[Replacement.MEAN], margin)
    return SkipEffect(
        node,
        source,
        dice,
        {way: change(EDGE, way) for way in Replacement},
        {name: change(OBJECTIVE, Replacement.MEAN, name) for name in seeds[0].intact.recalls},
        {way: _small_recall(seeds, pair, way) for way in Replacement},
        cka,
        gate_means(seeds).get(pair),
        role,
        _role_sentence(role, dice, cka, margin),
    )


def role_of(change: Change | None, margin: float = MARGIN) -> Role:
    """The role of a skip by the whole interval of the change without it; open where there is no interval."""
    if change is None or change.low is None or change.high is None:
        return Role.OPEN
    if change.high < -margin:
        return Role.DECISIVE if change.mean <= -DECISIVE else Role.HELPS
    if change.low > margin:
        return Role.HARMFUL
    return Role.SPARE if -margin <= change.low and change.high <= margin else Role.OPEN


def _role_sentence(role: Role, dice: Mapping[Replacement, Change | None], cka: float | None, margin: float) -> str:
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


def _small_recall(seeds: Sequence[SeedObservations], pair: Pair, way: Replacement) -> float | None:
    after = [seed.without[pair][way] for seed in seeds]
    before = [seed.intact for seed in seeds]
    first, second = _recall_of_small(before), _recall_of_small([one for one in after if one is not None])
    return None if first is None or second is None else second - first


def _recall_of_small(measured: Sequence[NetworkScores]) -> float | None:
    parts = [part for one in measured for sizes in one.recalls.values() for part in sizes if part.size == "small"]
    n_targets = sum(part.n_targets for part in parts)
    return sum(part.n_hit for part in parts) / n_targets if n_targets else None


def gate_means(seeds: Sequence[SeedObservations]) -> dict[Pair, GateStatistics]:
    """The mean over seeds of every gate, by where it sits (a source, ``fused`` or ``block``) and its node."""
    found: dict[Pair, list[GateStatistics]] = {}
    for seed in seeds:
        for gate in seed.gates:
            found.setdefault((gate.at, gate.node), []).append(gate)
    return {
        (at, node): GateStatistics(
            node,
            at,
            gates[0].type,
            mean_of_known(gate.mean for gate in gates),
            mean_of_known(gate.share_closed for gate in gates),
            mean_of_known(gate.share_open for gate in gates),
        )
        for (at, node), gates in found.items()
    }
