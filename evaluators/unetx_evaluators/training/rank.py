"""The rank of a process among those that train one network together; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Rank:
    """One of ``world_size`` processes, which each compute a part of every batch; the first also scores and saves."""

    number: int = 0
    world_size: int = 1
    rendezvous: Path | None = None
    """A file on this machine, which must not exist yet, by which the processes find each other."""

    @property
    def is_leader(self) -> bool:
        """Whether this is the process that scores and saves."""
        return self.number == 0

    def part(self, batch_size: int) -> slice:
        """The patches of a batch that this process computes; parts differ by one patch at most."""
        return slice(self.number * batch_size // self.world_size, (self.number + 1) * batch_size // self.world_size)


SINGLE_PROCESS = Rank()
