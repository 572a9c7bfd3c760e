"""What a user can say about a dataset: the flags that a search and ``doctor`` share. Nothing heavy is imported here.

Annotations are not postponed, because SearchConfig inherits them into another module, where cyclopts resolves them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from unetx_search.reading_words import mm, voxels
from unetx_space.errors import RequestError

if TYPE_CHECKING:
    from unetx_evaluators.tasks import Source
    from unetx_evaluators.tasks.options import Machine, TaskOptions

CACHE = ".cache"
"""Folder of the prepared datasets below --out, for all studies there."""

Rule = tuple[str, object, str, bool]
"""A flag without its dashes, its value, what it must be, and whether it is."""


def check_rules(rules: Iterable[Rule]) -> None:
    """Raises RequestError for the first value that breaks its rule."""
    for name, value, rule, is_met in rules:
        if not is_met:
            raise RequestError(f"--{name} must be {rule}, got {value}")


Data = Parameter(group="Data", negative=())


@dataclass(frozen=True, kw_only=True)
class DataChoices:
    """Which data, and how they become a task; what is not named is chosen from the data."""

    data: Annotated[Path | None, Data] = None
    """Dataset folder: MSD or nnU-Net raw (dataset.json), or images with masks (PNG, TIFF, JPEG, NIfTI). The built-in
    demo task without it."""
    labels: Annotated[str | None, Data] = None
    """What mask values or colours mean, as NAME=VALUE pairs: "background=0,cell=128,ignore=255" or "cell=#ff0000"."""
    dims: Annotated[Literal[2, 3] | None, Data] = None
    """2 searches on the slices of volumes, a cheap proxy for 3D."""
    spacing: Annotated[tuple[float, ...] | None, Data, Parameter(converter=mm, n_tokens=1)] = None
    """mm per voxel and axis to resample to, such as 1x1x2.5."""
    normalisation: Annotated[Literal["auto", "ct", "case"], Data] = "auto"
    """Intensities by those of all training cases (ct), by each case's own (case), or as the channels' names say."""
    patch: Annotated[tuple[int, ...] | None, Data, Parameter(converter=voxels, n_tokens=1)] = None
    """Voxels per axis of the network's input, such as 96x96x48."""
    levels: Annotated[int | None, Data] = None
    """Resolutions of the network."""
    base_width: Annotated[int | None, Data] = None
    """Channels at the finest level of the full-size network."""
    memory_gib: Annotated[float, Data] = 8.0
    """Memory that training the full-size U-Net may take; decides the patch."""
    seconds: Annotated[float | None, Data] = None
    """Time that one evaluation of the U-Net should take on one worker; decides the patch."""
    split_seed: Annotated[int, Data] = 0
    """Decides which cases train, are for selection and are held out. Apart from --seed, so that all studies of a
    dataset are judged on the same held-out cases."""
    folds: Annotated[int | None, Data] = None
    """Divide what is not held out into so many folds: one is for selection, the others train."""
    fold: Annotated[int, Data] = 0
    """Which fold is for selection, from 0."""
    group_by: Annotated[str | None, Data] = None
    """Keep cases together, a patient's say: a regular expression on case names, whose first group is the patient, or
    FILE.csv:COLUMN."""
    split: Annotated[Path | None, Data] = None
    """A split of your own: JSON with the case names of train, selection and held_out."""
    pseudonyms: Annotated[bool, Data] = False
    """Give cases neutral names in everything that is written outside the cache."""
    no_images: Annotated[bool, Data] = False
    """Keep image content out of artifacts, reports and picture sheets."""
    out: Path = Path("runs")
    """Folder that holds the studies."""
    cache: Annotated[Path | None, Data] = None
    """Folder of the prepared datasets, which all studies share. OUT/.cache by default."""

    def __post_init__(self) -> None:
        check_rules(self._rules())
        if self.split is not None and (self.folds is not None or self.group_by is not None):
            raise RequestError("--split names every case's part itself: leave --folds and --group-by out")

    def _rules(self) -> Iterable[Rule]:
        spacing, patch = self.spacing, self.patch
        yield (
            "spacing",
            spacing,
            "two or three lengths above 0",
            spacing is None or (len(spacing) in (2, 3) and all(0 < mm < math.inf for mm in spacing)),
        )
        yield (
            "patch",
            patch,
            "two or three whole numbers of at least 1",
            patch is None or (len(patch) in (2, 3) and min(patch) >= 1),
        )
        yield "levels", self.levels, "at least 2", self.levels is None or self.levels >= 2
        yield "base-width", self.base_width, "at least 1", self.base_width is None or self.base_width >= 1
        yield "memory-gib", self.memory_gib, "above 0", 0 < self.memory_gib < math.inf
        yield "seconds", self.seconds, "above 0", self.seconds is None or 0 < self.seconds < math.inf
        yield "split-seed", self.split_seed, "0 or more", self.split_seed >= 0
        yield "folds", self.folds, "at least 2", self.folds is None or self.folds >= 2
        last = (self.folds or 1) - 1
        yield "fold", self.fold, f"from 0 to {last} (see --folds)", 0 <= self.fold <= last

    @property
    def cache_folder(self) -> Path:
        """Where prepared datasets live."""
        return self.cache or self.out / CACHE

    def task_options(self, machine: "Machine") -> "TaskOptions":
        """The same for the preparation; ``machine`` is what will train."""
        from unetx_evaluators.tasks.options import TaskOptions

        return TaskOptions(
            dims=self.dims,
            spacing=self.spacing,
            normalisation=self.normalisation,
            patch=self.patch,
            levels=self.levels,
            base_width=self.base_width,
            memory_gib=self.memory_gib,
            seconds=self.seconds,
            machine=machine,
            split_seed=self.split_seed,
            folds=self.folds,
            fold=self.fold,
            group_by=self.group_by,
            split=self.split,
            pseudonyms=self.pseudonyms,
            no_images=self.no_images,
        )

    def source(self) -> "Source":
        """The dataset, listed but not read; the demo where none is named. Raises DataError."""
        from unetx_evaluators.tasks import DemoSource, open_source, parse_labels

        if self.data is None:
            return DemoSource()
        return open_source(self.data, labels=parse_labels(self.labels) if self.labels is not None else None)
