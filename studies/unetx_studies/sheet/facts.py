"""The facts about a dataset for its page, a terminal and JSON: plain numbers and words, no arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class CaseGrid:
    """The grid of a case as it is stored, and the part of the split to which the case belongs."""

    name: str
    shape: tuple[int, ...]
    """Voxels per axis; empty, as the spacing is, where problems kept the case from being read."""
    spacing: tuple[float, ...]
    """mm per voxel and axis."""
    part: Part | None
    """The part of the case; None where the data could not be split."""


@dataclass(frozen=True, slots=True)
class ClassSize:
    """How much of the training cases one class takes."""

    name: str
    share: float
    """Its share of all labelled voxels, 0 to 1."""
    n_cases: int
    """Number of training cases that show it."""


@dataclass(frozen=True, slots=True)
class ChannelIntensities:
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
    """The lowest value of the whole images, background included."""
    highest: float
    """The highest value of the whole images."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision about the task, with its reason."""

    what: str
    value: str
    """What was decided; empty where the reason says it."""
    reason: str

    @property
    def sentence(self) -> str:
        return f"{self.value}: {self.reason}" if self.value else self.reason


@dataclass(frozen=True, slots=True)
class PilotTraining:
    """One training of a pilot."""

    round: str
    """What it was to settle: the recipe, the voxel size or the steps."""
    steps: int
    learning_rate: float
    background_weight: float
    voxels: str
    """The size of voxels, such as ``1x1x2 mm``; empty where that was not in question."""
    outcome: str
    """``complete``, or how it ended otherwise."""
    dice: float | None
    """The Dice on the original voxels."""
    seconds: float
    curve: tuple[tuple[int, float], ...] = ()
    """Steps and Dice at every rung, on the prepared voxels, and before the last on a part of the cases."""

    @property
    def result(self) -> str:
        """The score of a completed training, the outcome of any other, in words."""
        return f"{self.dice:.4f}" if self.outcome == "complete" and self.dice is not None else self.outcome


@dataclass(frozen=True, slots=True)
class PilotFacts:
    """The trainings of a dataset's pilot, and what they settled."""

    trainings: tuple[PilotTraining, ...]
    """The trainings in their order."""
    settled: tuple[Decision, ...]
    still_gaining: float | None = None
    """Dice that the last doubling of the steps gained, where time ended the growth."""
    was_kept: bool = False
    """Whether it was found in the cache, where an earlier run had left it."""

    @property
    def origin(self) -> str:
        """Words on where the pilot comes from, an earlier run or this one."""
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
        """The heads of a table and its rows, one for each training; voxel sizes where they were in question."""
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
    """Layout and place of the files, in words."""
    n_bytes: int
    """Size of its files."""
    dims: int
    """Dimensions of the task, not of the files: 2 for slices of volumes."""
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    """``classes[0]`` is the background."""
    cases: tuple[CaseGrid, ...]
    class_sizes: tuple[ClassSize, ...] = ()
    """Sizes of the classes after the background, in their order."""
    intensities: tuple[ChannelIntensities, ...] = ()
    choices: tuple[Decision, ...] = ()
    problems: tuple[str, ...] = ()
    """Why no search can start: file, reason and remedy each."""
    warnings: tuple[str, ...] = ()
    cache_bytes: int | None = None
    """Bytes that the prepared arrays would take; None where that cannot be known."""
    pilot: PilotFacts | None = None
    """The dataset's pilot; None where none was asked for and the cache has none."""

    def names(self, part: Part) -> tuple[str, ...]:
        """The names of the cases of a part."""
        return tuple(case.name for case in self.cases if case.part == part)

    @property
    def training_grids(self) -> tuple[CaseGrid, ...]:
        """The training cases whose grid is known."""
        return tuple(case for case in self.cases if case.part == "train" and case.shape)


def axis_ranges(rows: Sequence[Sequence[float]]) -> Iterator[tuple[float, float, float]]:
    """The smallest, the median and the largest number of each axis."""
    for axis in zip(*rows, strict=True):
        yield min(axis), median(axis), max(axis)


def size_words(n_bytes: int) -> str:
    """A size in words, such as ``3.1 MiB``."""
    power = next((power for power in range(3) if n_bytes < 1024 ** (power + 1)), 3)
    return f"{n_bytes} bytes" if power == 0 else f"{n_bytes / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def number_words(number: float) -> str:
    """A number in four digits, which are enough to look at; one of up to nine digits before the point stays whole."""
    return f"{number:.0f}" if 1e3 <= abs(number) < 1e9 else f"{number:.4g}"
