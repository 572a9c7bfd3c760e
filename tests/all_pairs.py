"""Few combinations of many choices: any two values of different axes meet in at least one of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any


def all_pairs(*axes: Sequence[Any], seed: int = 0) -> list[tuple[Any, ...]]:
    """Rows of one value of each axis, the same ones for a seed: about as many as the two longest axes have pairs."""
    rng = random.Random(seed)

    def pairs(row: Sequence[int]) -> set[tuple[tuple[int, int], ...]]:
        return set(combinations(enumerate(row), 2))

    missing = {
        ((i, a), (j, b))
        for i, j in combinations(range(len(axes)), 2)
        for a in range(len(axes[i]))
        for b in range(len(axes[j]))
    }
    rows = []
    while missing:
        candidates = []
        for pair in rng.sample(sorted(missing), min(10, len(missing))):
            fixed = dict(pair)
            candidates.append([fixed.get(i, rng.randrange(len(axis))) for i, axis in enumerate(axes)])
        best = max(candidates, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        rows.append(tuple(axis[i] for axis, i in zip(axes, best, strict=True)))
    return rows
