"""Who competes in finals: the search's best designs, and published ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from unetx_space.architecture import Architecture
from unetx_space.canonical import canonical, key
from unetx_space.cost import Cost, cost
from unetx_space.documents import loads
from unetx_space.presets import PRESETS
from unetx_space.validity import faults
from unetx_studies.candidate import Candidate, Origin, OriginKind

if TYPE_CHECKING:
    from unetx_search.finals.config import FinalsConfig
    from unetx_search.finals.search_results import SearchResults
    from unetx_space.backbone import Backbone
    from unetx_space.genome import Genome

EQUAL = 0.05
"""How far a design's cost may be from the reference's after its width was adapted."""
N_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class Entrant:
    """A design that competes."""

    name: str
    """The name of the design, such as ``trial-12``, or of a preset."""
    trial: int | None
    """The first trial of the search that evaluated the design; None for a baseline."""
    architecture: Architecture
    """The full-size architecture on the backbone of the finals' task."""
    width_factor: float

    @property
    def is_candidate(self) -> bool:
        return self.trial is not None

    @property
    def trained(self) -> Architecture:
        """The architecture at the width that is trained."""
        return replace(self.architecture, backbone=self.architecture.backbone.scaled(self.width_factor))

    def trained_cost(self, patch: tuple[int, ...]) -> Cost:
        """Return the cost of the trained architecture for one patch."""
        return cost(self.trained, patch)

    def candidate(self, patch: tuple[int, ...], reason: str) -> Candidate:
        """Return the design as the candidate of a trial."""
        origin = Origin(OriginKind.FINALIST, trial=self.trial) if self.is_candidate else None
        return Candidate(
            self.architecture,
            key(self.architecture),
            cost(self.architecture, patch),
            {GENE: self.name},
            origin or Origin(OriginKind.PRESET, self.name),
            reason,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "trial": self.trial, "architecture": self.architecture.dumps(),
            "width_factor": self.width_factor,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(data["name"], data["trial"], loads(data["architecture"]), data["width_factor"])


GENE = "design"
"""The only parameter of a final's trial in Optuna's tables: the design's name."""


@dataclass(frozen=True, slots=True)
class Lineup:
    """The designs that compete in finals, the reference among them."""

    entrants: tuple[Entrant, ...]
    left_out: tuple[str, ...]
    """Why designs that were asked for do not compete, a sentence each."""


def choose_lineup(
    search: SearchResults, config: FinalsConfig, backbone: Backbone, patch: tuple[int, ...], width_factor: float
) -> Lineup:
    """Choose who competes: the search's best designs, its cheapest that is as good as U-Net, and the baselines.

    What does not fit the backbone, and with ``--equal-cost`` what no width makes cost what the reference does, is left
    out with a reason.
    """
    left_out: list[str] = []
    entrants: list[Entrant] = []

    def enter(name: str, trial: int | None, genome: Genome) -> None:
        architecture = Architecture(backbone, canonical(genome))
        if problems := faults(architecture, patch):
            left_out.append(f"{name} does not fit: {'; '.join(map(str, problems))}")
        elif any(key(one.architecture) == key(architecture) for one in entrants):
            left_out.append(f"{name} is the same design as another one here")
        else:
            entrants.append(Entrant(name, trial, architecture, width_factor))

    for name in config.baseline_names:
        enter(name, None, PRESETS[name].genome(backbone.n_levels))
    known = {key(one.architecture) for one in entrants}
    others = [one for one in search.ranking.designs if one.key not in known]
    cheapest = [one for one in others[config.top :] if one.key == search.cheapest and config.top > 0]
    for one in [*others[: config.top], *cheapest]:
        enter(f"trial-{one.number}", one.number, search.genomes[one.key])
    if config.equal_cost:
        entrants = list(_as_wide_as_it_takes(entrants, patch, left_out))
    candidates, given = [e for e in entrants if e.is_candidate], [e for e in entrants if not e.is_candidate]
    return Lineup((*candidates, *given), tuple(left_out))


def _as_wide_as_it_takes(entrants: Sequence[Entrant], patch: tuple[int, ...], left_out: list[str]) -> Iterable[Entrant]:
    """Yield each with the width at which it costs as much as the first, the reference, found by halving an interval."""
    aim = entrants[0].trained_cost(patch).macs
    yield entrants[0]
    for entrant in entrants[1:]:
        low, high = 0.0, 4.0 * entrant.width_factor
        for _ in range(N_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if _macs(entrant, middle, patch) <= aim else (low, middle)
        found = min((low, high), key=lambda factor: abs(_macs(entrant, factor, patch) - aim))
        apart = _macs(entrant, found, patch) / aim - 1.0
        if abs(apart) <= EQUAL:
            yield replace(entrant, width_factor=found)
        else:
            left_out.append(f"{entrant.name} costs {apart:+.0%} of the reference at the nearest width")


def _macs(entrant: Entrant, width_factor: float, patch: tuple[int, ...]) -> int:
    return replace(entrant, width_factor=width_factor).trained_cost(patch).macs
