"""The targets of a case, the connected components of a class in the truth, and the recall of them by size.

Components are connected by faces, edges or corners (8 neighbours in 2D, 26 in 3D). A target is hit when at least one of
its voxels is predicted as its class, as lesion challenges count. A threshold on the IoU would need a matching of
components, ambiguous where a predicted one covers several targets, and would measure again what Dice and distances do:
how well a target is outlined. They also penalise a prediction that hits by covering everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from scipy.ndimage import label

from unetx_evaluators.insight import SizeRecall
from unetx_evaluators.metrics.surface import Mask


class Target(NamedTuple):
    """A connected component of a class in a case's truth."""

    n_voxels: int
    hit: bool
    """Whether at least one of its voxels is predicted as its class."""


def find_targets(truth: Mask, prediction: Mask) -> tuple[Target, ...]:
    """The targets of one class in the order of their first voxels, from two masks of one shape."""
    parts, n_parts = label(truth, structure=np.ones((3,) * truth.ndim))
    n_voxels = np.bincount(parts.ravel(), minlength=n_parts + 1)
    n_hit = np.bincount(parts[prediction], minlength=n_parts + 1)
    return tuple(Target(int(n), bool(hit)) for n, hit in zip(n_voxels[1:], n_hit[1:], strict=True))


def recall_by_size(targets: Iterable[Target]) -> tuple[SizeRecall, SizeRecall, SizeRecall]:
    """Recall of the small, medium and large third of one class's targets over all cases.

    The thirds depend on the truth alone, so that they are the same for every network. Targets of equal size are in one
    third, the smaller one: if all are equal, all are small.
    """
    ordered = sorted(targets, key=lambda target: target.n_voxels)
    n = len(ordered)
    small, medium = (ordered[-(-n * third // 3) - 1].n_voxels if n else 0 for third in (1, 2))
    sizes: tuple[Literal["small", "medium", "large"], ...] = ("small", "medium", "large")
    parts = (
        [t for t in ordered if t.n_voxels <= small],
        [t for t in ordered if small < t.n_voxels <= medium],
        [t for t in ordered if t.n_voxels > medium],
    )
    one, two, three = (
        SizeRecall(size, len(part), sum(t.hit for t in part), part[-1].n_voxels if part else None)
        for size, part in zip(sizes, parts, strict=True)
    )
    return one, two, three
