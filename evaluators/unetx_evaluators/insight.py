"""What an evaluation returns beside its scores: features of the untrained network, of its training and of its skips.

Dataclasses only, no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ZeroCost:
    """The features of one untrained network, all of them finite if it passed its dry run; see ``zero_cost.py``."""

    n_parameters: int
    macs: int
    """Multiply-adds of one patch, sampling and gating included."""
    grad_norm: float
    """Sum over counted layers of ||dL/dW||_2 (arXiv:2101.08134, section 3.1)."""
    snip: float
    """Sum of |W dL/dW|, the connection sensitivity of Lee et al. 2019 (arXiv:1810.02340)."""
    fisher: float
    """Fisher information, see ``zero_cost.record_fisher``."""
    nwot: float
    """Score of Mellor et al. 2021, see ``zero_cost.log_determinant``."""
    log_synflow: float
    """Logarithm of the synaptic flow, see ``zero_cost.log_synflow``."""


@dataclass(frozen=True, slots=True)
class StageGradient:
    """The size of the gradient of one stage at one training step."""

    stage: str
    """Name of the stage: ``E0``, ``D1``, ``D0.2``, or ``head``."""
    norm: float | None
    """||dL/dtheta||_2 / sqrt(number of parameters), the root mean square; None when the gradient was not finite (under
    loss scaling in float16 that step is skipped)."""


@dataclass(frozen=True, slots=True)
class SkipSimilarity:
    """The similarity of a source to the upsampled map where a decoder node fuses them."""

    node: str
    """Name of the decoder node: ``D1`` or ``D0.2``."""
    source: str
    cka: float | None
    """Linear CKA: 1 for maps that a rotation, a shift and a scale of the channels make equal, about 0 for unrelated
    ones; the unbiased estimate may lie a little outside. None where a map is constant or has too few voxels."""


class Replacement(StrEnum):
    """What replaces a skip's map in a trained network."""

    ZERO = "zero"  # zeros
    MEAN = "mean"  # its mean per channel over training cases
    SHUFFLED = "shuffled"  # the map of another case


@dataclass(frozen=True, slots=True)
class GateStatistics:
    """Statistics of the factors by which one attention gate multiplies its input; None where no factor is clear."""

    node: str
    at: str
    """The source that the gate reweights, or ``fused`` or ``block``: the map behind the node's fusion or block."""
    type: str
    """Type of the attention."""
    mean: float | None
    share_closed: float | None
    """Share of the factors that are below 0.1."""
    share_open: float | None
    """Share of the factors that are above 0.9; some kinds of gates amplify, up to 2."""


@dataclass(frozen=True, slots=True)
class SizeRecall:
    """How many targets of one size a network hit."""

    size: Literal["small", "medium", "large"]
    n_targets: int
    n_hit: int
    max_voxels: int | None
    """Voxels of the largest target of this size; None where there is none."""

    @property
    def recall(self) -> float | None:
        """The share of the targets that were hit; None where there are none."""
        return self.n_hit / self.n_targets if self.n_targets else None


@dataclass(frozen=True, slots=True)
class Insight:
    """All diagnostics of an evaluation; those that were not asked for, or not reached, are empty."""

    zero_cost: ZeroCost | None = None
    gradients: Mapping[int, tuple[StageGradient, ...]] = field(default_factory=dict)
    """Gradients of all stages by training step, counted from 1: the first and the middle one."""
    similarities: tuple[SkipSimilarity, ...] = ()
    """Similarities of all skips of the trained network."""
    recalls: Mapping[str, tuple[SizeRecall, ...]] = field(default_factory=dict)
    """Recall of small, medium and large targets by name of the class."""
    original_dice: float | None = None
    """The objective on the cases' original voxels, before any resampling; the score itself where none was resampled."""

    def to_json(self) -> dict[str, Any]:
        """The diagnostics as JSON values."""
        return asdict(self)
