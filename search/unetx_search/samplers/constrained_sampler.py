"""A wrapper of Optuna's samplers whose proposals are valid, affordable and new."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Container, Iterator
from typing import TYPE_CHECKING, Any

from optuna.samplers import BaseSampler

from unetx_studies.candidate import Candidate, Origin, OriginKind

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.trial import FrozenTrial

SamplerOf = Callable[[int], BaseSampler]
"""Makes a sampler from its seed."""
Admitted = Callable[["dict[str, Any]", Origin, str], Candidate | None]
"""Returns the design of genes; None where it is invalid or too expensive."""


class ConstrainedSampler:
    """Proposes designs by any Optuna sampler that are valid, affordable and new.

    Every trial gets a sampler of its own, seeded by (seed, trial number): what it proposes is a function of these and
    of the trials it is shown, and nothing is lost when the process ends. It is asked for all genes jointly from the
    first trial on, so that a sampler which learns from joint samples never waits for an intersection. A proposal that
    is not ``admitted`` or known already is drawn again, at most ``n_redraws`` times; then a random new design takes
    its place. Random draws come from (seed, trial number), so they do not depend on what was drawn before.
    """

    def __init__(
        self,
        sampler_of: SamplerOf,
        genes: dict[str, CategoricalDistribution],
        admitted: Admitted,
        *,
        seed: int,
        n_redraws: int = 20,
        n_random: int = 200,
    ) -> None:
        self._sampler_of = sampler_of
        self._genes = genes
        self._admitted = admitted
        self._seed = seed
        self._n_redraws = n_redraws
        self._n_random = n_random

    def propose(self, study: Study, trial: FrozenTrial, seen: Container[str]) -> Candidate | None:
        """Return the first admissible draw whose key is not in ``seen``; None where no random draw was new, either.

        Raises RuntimeError when no draw is admissible.
        """
        is_any_admissible = False
        refused: Counter[str] = Counter()
        draws = (
            (Origin(kind), params)
            for kind, source in (
                (OriginKind.SAMPLER, self._proposals(study, trial)),
                (OriginKind.RANDOM, self.random(trial.number)),
            )
            for params in source
        )
        for origin, params in draws:
            candidate = self._admitted(params, origin, _reason(origin.kind, refused))
            if candidate is None:
                refused["invalid or too expensive"] += 1
            elif candidate.key in seen:
                refused["known already"] += 1
                is_any_admissible = True
            else:
                return candidate
        if is_any_admissible:
            return None
        raise RuntimeError(
            f"none of {self._n_redraws + self._n_random} designs drawn for trial {trial.number} is admissible; "
            "the cost limit leaves next to nothing of the design space"
        )

    def _proposals(self, study: Study, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
        """What the wrapped sampler proposes; nothing while it has too little to learn from.

        Genes that it leaves out of a joint proposal, as evolutionary samplers do with those they mutate, are asked for
        one by one, as Optuna does.
        """
        single = {name: gene.choices[0] for name, gene in self._genes.items() if gene.single()}
        learnable: dict[str, BaseDistribution] = {
            name: gene for name, gene in self._genes.items() if name not in single
        }
        sampler = self._sampler_of(trial_seed(self._seed, trial.number))
        for _ in range(self._n_redraws):
            params = sampler.sample_relative(study, trial, learnable)
            if learnable and not params:
                return
            missing = [name for name in learnable if name not in params]
            rest = {name: sampler.sample_independent(study, trial, name, learnable[name]) for name in missing}
            yield {**single, **params, **rest}

    def random(self, trial_number: int) -> Iterator[dict[str, Any]]:
        """Draw genes at random for a trial."""
        rng = random.Random(f"{self._seed}:{trial_number}")
        for _ in range(self._n_random):
            yield {name: rng.choice(gene.choices) for name, gene in self._genes.items()}


def trial_seed(seed: int, trial_number: int) -> int:
    """Return a seed of 32 bits for a trial of a study."""
    digest = hashlib.blake2b(f"{seed}:{trial_number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def _reason(kind: OriginKind, refused: Counter[str]) -> str:
    """One sentence for the decision log."""
    told = {OriginKind.SAMPLER: "proposed by the sampler", OriginKind.RANDOM: "drawn at random"}[kind]
    draws = ", ".join(f"{n} {why}" for why, n in sorted(refused.items()))
    return f"{told} after other draws ({draws})" if draws else told
