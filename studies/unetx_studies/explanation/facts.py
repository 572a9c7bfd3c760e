"""The facts of an explanation: what was observed of a design's trainings, and what is concluded from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from unetx_evaluators.evaluation import CaseScore, NetworkScores
from unetx_evaluators.insight import GateStatistics, Replacement, SkipSimilarity, StageGradient

Pair = tuple[str, str]
"""A skip: the names of its source and of the node that reads it."""


class Role(StrEnum):
    """What a skip is to the trained network, by its mean in its place."""

    DECISIVE = "decisive"  # surely worse without, by DECISIVE or more
    HELPS = "helps"  # surely worse without, by more than the margin
    SPARE = "not needed"  # surely the same within the margin
    HARMFUL = "in the way"  # surely better without, by more than the margin
    OPEN = "open"  # the interval holds more than one of these


@dataclass(frozen=True, slots=True)
class SeedObservations:
    """What was observed of a design trained with one seed, and of its twin without skips, trained the same way."""

    seed: int
    intact: NetworkScores
    without: Mapping[Pair, Mapping[Replacement, NetworkScores | None]]
    """The scores with a skip replaced, by skip and replacement; None where no case could stand in for another."""
    similarities: tuple[SkipSimilarity, ...]
    gates: tuple[GateStatistics, ...]
    volumes: Mapping[str, Mapping[str, int]]
    """Voxels in the reference, by case and class."""
    gradients: Mapping[int, tuple[StageGradient, ...]] = field(default_factory=dict)
    """Gradients of all stages, by training step; empty where a model was trained elsewhere."""
    twin_scores: tuple[CaseScore, ...] = ()
    """The twin's scores; empty where there is no twin, or the design has no skips."""
    twin_gradients: Mapping[int, tuple[StageGradient, ...]] | None = None
    """The twin's gradients by training step; None where there is no twin, or the design has no skips."""


@dataclass(frozen=True, slots=True)
class Change:
    """A mean difference with its 95 % interval, whose bounds are None for one seed and one case (or group of cases)."""

    mean: float
    low: float | None
    high: float | None
    n_cases: int


@dataclass(frozen=True, slots=True)
class SkipEffect:
    """What one skip does: how scores change when its map is replaced, and its role for the trained network."""

    node: str
    source: str
    dice: Mapping[Replacement, Change | None]
    """Changes of the Dice."""
    edge: Mapping[Replacement, Change | None]
    """Changes of the surface Dice."""
    by_class: Mapping[str, Change | None]
    """Changes of the Dice of each class, with the skip's mean in its place."""
    small_recall: Mapping[Replacement, float | None]
    """Changes of the share of small targets that are hit; None where there are none."""
    cka: float | None
    """Similarity to the upsampled map beside it (centred kernel alignment); the mean over seeds."""
    gate: GateStatistics | None
    """Statistics of the skip's own attention, if it has one."""
    role: Role
    says: str
    """The role in a sentence."""


@dataclass(frozen=True, slots=True)
class Flow:
    """The gradient of a stage at some steps, as a share of the head's (geometric means)."""

    share: float | None
    twin: float | None
    """The share of the same stage in the twin without skips."""
    factor: Change | None
    """``share`` over ``twin``, whose ``n_cases`` counts steps; None for a stage that the twin lacks."""


@dataclass(frozen=True, slots=True)
class StageFlow:
    """The gradient of one stage early in training and midway."""

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
    """Share of the targets that were hit."""
    max_voxels: int | None
    """Size of the largest of them."""


@dataclass(frozen=True, slots=True)
class VolumeScore:
    """The score of the cases that show little, some or much of a class, by thirds of its voxels in the reference."""

    class_name: str
    size: str
    n_cases: int
    max_voxels: int | None
    dice: float | None
    """The mean over these cases and all seeds."""


@dataclass(frozen=True, slots=True)
class EdgeScore:
    """Every metric of a class, its mean over cases and seeds."""

    class_name: str
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is concluded about a design: its skips, gradients, gates, target sizes and edges."""

    seeds: tuple[int, ...]
    dice: float
    """The objective on the validation cases; the mean over seeds."""
    twin_dice: float | None
    """The objective of the twin without skips; None where there is no twin."""
    all_skips: Change | None
    """What all skips together are worth: the design less its twin without any, both trained; None without a twin."""
    skips: tuple[SkipEffect, ...]
    stages: tuple[StageFlow, ...]
    early: tuple[int, ...]
    """Training steps that are called early."""
    midway: tuple[int, ...]
    """Training steps that are called midway."""
    gates: tuple[GateStatistics, ...]
    """Statistics of attention behind fusions and blocks; a skip's own stands with the skip."""
    sizes: tuple[SizeScore, ...]
    volumes: tuple[VolumeScore, ...]
    edges: tuple[EdgeScore, ...]
    limits: tuple[str, ...]
    """What this cannot say, a sentence each."""
