"""What a user can say about a dataset: the flags that a search and ``doctor`` share. Nothing heavy is imported here.

Annotations are not postponed, because SearchConfig inherits them into another module, where cyclopts resolves them.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from unetx_search.converters import mm, voxels
from unetx_space.errors import RequestError

if TYPE_CHECKING:
    from unetx_evaluators.tasks import Source
    from unetx_evaluators.tasks.options import Machine, TaskOptions

CACHE = ".cache"
"""Name of the folder of prepared datasets below --out, for all studies there."""

READING = ("threshold", "images", "masks", "image_suffix", "mask_suffix", "several_masks", "follow_links")
"""The names of the choices that say how the files of a dataset are read."""

Rule = tuple[str, object, str, bool]
"""A rule for an option: its name without dashes, its value, what it must be, and whether it is."""


def check_rules(rules: Iterable[Rule]) -> None:
    """Raises RequestError for the first value that breaks its rule."""
    for name, value, rule, is_met in rules:
        if not is_met:
            raise RequestError(f"--{name} must be {rule}, got {value}")


def at_least(least: float, **values: float | None) -> Iterator[Rule]:
    """Yield a rule for each option: its value, where it is given, is at least ``least``."""
    for name, value in values.items():
        yield name.replace("_", "-"), value, f"at least {least}", value is None or value >= least


Data = Parameter(group="Data", negative=())


@dataclass(frozen=True, kw_only=True)
class DataChoices:
    """The options of a dataset: which it is, and how it becomes a task. What is not given is chosen from the data."""

    data: Annotated[Path | None, Data] = None
    """Dataset folder: MSD or nnU-Net raw (dataset.json), a MONAI data list (or its JSON file), or images with masks
    (PNG, TIFF, JPEG, BMP, GIF, NIfTI; MetaImage and NRRD with SimpleITK). The built-in demo task without it."""
    labels: Annotated[str | None, Data] = None
    """What mask values or colours mean, as NAME=VALUE pairs, where no dataset.json or data list says it:
    "background=0,cell=128,ignore=255", or colours of pictures (PNG, TIFF, BMP, GIF), "cell=#ff0000". A class that is
    named several times has several values: "cell=1,cell=2"."""
    threshold: Annotated[float | None, Data] = None
    """Pixels of a mask above this value are foreground, the others background: 0 where masks number objects, 127 where
    interpolation or a JPEG left values between 0 and 255."""
    images: Annotated[str | None, Data] = None
    """Folder of the images, as seen from --data, where it is not called images; "." is --data itself."""
    masks: Annotated[str | None, Data] = None
    """Folder of the masks, as seen from --data, where it is not called masks or labels."""
    image_suffix: Annotated[str | None, Data] = None
    """What images' names end in and masks' do not, such as _training of 21_training.tif."""
    mask_suffix: Annotated[str | None, Data] = None
    """What masks' names end in and images' do not, such as _segmentation of a_segmentation.png."""
    several_masks: Annotated[str | None, Data] = None
    """Several masks of one image: "union", what any of them shows; "classes", a class each, named by what the masks'
    names add to the image's; or these names in the order in which they are drawn over each other: "disc,cup"."""
    follow_links: Annotated[bool, Data] = False
    """Read files to which symbolic links lead out of the dataset's folder."""
    dims: Annotated[Literal[2, 3] | None, Data] = None
    """2 searches on the slices of volumes, a cheap proxy for 3D."""
    spacing: Annotated[tuple[float, ...] | None, Data, Parameter(converter=mm, n_tokens=1)] = None
    """mm per voxel and axis to resample to, such as 1x1x2.5."""
    normalisation: Annotated[Literal["auto", "ct", "case"], Data] = "auto"
    """Intensities by those of all training cases (ct), by each case's own (case), or as the channels' names say."""
    patch: Annotated[tuple[int, ...] | None, Data, Parameter(converter=voxels, n_tokens=1)] = None
    """Voxels per axis of the network's input, such as 96x96x48."""
    levels: Annotated[int | None, Data] = None
    """Number of resolutions of the network."""
    base_width: Annotated[int | None, Data] = None
    """Channels at the finest level of the full-size network."""
    memory_gib: Annotated[float, Data] = 8.0
    """Memory that training the full-size U-Net may take; decides the patch."""
    seconds: Annotated[float | None, Data] = None
    """Time that one evaluation of the U-Net should take on one worker; decides the patch."""
    split_seed: Annotated[int, Data] = 0
    """Decides which cases train, validate and test. Apart from --seed, so that all studies of a
    dataset are judged on the same test cases."""
    folds: Annotated[int | None, Data] = None
    """Divide what are not test cases into so many folds: one validates, the others train."""
    fold: Annotated[int, Data] = 0
    """Which fold validates, from 0."""
    group_by: Annotated[str | None, Data] = None
    """Keep cases together, a patient's say: a regular expression on case names, whose first group is the patient, or
    FILE.csv:COLUMN."""
    split: Annotated[Path | None, Data] = None
    """A split of your own: JSON with the case names of train, validation and test."""
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
        said = [name for name in READING if getattr(self, name) not in (None, False)]
        if self.data is None and said:
            raise RequestError(f"--{said[0].replace('_', '-')} says how a dataset is read: name it with --data PATH")
        if self.labels is not None and self.threshold is not None:
            raise RequestError("--labels and --threshold both say what the values of masks mean: leave one out")
        if self.split is not None and (self.folds is not None or self.group_by is not None):
            raise RequestError("--split names every case's part itself: leave --folds and --group-by out")

    def _rules(self) -> Iterable[Rule]:
        spacing, patch = self.spacing, self.patch
        are_lengths = spacing is None or (len(spacing) in (2, 3) and all(0 < mm < math.inf for mm in spacing))
        yield "spacing", spacing, "two or three lengths above 0", are_lengths
        are_sizes = patch is None or (len(patch) in (2, 3) and min(patch) >= 1)
        yield "patch", patch, "two or three whole numbers of at least 1", are_sizes
        level = self.threshold
        yield "threshold", level, "a number", level is None or math.isfinite(level)
        names = [name.strip() for name in (self.several_masks or "union").split(",")]
        rule = "union, classes, or the names of the classes in the order in which they are drawn, like disc,cup"
        is_order = all(names) and len(set(names)) == len(names)
        is_known = is_order and (len(names) > 1 or names[0] in ("union", "classes"))
        yield "several-masks", self.several_masks, rule, is_known
        yield from at_least(2, levels=self.levels, folds=self.folds)
        yield from at_least(1, base_width=self.base_width)
        yield "memory-gib", self.memory_gib, "above 0", 0 < self.memory_gib < math.inf
        yield "seconds", self.seconds, "above 0", self.seconds is None or 0 < self.seconds < math.inf
        yield "split-seed", self.split_seed, "0 or more", self.split_seed >= 0
        last = (self.folds or 1) - 1
        yield "fold", self.fold, f"from 0 to {last} (see --folds)", 0 <= self.fold <= last

    @property
    def cache_folder(self) -> Path:
        """The folder of the prepared datasets."""
        return self.cache or self.out / CACHE

    def task_options(self, machine: "Machine") -> "TaskOptions":
        """Return the options of the preparation for training on ``machine``."""
        from unetx_evaluators.tasks.options import TaskOptions

        shared = {one.name for one in fields(TaskOptions)} & {one.name for one in fields(DataChoices)}
        return TaskOptions(machine=machine, **{name: getattr(self, name) for name in shared})

    def source(self) -> "Source":
        """Open the dataset, which lists its files and reads none; the demo where none is named. Raises DataError."""
        from unetx_evaluators.tasks import DemoSource, ReadingOptions, open_source, parse_labels

        if self.data is None:
            return DemoSource()
        labels = parse_labels(self.labels) if self.labels is not None else None
        reading = ReadingOptions(**{name: getattr(self, name) for name in READING})
        return open_source(self.data, labels=labels, reading=reading)
