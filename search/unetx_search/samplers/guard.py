"""What a sampler proposes becomes valid, affordable and new, or is drawn again."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from unetx_space.design_space import DesignSpace
    from unetx_space.genome import Genome

ORIGIN = "unetx:origin"
"""User attribute of a trial: where its genome came from (``sampler``, ``random``, ``replicate``, a preset, or the
replicate of a preset)."""

SamplerOf = Callable[[int], BaseSampler]
"""Makes a sampler from its seed."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the guard chose for a trial, and why."""

    trial: int
    params: dict[str, Any]
    origin: str
    reason: str


class Guard(BaseSampler):
    """Wraps any Optuna sampler.

    Every trial gets a sampler of its own, seeded by (seed, trial number): what it proposes is a function of these and
    of the trials it is shown, and nothing is lost when the process ends. The whole search space is named from the
    first trial on, so that a sampler which learns from joint samples never waits for an intersection. A proposal that
    ``is_admissible`` refuses (invalid or too dear) or that ``is_new`` knows already is drawn again, at most
    ``n_redraws`` times; then a random new design takes its place, and when ``n_random`` random draws give nothing new,
    an admissible design that was seen before: a replicate, which the coordinator evaluates with another seed.

    Parameters that a trial holds already (enqueued presets, or a trial that a crash left half asked) are kept and
    only the rest is drawn. Random draws come from (seed, trial number), so they do not depend on what was drawn
    before.
    """

    def __init__(
        self,
        sampler_of: SamplerOf,
        space: DesignSpace,
        *,
        is_admissible: Callable[[Genome], bool],
        is_new: Callable[[Genome], bool],
        seed: int,
        n_redraws: int = 20,
        n_random: int = 200,
    ) -> None:
        self._sampler_of = sampler_of
        self._space = space
        self._is_admissible = is_admissible
        self._is_new = is_new
        self._seed = seed
        self._n_redraws = n_redraws
        self._n_random = n_random
        self._distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(choices) for name, choices in space.genes.items()
        }
        self._learnable = {name: d for name, d in self._distributions.items() if not d.single()}

        self._latest: Proposal | None = None

    def why(self, trial_number: int) -> str:
        """Why the trial has its genome; empty when it is not the one proposed last."""
        latest = self._latest
        return latest.reason if latest is not None and latest.trial == trial_number else ""

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every gene as Optuna knows it."""
        return self._distributions

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        given = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if self._distributions.keys() <= given.keys():
            return given
        proposal = self._latest = self._choose(study, trial, given)
        if ORIGIN not in trial.user_attrs:
            study._storage.set_trial_user_attr(trial._trial_id, ORIGIN, proposal.origin)
            trial.user_attrs[ORIGIN] = proposal.origin  # what the asking trial holds in memory
        return proposal.params

    def _choose(self, study: Study, trial: FrozenTrial, given: dict[str, Any]) -> Proposal:
        """The first admissible and new draw; else a replicate."""
        seen_before = None
        refused: Counter[str] = Counter()
        draws = (
            (origin, {**params, **given})
            for origin, source in (("sampler", self._proposals(study, trial)), ("random", self._random(trial)))
            for params in source
        )
        for origin, params in draws:
            genome = self._space.from_params(params)
            if not self._is_admissible(genome):
                refused["invalid or too dear"] += 1
                continue
            if self._is_new(genome):
                return Proposal(trial.number, params, origin, _reason(origin, refused, given))
            refused["known already"] += 1
            seen_before = seen_before or params
        if seen_before is None:
            raise RuntimeError(
                f"none of {self._n_redraws + self._n_random} designs drawn for trial {trial.number} is admissible; "
                "the cost limit leaves next to nothing of the design space"
            )
        return Proposal(trial.number, seen_before, "replicate", _reason("replicate", refused, given))

    def _proposals(self, study: Study, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
        """What the wrapped sampler proposes; nothing while it has too little to learn from."""
        single = {name: d.choices[0] for name, d in self._categoricals() if d.single()}
        sampler = self._sampler_of(trial_seed(self._seed, trial.number))
        for _ in range(self._n_redraws):
            params = sampler.sample_relative(study, trial, self._learnable)
            if params.keys() != self._learnable.keys():
                return
            yield {**single, **params}

    def _random(self, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
        rng = random.Random(f"{self._seed}:{trial.number}")
        for _ in range(self._n_random):
            yield {name: rng.choice(d.choices) for name, d in self._categoricals()}

    def _categoricals(self) -> Iterator[tuple[str, CategoricalDistribution]]:
        for name, distribution in self._distributions.items():
            assert isinstance(distribution, CategoricalDistribution)
            yield name, distribution

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name}: every gene is drawn jointly, none on its own")

    def reseed_rng(self) -> None:
        """Nothing to do: every draw is seeded by its trial."""


def trial_seed(seed: int, trial_number: int) -> int:
    """A seed of 32 bits for one trial of a study."""
    digest = hashlib.blake2b(f"{seed}:{trial_number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def _reason(origin: str, refused: Counter[str], given: dict[str, Any]) -> str:
    """One sentence for the decision log."""
    told = {
        "sampler": "proposed by the sampler",
        "random": "drawn at random",
        "replicate": "nothing new was found, so a known design is tried with another seed",
    }[origin]
    draws = ", ".join(f"{n} {why}" for why, n in sorted(refused.items()))
    kept = f"; {len(given)} genes were given" if given else ""
    return f"{told}{f' after other draws ({draws})' if draws else ''}{kept}"
