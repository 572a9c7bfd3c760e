"""What an evaluation tells beside its scores: of the untrained network, its training, its skips. Data, no torch."""

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
    """Of one patch, sampling and gating included."""
    grad_norm: float
    """Sum over counted layers of ||dL/dW||_2 (arXiv:2101.08134, section 3.1)."""
    snip: float
    """Sum of |W dL/dW|, the connection sensitivity of Lee et al. 2019 (arXiv:1810.02340)."""
    fisher: float
    """See ``zero_cost.watch_fisher``."""
    nwot: float
    """See ``zero_cost.log_determinant``."""
    log_synflow: float
    """See ``zero_cost.log_synflow``."""


@dataclass(frozen=True, slots=True)
class StageGradient:
    """How much gradient one stage got."""

    stage: str
    """``E0``, ``D1``, ``D0.2``, or ``head``."""
    norm: float | None
    """||dL/dtheta||_2 / sqrt(number of parameters), the root mean square; None when the gradient was not finite (under
    loss scaling in float16 that step is skipped)."""


@dataclass(frozen=True, slots=True)
class SkipSimilarity:
    """How alike a source and the upsampled map are where a decoder node fuses them."""

    node: str
    """``D1`` or ``D0.2``."""
    source: str
    cka: float | None
    """Linear CKA: 1 for maps that a rotation, a shift and a scale of the channels make equal, about 0 for unrelated
    ones; the unbiased estimate may lie a little outside. None where a map is constant or has too few voxels."""


class Replacement(StrEnum):
    """What stands in for a skip's map in a trained network."""

    ZERO = "zero"  # nothing
    MEAN = "mean"  # its mean per channel over training cases
    SHUFFLED = "shuffled"  # that of another case


@dataclass(frozen=True, slots=True)
class GateStatistics:
    """How far one attention's gate is open: the factors by which it multiplies what it reads. None where there are no
    clear ones."""

    node: str
    at: str
    """The source that it reweights, or ``fused`` or ``block``: the map behind the node's fusion or block."""
    type: str
    """Of the attention."""
    mean: float | None
    share_closed: float | None
    """Of factors below 0.1."""
    share_open: float | None
    """Of factors above 0.9; some kinds of gates amplify, up to 2."""


@dataclass(frozen=True, slots=True)
class SizeRecall:
    """How many targets of one size were hit."""

    size: Literal["small", "medium", "large"]
    n_targets: int
    n_hit: int
    max_voxels: int | None
    """Of the largest target of this size; None where there is none."""

    @property
    def recall(self) -> float | None:
        return self.n_hit / self.n_targets if self.n_targets else None


@dataclass(frozen=True, slots=True)
class Insight:
    """All of it; what was not asked for, or not reached, is empty."""

    zero_cost: ZeroCost | None = None
    gradients: Mapping[int, tuple[StageGradient, ...]] = field(default_factory=dict)
    """By training step, counted from 1: the first and the middle one."""
    similarities: tuple[SkipSimilarity, ...] = ()
    """Of the trained network."""
    recalls: Mapping[str, tuple[SizeRecall, ...]] = field(default_factory=dict)
    """By class: how many of its small, medium and large targets were hit."""
    original_dice: float | None = None
    """The objective on the cases' original voxels, before any resampling; the score itself where none was resampled."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
