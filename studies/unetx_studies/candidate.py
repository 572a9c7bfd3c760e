"""A design that a trial is to evaluate, with where it came from; what a sampler hands over and a record keeps."""

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
    """Where a trial's design came from; its text is what people read."""

    kind: OriginKind
    preset: str = ""
    """The name of the preset that was given or is repeated; empty for all others."""
    is_adapted: bool = False
    """The space is narrowed and does not hold the preset: the nearest choices there are take its place."""
    trial: int | None = None
    """The first trial of a design that is repeated, or of a finalist in its search; None for all others."""

    @property
    def is_given(self) -> bool:
        """The design is a preset's, on whatever seed; no sampler proposed it."""
        return self.preset != ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What ``dataclasses.asdict`` gave, after a trip through JSON."""
        return cls(OriginKind(data["kind"]), data["preset"], data["is_adapted"], data.get("trial"))

    def __str__(self) -> str:
        if not self.preset:
            return str(self.kind) if self.trial is None else f"{self.kind} of trial {self.trial}"
        repeated = "replicate of " if self.kind is OriginKind.REPLICATE else ""
        return f"{repeated}preset {self.preset}{', adapted' if self.is_adapted else ''}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A design as it is handed to a trial; all of it is computed once."""

    architecture: Architecture
    """At full size, spelt canonically."""
    key: str
    cost: Cost
    """Of one training patch at full size."""
    params: Mapping[str, Any]
    """Every gene of the design space, by name."""
    origin: Origin
    reason: str
    """Why it was chosen, for the decision log."""
