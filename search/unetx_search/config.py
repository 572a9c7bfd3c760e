"""The options of a search, from which flags, help, defaults and TOML come, and the files in which a study keeps them.

Annotations are not postponed, as in ``data_choices.py``.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from cyclopts import Parameter

from unetx_search.converters import MAX_NAME_BYTES
from unetx_search.data_choices import DataChoices, Rule, at_least, check_rules
from unetx_search.executors.registry import ENGINES
from unetx_search.samplers.registry import SAMPLERS
from unetx_space.design_space import DesignSpace, SpaceName, design_space, narrowed
from unetx_space.errors import RequestError
from unetx_space.files import read_object, write_whole

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import Budget
    from unetx_evaluators.tasks.task import Task

    EngineName = str
    SamplerName = str
else:  # what may be said is what is registered, in help and refusals, too
    EngineName, SamplerName = Literal[tuple(ENGINES)], Literal[tuple(SAMPLERS)]

DEMO = "demo"
PATHS = ("data", "split", "out", "cache")
"""Options that are paths."""
MAX_HOURS = 100_000
FIRST_PRESETS = ("u-net", "no-skip")
"""The presets that every search evaluates first: the reference, and the net that shows what skips are worth at all."""
DEFAULT_SHARE, MAX_SHARE = 0.3, 0.9
"""The share of a study's trials that are replicates, by default and at most."""
MARGIN = 0.005
"""Dice by which a design may be worse than the reference and still counts as being as good."""

Diagnosis = Literal["best", "all", "none"]
CheapBy = Literal["macs", "params", "memory"]
OfTheSpace = Annotated[str | list[str] | None, Parameter(group="Design space", negative=())]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Which operators a search may choose from; what is not named keeps the space's own choices."""

    attention: OfTheSpace = None
    """Attention types to choose from, such as "none,se,eca@source", or "all"."""
    upsampler: OfTheSpace = None
    """Upsamplers to choose from, such as "linear,transposed", or "all"."""
    fusion: OfTheSpace = None
    """Fusions to choose from, such as "concat,sum", or "all"."""
    alignment: OfTheSpace = None
    """How finer sources may be brought down, such as "max,average", or "all"."""
    sources: OfTheSpace = None
    """Where sources may lie as seen from the node: any of "same,finer,coarser"."""

    def narrow(self, space: DesignSpace) -> DesignSpace:
        """Return the space with these choices only. Raises RequestError for an unknown choice."""
        return narrowed(space, **{one.name: getattr(self, one.name) for one in fields(Choices)})


@dataclass(frozen=True, kw_only=True)
class SearchConfig(DataChoices, Choices):
    """The options of a search, as its user gave them."""

    trials: int = 12
    """Trials the study shall have in total; run the same command with more to continue."""
    gpus: Literal["all"] | int = "all"
    """GPUs to use: a count, "all" that are visible (with --engine ray: of the cluster), or 0 for CPU workers. A count
    with --engine slurm."""
    study: str | None = None
    """Name of the study, and of its folder below --out. The dataset's name by default."""
    storage: str | None = field(default=None, repr=False)
    """PostgreSQL database that keeps the study instead of a file in its folder: postgresql://USER@HOST/DATABASE.
    Passwords are best left to PGPASSWORD or ~/.pgpass; one in the URL is never written to disk."""
    seed: int = 0
    """Decides the proposals, the initial values and the order of the batches."""
    cpu_workers: int | None = None
    """CPU workers, one thread each, where no GPU is used. One per core by default; a count with --engine slurm."""
    workers_per_gpu: Literal["auto"] | int | None = None
    """Worker processes that share one GPU: a count, or "auto" to measure, once a study, how many pay. By default auto
    on this machine, and 1 on a cluster."""
    engine: EngineName = "local"
    """Where evaluations run: on this machine (local), in jobs of Slurm (slurm), or on the GPUs or CPUs of a Ray cluster
    (ray)."""
    slurm: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=(), show_default=False)] = ()
    """What every job asks of Slurm: options of sbatch by their long names, such as partition=gpu account=lab
    time=08:00:00 mem=32G. --gpus 8 submits eight jobs with a GPU each."""
    ray_address: str | None = None
    """HOST:PORT of the Ray cluster's head, or "local" for a cluster of this machine alone. By default the one in
    RAY_ADDRESS, else the one that runs on this machine, else one that is started here for the search."""
    steps: int | None = None
    """Training steps of one evaluation. Chosen from the task by default."""
    batch_size: int | None = None
    """Patches per training step. Chosen from the task by default."""
    width_factor: float | None = None
    """Part of the full-size network's widths that an evaluation trains, such as 0.25."""
    validation_cases: int | None = None
    """Cases scored at every rung, at most."""
    learning_rate: float | None = None
    """Learning rate of the training, at the end of its warm-up. Found by the pilot by default."""
    background_weight: float | None = None
    """Weight of the background in the cross entropy, against 1 for every other class. Found by the pilot by default."""
    pilot: bool = True
    """Train the U-Net a few times, briefly, before the first search on a dataset, to settle learning rate, background
    weight, steps and, where the plan leaves it open, voxel size. Kept with the prepared data."""
    pilot_gain: float = 0.01
    """Dice that twice the steps must gain in the pilot for evaluations to train that long."""
    sampler: SamplerName = "tpe"
    """What proposes designs: Optuna's TPE, or uniform draws to compare it with."""
    pruner: Literal["median", "halving", "hyperband", "none"] = "median"
    """What stops an evaluation early: it is behind the median of the others; not among the best third at a rung
    (halving); the same, with rungs that some trials are spared (hyperband); nothing (none)."""
    reseed: float = DEFAULT_SHARE
    """Share of the trials, the last ones, that train the best designs and U-Net again with other seeds, by halving: the
    highest of many scores is partly luck. 0 for none."""
    cheap_by: CheapBy = "macs"
    """What the cheapest design that is as good as U-Net has the least of: multiply-adds (macs), parameters (params), or
    memory to train it at full size (memory)."""
    margin: float = MARGIN
    """Dice that a design may be worse than U-Net and still count as being as good."""
    max_hours: float | None = None
    """End this run in order after so many hours; the same command continues the study."""
    deterministic: int | None = None
    """Make the study reproducible with up to so many workers: each proposal sees the results up to that many trials
    before it, no more and no less. Scores are the same again on CPUs alone: GPUs add up gradients in any order."""
    diagnosis: Diagnosis = "best"
    """Which evaluations note zero-cost features and the similarity of skips: presets and those that become the best
    so far (best), all, or none. Takes about a hundredth of an evaluation and changes no score."""
    space: Annotated[SpaceName, Parameter(group="Design space")] = "default"
    """Which decoders are searched: sources among encoder stages (default), deeper decoder nodes too (full-scale, as in
    UNet 3+), or several columns per level (nested, as in UNet++)."""
    max_cost: Annotated[float, Parameter(group="Design space")] = 4.0
    """Designs dearer than this many times the U-Net's multiply-adds are not tried."""

    @classmethod
    def on(cls, choices: DataChoices) -> Self:
        """Return a search on these data whose other options have their defaults."""
        return cls(**{one.name: getattr(choices, one.name) for one in fields(DataChoices)})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rules(self._search_rules())
        if self.study is not None and (self.study.strip() in ("", ".", "..") or {"/", "\\", "\0"} & set(self.study)):
            raise RequestError(f"--study is the name of one folder below --out, got {self.study!r}")
        self._check_folder()
        self.design_space(n_levels=2)  # an unknown choice is refused before any data are read

    def _check_folder(self) -> None:
        n_bytes = len(os.fsencode(self.study_name))
        if n_bytes > MAX_NAME_BYTES:
            raise RequestError(
                f"--study must be at most {MAX_NAME_BYTES} bytes long, as the name of its folder, got {n_bytes} bytes "
                f"({self.study_name[:20]}...); choose a shorter name"
            )
        folder, cache = (Path(str(path.absolute()).casefold()) for path in (self.folder, self.cache_folder))
        if folder == cache or cache in folder.parents:
            raise RequestError(
                f"--study must be another folder than the cache of prepared datasets, got {self.study_name!r} for both "
                f"({self.cache_folder}); choose another name"
            )

    @property
    def fixed_workers_per_gpu(self) -> int:
        """The number of workers on each GPU that the user has fixed; 1 where that is measured or not given."""
        return self.workers_per_gpu if isinstance(self.workers_per_gpu, int) else 1

    def _search_rules(self) -> Iterator[Rule]:
        yield from at_least(1, trials=self.trials, cpu_workers=self.cpu_workers, steps=self.steps)
        yield from at_least(1, batch_size=self.batch_size, validation_cases=self.validation_cases)
        yield "gpus", self.gpus, "0 or more, or all", self.gpus == "all" or self.gpus >= 0
        yield "seed", self.seed, "0 or more", self.seed >= 0
        sharing = self.workers_per_gpu
        yield (
            "workers-per-gpu",
            sharing,
            "at least 1, or auto",
            not isinstance(sharing, int) or sharing >= 1,
        )
        is_local = self.engine == "local"
        yield "workers-per-gpu", sharing, f"a count with --engine {self.engine}", is_local or sharing != "auto"
        address, is_there = self.ray_address, self.ray_address is not None
        yield "ray-address", address, "given with --engine ray only", self.engine == "ray" or not is_there
        yield "ray-address", address, "HOST:PORT without a protocol", not (address and "://" in address)
        rule = "given with --engine slurm only"
        yield "slurm", " ".join(self.slurm), rule, self.engine == "slurm" or not self.slurm
        hours = self.max_hours
        yield "max-hours", hours, f"above 0 and at most {MAX_HOURS}", hours is None or 0 < hours <= MAX_HOURS
        yield "reseed", self.reseed, f"0 (none) to {MAX_SHARE:g}", 0 <= self.reseed <= MAX_SHARE
        yield "margin", self.margin, "at least 0 and less than 1 (Dice, such as 0.005)", 0 <= self.margin < 1
        window = self.deterministic
        yield "deterministic", window, "at least 1 (the largest number of workers)", window is None or window >= 1
        factor = self.width_factor
        yield "width-factor", factor, "above 0 and at most 1", factor is None or 0 < factor <= 1
        rate, weight = self.learning_rate, self.background_weight
        yield "learning-rate", rate, "above 0 and at most 1", rate is None or 0 < rate <= 1
        yield "background-weight", weight, "above 0 and at most 100", weight is None or 0 < weight <= 100
        yield "pilot-gain", self.pilot_gain, "0 or more", self.pilot_gain >= 0
        yield "max-cost", self.max_cost, "at least 1 (the U-Net itself costs 1)", self.max_cost >= 1

    def design_space(self, n_levels: int) -> DesignSpace:
        """Return the design space to search on a backbone of so many levels."""
        return self.narrow(design_space(self.space, n_levels))

    @property
    def study_name(self) -> str:
        """The name of the study."""
        if self.study or not self.data:
            return self.study or DEMO
        place = self.data.resolve()
        return place.stem if place.suffix == ".json" and place.is_file() else place.name

    @property
    def folder(self) -> Path:
        """The folder of the study."""
        return self.out / self.study_name


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What a study was begun with, in the file ``config.json`` of its folder.

    A continuation must agree, or its scores could not be compared with those before. Numbers of trials and workers may
    change from run to run and are not part of it.
    """

    task_digest: str
    """The digest of the data as the networks get them."""
    data: dict[str, Any]
    """The parts of the data, as digests or values, which tell why a whole digest differs."""
    task: dict[str, Any]
    """What was chosen for the networks' input, by name."""
    genes: dict[str, list[Any]]
    """The design space: every gene with its choices."""
    seed: int
    sampler: str
    pruner: str
    max_cost: float
    budget: dict[str, Any]
    deterministic: int | None = None
    reseed: float = DEFAULT_SHARE
    """The share of the trials that are replicates."""
    pilot_spacing: tuple[float, ...] | None = None
    """The voxel size that a pilot chose instead of the planned one, along the source's axes."""
    audit: dict[str, int] | None = None
    """For an audit: the numbers of designs and of seeds, and how much longer the references train."""

    @classmethod
    def of(
        cls,
        config: SearchConfig,
        task: "Task",
        space: DesignSpace,
        budget: "Budget",
        *,
        pilot_spacing: tuple[float, ...] | None = None,
    ) -> Self:
        return cls(
            **_data_settings(task),
            genes={name: list(choices) for name, choices in space.genes.items()},
            seed=config.seed,
            sampler=config.sampler,
            pruner=config.pruner,
            max_cost=config.max_cost,
            budget=asdict(budget),
            deterministic=config.deterministic,
            reseed=config.reseed,
            pilot_spacing=pilot_spacing,
        )

    def freeze(self, path: Path) -> None:
        """Write the settings into a study's folder, or check them against those of an earlier run.

        Raises RequestError, which names every difference.
        """
        if path.exists():
            self.check(path)
        else:
            write_whole(path, json.dumps(asdict(self), indent=2) + "\n")

    def check(self, path: Path) -> None:
        """Check these settings against those of an earlier run. Raises RequestError, which names every difference."""
        _refuse_differences(path, _as_stored(asdict(self)))


def _data_settings(task: "Task") -> dict[str, Any]:
    """The part of a study's settings that its prepared data decide."""
    return {
        "task_digest": task.digest,
        "data": {**task.digests, "channels": list(task.channels), "classes": list(task.classes)},
        "task": {name: getattr(task, name) for name in ("dims", "spacing", "patch", "strides", "widths")},
    }


def differing_data(path: Path, task: "Task") -> list[str]:
    """Return a line for each difference between a study's data, by its settings file, and a task's."""
    theirs, mine = read_settings(path), _as_stored(_data_settings(task))
    if theirs["task_digest"] == mine["task_digest"]:
        return []
    return list(_differences(theirs, mine, stated_only=True)) or ["  data: other images, masks or another split"]


def write_request(config: SearchConfig, path: Path) -> None:
    """Write a search's request without the database's URL, so that finals read the same data in the same way."""
    told = {name: value for name, value in asdict(config).items() if name != "storage"}
    absolute = {name: str(told[name].absolute()) for name in PATHS if told[name] is not None}
    write_whole(path, json.dumps({**told, **absolute}, indent=2) + "\n")


def read_request(path: Path) -> SearchConfig:
    """Read the last request of a study's search. Raises RequestError where the file is not there or damaged."""
    told = read_object(path, {"trials": int, "seed": int}, "run the study's search again: it writes the file anew")
    known = {one.name for one in fields(SearchConfig)}
    values: dict[str, Any] = {name: value for name, value in told.items() if name in known}
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
        elif name in PATHS and value is not None:
            values[name] = Path(value)
    return SearchConfig(**values)


KEPT = {"task_digest": str, "task": dict, "genes": dict, "budget": dict}
"""Fields that a study's settings have had in every version."""
_RESTORE = (
    "restore it from a backup, or take another --study NAME. Or remove it, when all options and the data are those of "
    "the beginning: the next run then writes it anew"
)
PARTS_OF_DATA = {
    "images": "other voxels than it was begun with (other files, or prepared in another way)",
    "masks": "other voxels than it was begun with (other files, or other --labels)",
    "split": "other cases train, validate or test than in the beginning",
}


def read_settings(path: Path) -> dict[str, Any]:
    """Read a study's settings file. Raises RequestError where it is not there or damaged."""
    return read_object(path, KEPT, _RESTORE)


def check_request(config: SearchConfig, path: Path) -> None:
    """Check a request against a study's settings, as far as that needs no prepared data. Raises RequestError."""
    if not path.exists():
        return
    stated = {
        **{name: getattr(config, name) for name in ("seed", "sampler", "pruner", "max_cost", "reseed")},
        "task": {"dims": config.dims, "patch": config.patch},
        "budget": {
            **{name: getattr(config, name) for name in ("steps", "batch_size", "width_factor", "validation_cases")},
            "recipe": {name: getattr(config, name) for name in ("learning_rate", "background_weight")},
        },
    }
    _refuse_differences(path, _as_stored(stated), stated_only=True)


def _as_stored(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as a file gives them back: JSON values."""
    return dict(json.loads(json.dumps(settings)))


def _refuse_differences(path: Path, mine: dict[str, Any], *, stated_only: bool = False) -> None:
    theirs = read_settings(path)
    differences = list(_differences(theirs, mine, stated_only=stated_only))
    if not stated_only and theirs["task_digest"] != mine["task_digest"] and not differences:
        differences = ["  data: other images, masks or another split than it was begun with"]
    if differences:
        raise RequestError(
            f"the study in {path.parent} was begun with other settings, so new scores could not be compared "
            "with its own:\n" + "\n".join(differences) + "\nuse the same settings, or another --study NAME"
        )


def _differences(theirs: dict[str, Any], mine: dict[str, Any], prefix: str = "", *, stated_only: bool) -> Iterator[str]:
    """A line for every setting that is not the same, tables gone into; None is no statement where those count only."""
    names = {name for name, value in mine.items() if value is not None} if stated_only else theirs.keys() | mine.keys()
    for name in sorted(names - {"task_digest"}):
        before, now = theirs.get(name), mine.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{prefix}{name}.", stated_only=stated_only)
        elif before == now or (before is None and name in ("data", "reseed")):  # versions before did not keep these
            continue
        elif prefix == "data." and name in PARTS_OF_DATA:
            yield f"  {prefix}{name}: {PARTS_OF_DATA[name]}"
        else:
            yield f"  {prefix}{name}: begun with {before!r}, now {now!r}"
