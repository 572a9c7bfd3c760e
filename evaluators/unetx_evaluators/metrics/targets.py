"""The targets of a case: the connected parts of a class in the truth, and which of them a prediction hits.

Parts hang together by faces, edges or corners (8 neighbours in 2D, 26 in 3D). A target is hit when at least one of its
voxels is predicted as its class, as lesion challenges count. A threshold on the IoU would need a match between parts of
truth and prediction, ambiguous where one predicted part covers several targets, and would measure again what Dice and
the distances do: how well a target is outlined. A prediction that hits by covering everything pays there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label

from unetx_evaluators.metrics.class_metrics import Target

Mask = npt.NDArray[np.bool_]


def find_targets(truth: Mask, prediction: Mask) -> tuple[Target, ...]:
    """One class's targets, in the order of their first voxels; two masks of one shape."""
    parts, n_parts = label(truth, structure=np.ones((3,) * truth.ndim))
    n_voxels = np.bincount(parts.ravel(), minlength=n_parts + 1)
    n_hit = np.bincount(parts[prediction], minlength=n_parts + 1)
    return tuple(Target(int(n), bool(hit)) for n, hit in zip(n_voxels[1:], n_hit[1:], strict=True))
