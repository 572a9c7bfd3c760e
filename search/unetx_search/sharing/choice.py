"""How many workers share a GPU: decided from measurements alone, by pure functions; no torch, no processes.

A short training leaves a large GPU idle between its steps and while it is scored, and another worker fills the gaps. It
pays as long as all workers together finish notably more evaluations a minute, and as long as each of them could hold
the most expensive design of the search at the same time. What was measured is kept beside the study, so that a
continuation need not measure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unetx_space.files import write_whole

SHARING = "sharing.json"
"""Name of the file in a study's folder with what was measured, and the numbers of workers chosen by it."""

MIN_GAIN = 0.10
"""A worker that adds less of what those before it do together is not worth its memory, nor that proposals know less."""
SPARE = 0.10
"""Share of the free memory that is left alone, for fragments and for other processes."""
MAX_WORKERS = 8
"""Workers on one GPU, at most; so many keep the coordinator and the host's cores busy, too."""
MEMORY_UNKNOWN = "how much memory is free is not known"


@dataclass(frozen=True, slots=True)
class Sample:
    """A measurement of so many workers that evaluated on one device at the same time."""

    n_workers: int
    evaluations_per_min: float
    """Evaluations a minute of all workers together."""
    worker_mib: float | None
    """The most memory that one worker's process has held, its context included, in MiB; None where it is not known."""
    trouble: str = ""
    """Why so many could not work; the numbers are void then. Empty where they could."""


@dataclass(frozen=True, slots=True)
class SharingLimits:
    """What bounds the number of workers on a device, whatever is measured."""

    free_mib: float | None
    """Free memory in MiB before any worker; None where it is not known."""
    at_most: int
    """Workers that could be of use, by the host's cores, the trials that are left and --deterministic."""
    extra_mib: float = 0.0
    """Memory in MiB that the most expensive design of the search takes more than the one that is measured."""

    def objection(self, n_workers: int, worker_mib: float | None) -> str:
        """Return why so many workers of this memory are too many, as the end of a sentence; empty where not."""
        if n_workers > self.at_most:
            return f"more than {counted(self.at_most)} would be of no use"
        if self.free_mib is None:
            return MEMORY_UNKNOWN
        need_mib, usable_mib = n_workers * ((worker_mib or 0.0) + self.extra_mib), self.free_mib * (1 - SPARE)
        if worker_mib is None or need_mib <= usable_mib:
            return ""
        return (
            f"{counted(n_workers)} would need {_gib(need_mib)} GiB with the most expensive design, "
            f"of {_gib(usable_mib)} to use"
        )


@dataclass(frozen=True, slots=True)
class Sharing:
    """What was measured on a kind of device, and the number of workers chosen by it."""

    kind: str
    """The device's name, such as "NVIDIA H200"."""
    n_workers: int
    reason: str
    """Why it is no more, as the end of a sentence; empty while one more is to be measured."""
    free_mib: float | None
    samples: tuple[Sample, ...] = ()

    def __str__(self) -> str:
        """For people: "1 worker 4.1 evaluations/min, 2 workers 6.3: 2 workers (...); 3.1 GiB each, 139 free"."""
        sound = [sample for sample in self.samples if not sample.trouble]
        seen = ", ".join(
            f"{counted(sample.n_workers)} {sample.evaluations_per_min:.1f}"
            f"{' evaluations/min' if sample is sound[0] else ''}"
            for sample in sound
        )
        known = [sample.worker_mib for sample in sound if sample.worker_mib is not None]
        memory = f"; {_gib(max(known))} GiB each, {_gib(self.free_mib or 0)} free" if known else ""
        return f"{seen}{': ' if seen else ''}{counted(self.n_workers)} ({self.reason}){memory}"


def decide(kind: str, samples: Sequence[Sample], limits: SharingLimits) -> Sharing:
    """Choose the number of workers for a device on which 1, 2, 3, ... were measured in this order.

    It grows while another worker adds at least MIN_GAIN to the evaluations a minute and all of them fit. At least 1:
    a device without room for one worker is for the evaluations to report.
    """
    n_workers, reason, before = 1, "", None
    for sample in samples:
        if sample.trouble:
            reason = f"with {counted(sample.n_workers)} it went wrong: {sample.trouble}"
        elif sample.worker_mib is None or limits.free_mib is None:
            reason = MEMORY_UNKNOWN
        elif before is not None:
            gain = sample.evaluations_per_min / before.evaluations_per_min - 1
            too_little = f"worker {sample.n_workers} adds {gain:.0%}, and pays from {MIN_GAIN:.0%} on"
            reason = limits.objection(sample.n_workers, sample.worker_mib) or (gain < MIN_GAIN) * too_little
        if reason:
            break
        n_workers, before = sample.n_workers, sample
    known = [sample.worker_mib for sample in samples if sample.worker_mib is not None]
    reason = reason or limits.objection(n_workers + 1, max(known, default=None))
    return Sharing(kind, n_workers, reason, limits.free_mib, tuple(samples))


def counted(n_workers: int) -> str:
    """Return a number of workers in words, such as "1 worker" or "3 workers"."""
    return f"{n_workers} worker{'' if n_workers == 1 else 's'}"


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f}" if mib < 10 * 1024 else f"{mib / 1024:.0f}"


def write_sharing(path: Path, sharing: Iterable[Sharing], torch: str) -> None:
    """Write what was measured, and with which torch."""
    kinds = {kept.kind: asdict(kept) for kept in sharing}
    write_whole(path, json.dumps({"torch": torch, "kinds": kinds}, indent=2) + "\n")


def read_sharing(path: Path, torch: str | None = None) -> Mapping[str, Sharing]:
    """Read what was measured, by kind of device.

    Nothing is returned where there is no file, or it is damaged or of another ``torch``; None accepts any.
    """

    def sharing(facts: dict[str, Any]) -> Sharing:
        return Sharing(**{**facts, "samples": tuple(Sample(**sample) for sample in facts["samples"])})

    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if torch not in (None, kept["torch"]):
            return {}
        return {kind: sharing(facts) for kind, facts in kept["kinds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
