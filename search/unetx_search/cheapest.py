"""The cheapest design that is as good as U-Net: costs are exact and gains are not, so this is often what lasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unetx_studies.shrinkage import PROBABILITY

if TYPE_CHECKING:
    from unetx_search.config import CheapBy
    from unetx_studies.ranking import Ranked, Ranking
    from unetx_studies.store import TrialRecord

COSTS: Mapping[CheapBy, str] = {"macs": "multiply-adds", "params": "parameters", "memory": "training memory"}
"""The costs of ``--cheap-by`` in words."""


class CostOf:
    """Computes the cost of a trial's design at full size; ``memory_of`` gives the bytes of a design by its key."""

    def __init__(self, by: CheapBy, memory_of: Callable[[str], int]) -> None:
        self._by = by
        self._memory_of = memory_of
        self._memory: dict[str, int] = {}

    def __call__(self, trial: TrialRecord) -> int:
        if self._by != "memory":
            return trial.macs if self._by == "macs" else trial.n_parameters
        if trial.key not in self._memory:
            self._memory[trial.key] = self._memory_of(trial.key)
        return self._memory[trial.key]


@dataclass(frozen=True, slots=True)
class Cheapest:
    """The cheapest design of a study that is as good as U-Net, or that none is known."""

    by: CheapBy
    margin: float
    design: Ranked | None = None
    """The cheapest of the designs that are not worse than U-Net by more than the margin; None where there is none."""
    share: float = 1.0
    """The design's cost as a share of U-Net's."""

    @property
    def facts(self) -> dict[str, Any]:
        """The facts for JSON, which ``cheapest_words`` puts into a sentence."""
        number = None if self.design is None else self.design.number
        share = None if self.design is None else self.share
        return {"trial": number, "cost": self.by, "share": share, "margin": self.margin, "probability": PROBABILITY}


def cheapest(
    ranking: Ranking, reference: str | None, by: CheapBy, margin: float, cost_of: Callable[[TrialRecord], float]
) -> Cheapest | None:
    """Find the cheapest design that is as good as the reference, by shrunken estimates; None without its score."""
    unet = ranking.get(reference)
    if ranking.shrinkage is None or unet is None:
        return None
    costs = {one.key: cost_of(one.first) for one in ranking.designs}
    found = ranking.get(ranking.shrinkage.cheapest(costs, unet.key, margin))
    return Cheapest(by, margin) if found is None else Cheapest(by, margin, found, costs[found.key] / costs[unet.key])


def cheapest_words(facts: Mapping[str, Any]) -> str:
    """Put the facts of a ``Cheapest`` into a sentence."""
    sure = f"not lower by more than {facts['margin']:g} Dice with {100 * facts['probability']:g} % probability"
    cost = COSTS[facts["cost"]]
    if facts["trial"] is None:
        return f"no design with less than U-Net's {cost} is known to be as good ({sure})"
    return f"trial {facts['trial']} is as good as U-Net at {100 * facts['share']:.3g} % of its {cost} ({sure})"
