"""What is told about a dataset, on a page, in a terminal and as JSON: plain numbers and words, no arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class CaseGrid:
    """A case's grid as it is stored, and the part it belongs to."""

    name: str
    shape: tuple[int, ...]
    """Voxels per axis; empty, as the spacing is, where nothing was learnt for other problems."""
    spacing: tuple[float, ...]
    """mm per voxel and axis."""
    part: Part | None
    """None where the data could not be split."""


@dataclass(frozen=True, slots=True)
class ClassSize:
    """How much of the training cases one class takes."""

    name: str
    share: float
    """Part of all labelled voxels, 0 to 1."""
    n_cases: int
    """Training cases that show it."""


@dataclass(frozen=True, slots=True)
class Intensities:
    """A channel's values in the foreground of the training cases."""

    channel: str
    mean: float
    std: float
    low: float
    """The 0.5th percentile."""
    median: float
    high: float
    """The 99.5th percentile."""
    lowest: float
    """Of the whole images, background included."""
    highest: float


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that was decided about the task, with its reason."""

    what: str
    value: str
    """Empty where the reason tells it too."""
    reason: str

    @property
    def sentence(self) -> str:
        return f"{self.value}: {self.reason}" if self.value else self.reason


@dataclass(frozen=True, slots=True)
class Training:
    """One training of a pilot."""

    round: str
    """What it was to settle: the recipe, the voxel size or the steps."""
    steps: int
    learning_rate: float
    background_weight: float
    voxels: str
    """Their size, such as ``1x1x2 mm``; empty where that was not in question."""
    outcome: str
    """``complete``, or how it ended otherwise."""
    dice: float | None
    """On the original voxels."""
    seconds: float
    curve: tuple[tuple[int, float], ...] = ()
    """Steps and Dice at every rung, on the prepared voxels, and before the last on a part of the cases."""

    @property
    def result(self) -> str:
        """The score of one that was completed, the outcome of any other."""
        return f"{self.dice:.4f}" if self.outcome == "complete" and self.dice is not None else self.outcome


@dataclass(frozen=True, slots=True)
class PilotFacts:
    """What a dataset's pilot has trained and settled."""

    trainings: tuple[Training, ...]
    """In their order."""
    settled: tuple[Choice, ...]
    still_gaining: float | None = None
    """Dice that the last doubling of the steps gained, where time ended the growth."""
    was_kept: bool = False
    """Found in the cache, where an earlier run had left it."""

    @property
    def origin(self) -> str:
        """A sentence on where it comes from."""
        return (
            "kept in the cache from an earlier run, so it was not run again"
            if self.was_kept
            else "run now, and kept with the prepared data: a search finds it there and asks nothing again"
        )

    @property
    def advice(self) -> str:
        """What to do about scores that still rise; empty where they do not."""
        if self.still_gaining is None:
            return ""
        return (
            f"Scores still rise with training: the last doubling of the steps gained {self.still_gaining:+.4f} Dice, "
            "and the time target ended it there. A higher --seconds allows more steps."
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Heads and rows, one a training; voxel sizes where they were in question."""
        has_voxels = any(training.voxels for training in self.trainings)
        voxels = ("voxels",) if has_voxels else ()
        heads = ("no.", "round", "steps", "learning rate", "background weight", *voxels, "Dice", "seconds")
        rows = [
            (
                str(number),
                training.round,
                str(training.steps),
                f"{training.learning_rate:g}",
                f"{training.background_weight:g}",
                *((training.voxels,) if has_voxels else ()),
                training.result,
                f"{training.seconds:.0f}",
            )
            for number, training in enumerate(self.trainings, start=1)
        ]
        return heads, rows


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """A dataset as ``doctor`` sees it."""

    name: str
    source: str
    """Layout and place, for people."""
    n_bytes: int
    """Size of its files."""
    dims: int
    """Of the task, not of the files: 2 for slices of volumes."""
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    """``classes[0]`` is the background."""
    cases: tuple[CaseGrid, ...]
    class_sizes: tuple[ClassSize, ...] = ()
    """Of the classes after the background, in their order."""
    intensities: tuple[Intensities, ...] = ()
    choices: tuple[Choice, ...] = ()
    problems: tuple[str, ...] = ()
    """Why no search can start: file, reason and remedy each."""
    warnings: tuple[str, ...] = ()
    cache_bytes: int | None = None
    """What the prepared arrays would take; None where it cannot be told."""
    pilot: PilotFacts | None = None
    """None where none was asked and the cache has none."""

    def names(self, part: Part) -> tuple[str, ...]:
        """The cases of a part."""
        return tuple(case.name for case in self.cases if case.part == part)

    @property
    def training_grids(self) -> tuple[CaseGrid, ...]:
        """The training cases whose grid is known."""
        return tuple(case for case in self.cases if case.part == "train" and case.shape)


def axis_ranges(rows: Sequence[Sequence[float]]) -> Iterator[tuple[float, float, float]]:
    """Smallest, median and largest for each axis."""
    for axis in zip(*rows, strict=True):
        yield min(axis), median(axis), max(axis)


def size_words(n_bytes: int) -> str:
    """``3.1 MiB``."""
    power = next((power for power in range(3) if n_bytes < 1024 ** (power + 1)), 3)
    return f"{n_bytes} bytes" if power == 0 else f"{n_bytes / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def number_words(number: float) -> str:
    """Four digits are enough to look at; numbers of more stay whole up to nine."""
    return f"{number:.0f}" if 1e3 <= abs(number) < 1e9 else f"{number:.4g}"
