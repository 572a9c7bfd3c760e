"""Which of the processes that train one network together this one is; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Rank:
    """One of ``n`` processes, each of which computes its own part of every batch; the first also scores and saves."""

    number: int = 0
    n: int = 1
    meeting: Path | None = None
    """A file of this machine, not there yet, by which several find each other."""

    @property
    def leads(self) -> bool:
        return self.number == 0

    def part(self, batch_size: int) -> slice:
        """The patches of a batch that are this process's; parts differ by one patch at most."""
        return slice(self.number * batch_size // self.n, (self.number + 1) * batch_size // self.n)


ALONE = Rank()
