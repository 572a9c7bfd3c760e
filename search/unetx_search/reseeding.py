"""Which design is trained again, with which seed, in the last part of a study. Pure functions of what was evaluated.

The highest of many noisy scores is partly luck. So the last share of a study's evaluations trains its best designs
again, by successive halving (Karnin, Koren and Somekh, Almost Optimal Exploration in Multi-Armed Bandits, ICML 2013)
over one list of seeds that all share: every round costs as much, and halves the contenders while it doubles their
seeds: about 15 designs with 2 seeds, 8 with 4, 4 with 8, 2 with 16 in a study of 200. Contenders are the best by the
shrunken estimate of all scores so far (``unetx_studies/shrinkage.py``), beside them the reference, and the cheapest
designs that may be as good as the reference within a margin. ``benchmarks/reseeding.py`` compares this with top-two
Thompson sampling (Russo, Simple Bayesian Algorithms for Best-Arm Identification, Operations Research 68(6),
1625-1647, 2020) and with few designs that have four seeds each.

What comes next depends on the sets of evaluations that are finished and pending alone, so that it is the same after a
crash and in whatever order they came. A round begins before the last evaluations of the round before have finished:
no worker waits. One replicate comes early: the reference's second seed, so that a long study knows the size of its
noise from the start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from unetx_search.config import DEFAULT_SHARE, MARGIN
from unetx_studies.shrinkage import Estimate, shrinkage
from unetx_studies.spread import Scored

MAX_ROUNDS = 6
"""Rounds of halving, at most: the last contenders then have 64 seeds, which tell them apart finely enough."""
CHEAP_PLACES = 4
"""One contender in so many is chosen for its cost."""
FIRST_DESIGNS = 19
"""Designs after which the reference is trained with a second seed, among the first 20 trials of a study."""


class Training(NamedTuple):
    """An evaluation that was begun: a design with a seed."""

    design: str
    seed: int
    score: float | None = None
    """The final score; None while there is none, and after pruning or failure."""


class Replicate(NamedTuple):
    """A known design with a seed that it did not have yet, to be trained next."""

    design: str
    seed: int


def n_replicates(total: int, share: float, n_given: int = 0) -> int:
    """Return how many of a study's evaluations are replicates.

    It is the share, rounded down, and at most so many that one design besides those given at the start is new.
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"the share of replicates is at least 0 and less than 1, got {share:g}")
    return max(0, min(int(total * share + 1e-9), total - n_given - 1))


def next_replicate(
    trainings: Iterable[Training],
    total: int,
    seeds: Sequence[int],
    *,
    share: float = DEFAULT_SHARE,
    n_given: int = 0,
    reference: str | None = None,
    costs: Mapping[str, float] | None = None,
    margin: float = MARGIN,
    is_exhausted: bool = False,
) -> Replicate | None:
    """Return the next replicate; None where a new design is to be proposed, or the total is reached.

    ``trainings`` are all evaluations, finished, failed and pending; ``seeds`` the shared list, which begins with the
    seed of new designs; ``n_given`` how many designs the study begins with. A reference is compared with on every seed.
    With costs, designs that cost less than it and may be as good are trained again, too. Where no new design is left,
    the space ``is_exhausted``, and all that is left of the total are replicates. Before any score is known, there are
    none.
    """
    begun = set(trainings)
    used: defaultdict[str, set[int]] = defaultdict(set)
    for one in begun:
        used[one.design].add(one.seed)
    n_begun = sum(map(len, used.values()))
    wanted = total - len(used) if is_exhausted else n_replicates(total, share, n_given)
    if n_begun >= total:
        return None
    if len(used) < total - wanted:
        return _early_replicate(begun, used, seeds, reference) if wanted else None
    known = shrinkage(sorted(Scored(one.design, one.seed, one.score) for one in begun if one.score is not None))
    if known is None:
        return None
    rivals = _Rivals.of(known.estimates, reference, costs, margin)
    n_rounds = next((n for n in range(1, MAX_ROUNDS) if wanted <= n * 2**n), MAX_ROUNDS)
    n_first, n_done = -(-wanted // n_rounds), n_begun - len(used)
    for number in range(min(n_done // n_first, n_rounds - 1), MAX_ROUNDS + 1):
        contenders = rivals.contenders(n_places=-(-n_first // 2**number))
        for design in sorted(contenders, key=lambda one: len(used[one])):
            fresh = next((seed for seed in seeds if seed not in used[design]), None)
            if len(used[design]) < 2 ** (number + 1) and fresh is not None:
                return Replicate(design, fresh)
    return None


def _early_replicate(
    begun: Iterable[Training], used: Mapping[str, set[int]], seeds: Sequence[int], reference: str | None
) -> Replicate | None:
    """Return the reference with the second seed, once enough designs have begun and it has a score from the first."""
    has_score = any(one.design == reference and one.score is not None for one in begun)
    if reference is None or not has_score or len(used) < FIRST_DESIGNS or len(used[reference]) > 1 or len(seeds) < 2:
        return None
    return Replicate(reference, seeds[1])


class _Rivals(NamedTuple):
    """Designs among which the contenders of a round are chosen."""

    best: Sequence[str]
    """All designs but the reference, the best estimate first."""
    reference: Sequence[str]
    """The reference alone; empty where it has no score."""
    cheap: Sequence[str]
    """The designs that may be as good as the reference and cost less, the cheapest first."""

    @classmethod
    def of(
        cls, estimates: Iterable[Estimate], reference: str | None, costs: Mapping[str, float] | None, margin: float
    ) -> _Rivals:
        ranked = sorted(estimates, key=lambda one: (-one.mean, one.design))
        best = [one.design for one in ranked if one.design != reference]
        anchor = next((one for one in ranked if one.design == reference), None)
        if anchor is None:
            return cls(best, (), ())
        if costs is None:
            return cls(best, (anchor.design,), ())
        good = (one.design for one in ranked if one.mean >= anchor.mean - margin)
        cheap = sorted((one for one in good if costs[one] < costs[anchor.design]), key=lambda one: costs[one])
        return cls(best, (anchor.design,), cheap)

    def contenders(self, n_places: int) -> list[str]:
        """Return about so many designs, the leader and the reference first."""
        n_cheap = min(len(self.cheap), max(1, n_places // CHEAP_PLACES))
        n_best = max(2, n_places - n_cheap)
        return list(dict.fromkeys([*self.best[:1], *self.reference, *self.best[1:n_best], *self.cheap[:n_cheap]]))
