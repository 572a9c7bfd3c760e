"""What all trials of a study share: the fixed half of every design, the space, the budget, the limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unetx_space.architecture import Architecture
from unetx_space.canonical import canonical
from unetx_space.cost import cost
from unetx_space.presets import PRESETS
from unetx_space.validity import faults

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import Budget
    from unetx_space.backbone import Backbone
    from unetx_space.design_space import DesignSpace
    from unetx_space.genome import Genome


@dataclass(frozen=True, slots=True)
class Ground:
    """What all trials of a study share."""

    backbone: Backbone
    patch: tuple[int, ...]
    space: DesignSpace
    budget: Budget
    seed: int
    max_cost: float
    """In multiples of the U-Net preset's multiply-adds."""

    def architecture(self, genome: Genome) -> Architecture:
        """The full-size architecture of a genome, spelt canonically."""
        return Architecture(self.backbone, canonical(genome))

    def unet_macs(self) -> int:
        """What the cost limit is measured in."""
        return cost(self.architecture(PRESETS["u-net"].genome(self.backbone.n_levels)), self.patch).macs

    def admission(self) -> Callable[[Genome], bool]:
        """A predicate: the design is valid on this patch and inside the cost limit."""
        limit = self.max_cost * self.unet_macs()

        def is_admissible(genome: Genome) -> bool:
            architecture = self.architecture(genome)
            return not faults(architecture, self.patch) and cost(architecture, self.patch).macs <= limit

        return is_admissible
