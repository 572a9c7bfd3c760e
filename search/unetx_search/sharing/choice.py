"""How many workers shall share a GPU: decided from measurements alone, by pure functions; no torch, no processes.

A short training leaves a large GPU idle between its steps, and another worker fills the gaps. It pays as long as all
workers together do notably more steps a second, and as long as each of them could hold the dearest design of the
search at the same time. What was measured is kept beside the study, so that a continuation decides without measuring.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from unetx_space.files import write_whole

SHARING = "sharing.json"
"""Beside a study: what was measured, and what it came to."""

LEAST_GAIN = 0.10
"""A worker that adds less of what those before it do together is not worth its memory, nor that proposals know less."""
SPARE = 0.10
"""Part of the free memory that is left alone: for fragments, and for others."""
MOST_WORKERS = 8
"""On one GPU; so many keep the coordinator and the host's cores busy, too."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What so many workers did on one device at the same time."""

    n_workers: int
    steps_per_s: float
    """Of all together."""
    worker_mib: float | None
    """Most that one worker's process has held of the device's memory, its context included; None is not known."""
    trouble: str = ""
    """Why so many could not work; the numbers are void then."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a device offers, whatever is measured."""

    free_mib: float | None
    """Before any worker; None is not known."""
    at_most: int
    """Workers that could be of use: of its cores, of the trials that are left, of what --deterministic allows."""
    dearer_mib: float = 0.0
    """What the dearest design of the search takes more than the one that is measured."""

    def holds(self, n_workers: int, worker_mib: float) -> bool:
        """Whether so many workers may train the dearest design at the same time."""
        return self.free_mib is not None and n_workers * (worker_mib + self.dearer_mib) <= self.free_mib * (1 - SPARE)


@dataclass(frozen=True, slots=True)
class Choice:
    """A number of workers, as far as the measurements tell."""

    n_workers: int
    reason: str
    """Why it is no more, as the end of a sentence; empty while one more is worth a try."""

    @property
    def is_final(self) -> bool:
        """No further measurement would change it."""
        return bool(self.reason)


def workers_that_pay(samples: Sequence[Sample], room: Room) -> Choice:
    """The number of workers for a device on which 1, 2, 3, ... were measured in this order.

    It grows while another worker adds at least LEAST_GAIN to the steps a second and all of them fit. At least 1: a
    device without room for one worker is for the evaluations to report.
    """
    n_workers = 1
    for before, sample in zip((None, *samples), samples, strict=False):
        reason = _objection(before, sample, room)
        if reason:
            return Choice(n_workers, reason)
        n_workers = sample.n_workers
    return Choice(n_workers, _objection_to_another(samples, n_workers, room))


def _objection(before: Sample | None, sample: Sample, room: Room) -> str:
    """What speaks against as many workers as were measured; empty when they pay."""
    if sample.trouble:
        return f"with {counted(sample.n_workers)} it went wrong: {sample.trouble}"
    if sample.worker_mib is None or room.free_mib is None:
        return MEMORY_UNKNOWN
    if before is None:
        return ""
    if sample.n_workers > room.at_most:
        return _no_use(room)
    if not room.holds(sample.n_workers, sample.worker_mib):
        return _no_room(sample.n_workers, sample.worker_mib, room)
    gain = sample.steps_per_s / before.steps_per_s - 1
    if gain < LEAST_GAIN:
        return f"worker {sample.n_workers} adds {gain:.0%}, and pays from {LEAST_GAIN:.0%} on"
    return ""


def _objection_to_another(samples: Sequence[Sample], n_workers: int, room: Room) -> str:
    """What speaks against trying one more than pays so far; with no sample the first is to be measured."""
    if n_workers >= room.at_most:
        return _no_use(room)
    if room.free_mib is None:
        return MEMORY_UNKNOWN
    known = [sample.worker_mib for sample in samples if sample.worker_mib is not None]
    if known and not room.holds(n_workers + 1, max(known)):
        return _no_room(n_workers + 1, max(known), room)
    return ""


MEMORY_UNKNOWN = "how much memory is free is not known"


def _no_use(room: Room) -> str:
    return f"more than {counted(room.at_most)} would be of no use"


def _no_room(n_workers: int, worker_mib: float, room: Room) -> str:
    need_mib, offered_mib = n_workers * (worker_mib + room.dearer_mib), (room.free_mib or 0.0) * (1 - SPARE)
    return (
        f"{counted(n_workers)} would need {_gib(need_mib)} GiB with the dearest design, of {_gib(offered_mib)} to use"
    )


def counted(n_workers: int) -> str:
    """In words: "1 worker" or "3 workers"."""
    return f"{n_workers} worker{'' if n_workers == 1 else 's'}"


Measure = Callable[[int], Sample]
"""Called with 1, 2, 3, ... in this order: so many workers train on the device, and this is what they do."""


def measured(measure: Measure, room: Room) -> tuple[Sample, ...]:
    """Samples of 1, 2, 3, ... workers, until no further one would change the choice."""
    samples: list[Sample] = []
    while not workers_that_pay(samples, room).is_final:
        samples.append(measure(len(samples) + 1))
    return tuple(samples)


@dataclass(frozen=True, slots=True)
class Sharing:
    """What was measured on a kind of device, and what it came to."""

    kind: str
    """The device's name, such as "NVIDIA H200"."""
    n_workers: int
    reason: str
    """Why it is no more."""
    free_mib: float | None
    samples: tuple[Sample, ...] = ()

    def __str__(self) -> str:
        """For people: "1 worker 41 steps/s, 2 workers 63, 3 workers 66: 2 workers (...); 3.1 GiB each, 139 free"."""
        sound = [sample for sample in self.samples if not sample.trouble]
        seen = ", ".join(
            f"{counted(sample.n_workers)} {sample.steps_per_s:.0f}{' steps/s' if sample is sound[0] else ''}"
            for sample in sound
        )
        known = [sample.worker_mib for sample in sound if sample.worker_mib is not None]
        memory = f"; {_gib(max(known))} GiB each, {_gib(self.free_mib or 0)} free" if known else ""
        return f"{seen}{': ' if seen else ''}{counted(self.n_workers)} ({self.reason}){memory}"


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f}" if mib < 10 * 1024 else f"{mib / 1024:.0f}"


def decided(kind: str, samples: tuple[Sample, ...], room: Room) -> Sharing:
    """What the measurements come to."""
    choice = workers_that_pay(samples, room)
    return Sharing(kind, choice.n_workers, choice.reason, room.free_mib, samples)


def write_sharing(path: Path, sharing: Iterable[Sharing], torch: str) -> None:
    """Keep what was measured, and with which torch."""
    kinds = {kept.kind: asdict(kept) for kept in sharing}
    write_whole(path, json.dumps({"torch": torch, "kinds": kinds}, indent=2) + "\n")


def read_sharing(path: Path, torch: str | None = None) -> Mapping[str, Sharing]:
    """What was kept, by kind of device; nothing where nothing is, or what is there is damaged or of another ``torch``.

    With None any torch will do.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if torch not in (None, kept["torch"]):
            return {}
        return {kind: _sharing(facts) for kind, facts in kept["kinds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _sharing(facts: Mapping[str, object]) -> Sharing:
    samples = facts["samples"]
    if not isinstance(samples, list):
        raise TypeError(f"samples are a list, got {samples!r}")
    return Sharing(**{**facts, "samples": tuple(Sample(**sample) for sample in samples)})  # type: ignore[arg-type]
