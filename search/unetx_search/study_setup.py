"""What all trials of a study share: backbone, patch, design space, budget, seed and cost limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from optuna.distributions import CategoricalDistribution

from unetx_search.config import FIRST_PRESETS
from unetx_search.reseeding import n_replicates
from unetx_space.architecture import Architecture
from unetx_space.canonical import canonical, key
from unetx_space.cost import cost
from unetx_space.design_space import adapted
from unetx_space.presets import PRESETS
from unetx_space.validity import faults
from unetx_studies.candidate import Candidate, Origin, OriginKind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from unetx_evaluators.evaluation import Budget
    from unetx_space.backbone import Backbone
    from unetx_space.cost import Cost
    from unetx_space.design_space import DesignSpace
    from unetx_space.genome import Genome
    from unetx_studies.store import TrialRecord

MIN_SEEDS = 64
"""Seeds in the shared list, at least: as many as the last contenders of a large study have."""


@dataclass(frozen=True)
class StudySetup:
    """What all trials of a study share, and the designs that it begins with."""

    backbone: Backbone
    patch: tuple[int, ...]
    space: DesignSpace
    budget: Budget
    seed: int
    max_cost: float
    """The cost limit in multiples of the U-Net preset's multiply-adds."""

    def architecture(self, genome: Genome) -> Architecture:
        """Return the full-size architecture of a genome in its canonical form."""
        return Architecture(self.backbone, canonical(genome))

    @cached_property
    def u_net(self) -> Architecture:
        """The architecture of the preset U-Net, in whose costs the limit is given."""
        return self.architecture(PRESETS["u-net"].genome(self.backbone.n_levels))

    @cached_property
    def max_macs(self) -> float:
        """The cost limit in multiply-adds."""
        return self.max_cost * cost(self.u_net, self.patch).macs

    def affordable(self, genome: Genome) -> tuple[Architecture, Cost] | None:
        """Return a genome's architecture with its cost; None where it is invalid on this patch or too expensive."""
        architecture = self.architecture(genome)
        if faults(architecture, self.patch):
            return None
        full = cost(architecture, self.patch)
        return (architecture, full) if full.macs <= self.max_macs else None

    def admitted(self, params: Mapping[str, Any], origin: Origin, reason: str) -> Candidate | None:
        """Return the design of these genes; None where it is invalid or too expensive."""
        found = self.affordable(self.space.from_params(params))
        return None if found is None else Candidate(found[0], key(found[0]), found[1], params, origin, reason)

    @cached_property
    def genes(self) -> dict[str, CategoricalDistribution]:
        """The genes of the space as Optuna's distributions, by name."""
        return {name: CategoricalDistribution(choices) for name, choices in self.space.genes.items()}

    @cached_property
    def n_given(self) -> int:
        """The number of designs that a study begins with."""
        return sum(1 for _ in self.given())

    def n_replicates(self, n_trials: int, share: float) -> int:
        """Return how many of so many trials are replicates."""
        return n_replicates(n_trials, share, self.n_given)

    @cached_property
    def u_net_key(self) -> str:
        """The key of the design that stands for U-Net, which a narrowed space may have adapted."""
        return next(self.given()).key

    def seeds(self, n_trials: int) -> range:
        """Return the list of seeds that all designs share, in the order in which they are used."""
        return range(self.seed, self.seed + max(n_trials, MIN_SEEDS))

    def given(self) -> Iterator[Candidate]:
        """Yield the designs that a study begins with, to which the cost limit does not apply.

        These are presets; in a narrowed space they get the nearest choices that there are, and are called adapted.
        """
        known: list[Mapping[str, Any]] = []
        for name in FIRST_PRESETS:
            genome = canonical(PRESETS[name].genome(self.backbone.n_levels))
            params = adapted(self.space, genome)
            if params not in known:
                known.append(params)
                nearest = canonical(self.space.from_params(params))
                architecture = Architecture(self.backbone, nearest)
                origin = Origin(OriginKind.PRESET, name, is_adapted=nearest != genome)
                full = cost(architecture, self.patch)
                yield Candidate(architecture, key(architecture), full, params, origin, f"{origin}: given, not proposed")

    def repeated(self, first: TrialRecord, architecture: Architecture, reason: str) -> Candidate:
        """Return the design of an earlier trial for another seed."""
        origin = replace(first.origin, kind=OriginKind.REPLICATE, trial=first.number)
        return Candidate(architecture, first.key, cost(architecture, self.patch), first.params, origin, reason)
