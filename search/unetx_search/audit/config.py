"""The options of an audit; nothing heavy is imported here.

Annotations are not postponed, as in ``data_choices.py``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from cyclopts import Parameter

from unetx_search.config import MARGIN, CheapBy, Diagnosis, SearchConfig
from unetx_search.data_choices import Rule, check_rules

MIN_DESIGNS = 5
"""Designs of an audit, at least: one may fail, and four still have a rank correlation."""
MAX_SEEDS = 1000
AUDIT = "-audit"
"""The ending of the name of a study that is an audit."""
NotAnOption = Parameter(parse=False, show=False)
"""Marks fields that an audit fixes, as it proposes nothing, stops nothing early and trains nothing again."""


@dataclass(frozen=True, kw_only=True)
class AuditConfig(SearchConfig):
    """The options of an audit, as its user gave them: mostly those of a search on the same data."""

    trials: Annotated[int, NotAnOption] = field(default=1, init=False)
    sampler: Annotated[str, NotAnOption] = field(default="random", init=False)
    pruner: Annotated[Literal["none"], NotAnOption] = field(default="none", init=False)
    reseed: Annotated[float, NotAnOption] = field(default=0.0, init=False)
    cheap_by: Annotated[CheapBy, NotAnOption] = field(default="macs", init=False)
    deterministic: Annotated[int | None, NotAnOption] = field(default=None, init=False)
    diagnosis: Annotated[Diagnosis, NotAnOption] = field(default="all", init=False)
    workers_per_gpu: int = 1
    """Worker processes that share one GPU."""
    steps: int | None = None
    """Training steps to which half and twice as many are compared. Those of a search by default."""
    margin: float = MARGIN
    """Dice that a choice by fewer steps may be expected to lose and still count as being as good."""
    designs: int = 12
    """Designs to train: U-Net, the net without skips, and a sample by cost and by numbers of skips and operators."""
    seeds: int = 2
    """Trainings of each design with each number of steps, and as a reference."""
    longer: int = 8
    """Times as many steps as a search's a reference is trained for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rules(self._audit_rules())

    def _audit_rules(self) -> Iterator[Rule]:
        yield "designs", self.designs, f"at least {MIN_DESIGNS}", self.designs >= MIN_DESIGNS
        yield "steps", self.steps, "at least 2, as half of them are tried, too", self.steps is None or self.steps >= 2
        yield "seeds", self.seeds, f"1 to {MAX_SEEDS}", 1 <= self.seeds <= MAX_SEEDS
        yield "longer", self.longer, "at least 3, as the longest proxy trains for twice the steps", self.longer >= 3

    @property
    def study_name(self) -> str:
        """The name of the study, which differs from that of a search of the same data."""
        return super().study_name + AUDIT

    @property
    def stated(self) -> dict[str, int]:
        """The options that a continuation of an audit must agree on, beside those of a search."""
        return {"designs": self.designs, "seeds": self.seeds, "longer": self.longer}
