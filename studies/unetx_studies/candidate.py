"""A design that a trial is to evaluate, with its origin: what a sampler hands over and a record holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from unetx_space.architecture import Architecture
    from unetx_space.cost import Cost


class OriginKind(StrEnum):
    """How a design came to a trial."""

    PRESET = "preset"  # given, with the preset's name
    SAMPLER = "sampler"  # proposed by the sampler
    RANDOM = "random"  # drawn at random
    REPLICATE = "replicate"  # a design that the study knows already, with another seed
    FINALIST = "finalist"  # one of the best designs of another study, the search


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a trial's design came from; ``str`` gives it for people."""

    kind: OriginKind
    preset: str = ""
    """The name of the preset that was given or is repeated; empty for all others."""
    is_adapted: bool = False
    """Whether the space does not hold the preset, as it is narrowed, and the nearest choices take its place."""
    trial: int | None = None
    """The first trial of a design that is repeated, or of a finalist in its search; None for all others."""

    @property
    def is_given(self) -> bool:
        """Whether the design is a preset's, on whatever seed, and no sampler proposed it."""
        return self.preset != ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The origin of which ``dataclasses.asdict`` gave these JSON values."""
        return cls(OriginKind(data["kind"]), data["preset"], data["is_adapted"], data.get("trial"))

    def __str__(self) -> str:
        if not self.preset:
            return str(self.kind) if self.trial is None else f"{self.kind} of trial {self.trial}"
        repeated = "replicate of " if self.kind is OriginKind.REPLICATE else ""
        return f"{repeated}preset {self.preset}{', adapted' if self.is_adapted else ''}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A design as it is handed to a trial, with all that is computed of it once."""

    architecture: Architecture
    """The design at full size, in its canonical spelling."""
    key: str
    cost: Cost
    """Its cost for one training patch at full size."""
    params: Mapping[str, Any]
    """The value of every gene of the design space, by name."""
    origin: Origin
    reason: str
    """Why it was chosen, for the decision log."""
