"""The options of finals; nothing heavy is imported here.

Annotations are not postponed, as in ``data_choices.py``.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from unetx_search.config import MAX_HOURS, SearchConfig
from unetx_search.data_choices import Rule, at_least, check_rules
from unetx_space.errors import RequestError, unknown_name
from unetx_space.presets import PRESETS

BASELINES = "u-net,u-net-no-top,attention-u-net,unet++,unet-3+,no-skip"
FINALS = "finals"
REFERENCE = "u-net"
"""The baseline that every design is compared with."""


@dataclass(frozen=True, kw_only=True)
class FinalsConfig:
    """The options of finals, as their user gave them; what is None comes from the search or the machine."""

    top: int = 3
    """How many of the search's best designs compete."""
    seeds: int = 5
    """Trainings of each design, on seeds that the search has not used; with more of them finals go on."""
    baselines: str = BASELINES
    """Published designs that compete, by their names; u-net always does."""
    steps: int | None = None
    """Training steps of each. Four times the search's by default."""
    width_factor: float | None = None
    """Part of the full-size network's widths. By default 1 with the full plan, and else the search's."""
    plan: Literal["full", "search"] | None = None
    """Patch and voxel size: as memory alone allows (full), or those of the search, which had to be quick (search). By
    default full on GPUs, and the search's on CPUs, where the full plan takes days."""
    equal_cost: bool = False
    """Make every design as wide as lets it cost what the U-Net does, within 5 %."""
    folds: int | None = None
    """Train by cross-validation over all cases instead, for small sets: every case is scored by trainings that have
    not seen it. All but the former test cases have then chosen the designs."""
    race: bool = True
    """Give up designs that are shown to be behind the leader, with 99 % certainty, before they have all seeds."""
    margin: float | None = None
    """A difference of Dice that counts in practice. The search's by default."""
    data: Path | None = None
    """Where the dataset lies now, if it has moved since the search."""
    name: str = FINALS
    """Folder of these finals in the study's; another one for finals of another kind."""
    gpus: Literal["all"] | int | None = None
    """GPUs to use. As in the search by default."""
    cpu_workers: int | None = None
    """CPU workers, one thread each, where no GPU is used. As in the search by default."""
    workers_per_gpu: int | None = None
    """Worker processes that share one GPU. As in the search by default, 1 where the search measured how many pay."""
    max_hours: float | None = None
    """End this run in order after so many hours; the same command continues the finals."""

    def __post_init__(self) -> None:
        check_rules(self._rules())
        for name in self.baseline_names:
            if name not in PRESETS:
                raise RequestError(unknown_name("baseline", name, PRESETS))
        if self.name in ("", ".", "..") or {"/", "\\", "\0"} & set(self.name):
            raise RequestError(f"--name is the name of one folder in the study's, got {self.name!r}")

    def _rules(self) -> Iterator[Rule]:
        yield "top", self.top, "0 or more", self.top >= 0
        yield from at_least(1, seeds=self.seeds, steps=self.steps)
        factor = self.width_factor
        yield "width-factor", factor, "above 0 and at most 1", factor is None or 0 < factor <= 1
        yield from at_least(2, folds=self.folds)
        yield "margin", self.margin, "at least 0 and less than 1", self.margin is None or 0 <= self.margin < 1
        hours = self.max_hours
        yield "max-hours", hours, f"above 0 and at most {MAX_HOURS}", hours is None or 0 < hours <= MAX_HOURS

    @property
    def baseline_names(self) -> tuple[str, ...]:
        """The names of the baselines: the reference first, then the others in their order, each once."""
        named = [name.strip() for name in self.baselines.split(",") if name.strip()]
        return tuple(dict.fromkeys([REFERENCE, *named]))

    def request(self, search: SearchConfig, study: Path, fold: int | None) -> SearchConfig:
        """Return the search's request for the folder and the workers of these finals, or of one of their folds."""
        folder = study / self.name if fold is None else study / self.name / f"fold-{fold}"
        workers = {name: getattr(self, name) for name in ("gpus", "cpu_workers", "workers_per_gpu", "data")}
        told = {name: value for name, value in workers.items() if value is not None}
        told.setdefault("workers_per_gpu", search.fixed_workers_per_gpu)
        as_of_search = asdict(search)
        return SearchConfig(
            **{
                **as_of_search, **told, "cache": search.cache_folder, "out": folder.parent, "study": folder.name,
                "max_hours": self.max_hours, "deterministic": None, "storage": None,
            }
        )  # fmt: skip

    def stated(self) -> dict[str, Any]:
        """Return the options that a continuation must agree on; the number of seeds may grow."""
        fixed = ("top", "baselines", "steps", "width_factor", "plan", "equal_cost", "folds", "race")
        return {name: getattr(self, name) for name in fixed}
