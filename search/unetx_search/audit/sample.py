"""The designs of an audit: U-Net, the net without skips, and a sample spread over costs, skips and operators."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from unetx_space.errors import RequestError
from unetx_space.genome import NO_ATTENTION
from unetx_space.operators.catalogue import PLAIN_FUSION
from unetx_studies.candidate import Candidate, Origin, OriginKind

if TYPE_CHECKING:
    from unetx_search.study_setup import StudySetup

N_DRAWN = 400
"""The number of random designs among which the sample is chosen."""
MAX_DRAWS_IN_VAIN = 300
"""Draws in a row without a new one, after which a space, or what is affordable of it, counts as exhausted."""


def sample_designs(setup: StudySetup, n_designs: int, min_designs: int) -> tuple[Candidate, ...]:
    """Return the designs that a search begins with, and others up to so many in all; they depend on the seed alone.

    Strata of equal size by cost, by the number of skips and by that of operators are crossed at random, one design to
    each (a Latin hypercube over ranks: McKay, Beckman and Conover, Technometrics 21(2), 239-245, 1979), and for each
    crossing the nearest of many random designs is taken. Raises RequestError where there are not even ``min_designs``.
    """
    given, rng = list(setup.given()), random.Random(setup.seed)
    pool = _pool(setup, rng, {one.key for one in given})
    n = min(n_designs - len(given), len(pool))
    if len(given) + n < min_designs:
        raise RequestError(
            f"an audit needs at least {min_designs} designs within --max-cost, and this space has {len(given) + n}; "
            "allow more choices, or a higher --max-cost"
        )
    features = np.array([_features(one) for one in pool]).reshape(len(pool), 3)
    ranks = np.column_stack([_ranks(column, rng) for column in features.T])
    strata = np.column_stack([rng.sample(range(n), n) for _ in range(3)])
    left, chosen = set(range(len(pool))), []
    for wanted in (strata + 0.5) / max(n, 1):
        nearest = min(sorted(left), key=lambda index: math.dist(ranks[index], wanted))
        left.remove(nearest)
        chosen.append(pool[nearest])
    return (*given, *sorted(chosen, key=lambda one: one.cost.macs))


def _pool(setup: StudySetup, rng: random.Random, known: set[str]) -> list[Candidate]:
    """Different affordable designs in the order in which they were drawn."""
    found: dict[str, Candidate] = {}
    n_in_vain = 0
    while len(found) < N_DRAWN and n_in_vain < MAX_DRAWS_IN_VAIN:
        params = {name: rng.choice(choices) for name, choices in setup.space.genes.items()}
        candidate = setup.admitted(params, Origin(OriginKind.RANDOM), "one of the audit's sample")
        is_new = candidate is not None and candidate.key not in known and candidate.key not in found
        n_in_vain = 0 if is_new else n_in_vain + 1
        if candidate is not None and is_new:
            found[candidate.key] = candidate
    return list(found.values())


def _features(candidate: Candidate) -> tuple[float, int, int]:
    """Multiply-adds, skips, and operators that a plain node does without."""
    nodes = candidate.architecture.genome.nodes
    n_operators = sum((node.attention != NO_ATTENTION) + (node.fusion != PLAIN_FUSION) for node in nodes)
    return candidate.cost.macs, sum(len(node.sources) for node in nodes), n_operators


def _ranks(values: npt.NDArray[np.float64], rng: random.Random) -> npt.NDArray[np.float64]:
    """Return ranks from 0 to 1; equals are ordered at random."""
    lots = np.array([rng.random() for _ in values])
    ranks = np.empty(len(values))
    ranks[np.lexsort((lots, values))] = (np.arange(len(values)) + 0.5) / max(len(values), 1)
    return ranks
