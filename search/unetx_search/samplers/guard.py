"""What a sampler proposes becomes valid, affordable and new, or is drawn again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, TrialState

    from unetx_space.design_space import DesignSpace
    from unetx_space.genome import Genome

ORIGIN = "unetx:origin"
"""User attribute of a trial: where its genome came from (``sampler``, ``random``, ``replicate`` or a preset)."""


class Guard(BaseSampler):
    """Wraps any Optuna sampler.

    The whole search space is named from the first trial on, so that a sampler which learns from joint samples never
    waits for an intersection. A proposal that ``is_admissible`` refuses (invalid or too dear) or that ``is_new``
    knows already is drawn again, at most ``n_redraws`` times; then a random new design takes its place, and when
    ``n_random`` random draws give nothing new, an admissible design that was seen before: a replicate, which the
    coordinator evaluates with another seed.

    Parameters that a trial holds already (enqueued presets, or a trial that a crash left half asked) are kept and
    only the rest is drawn. Random draws come from (seed, trial number), so they do not depend on what was drawn
    before.
    """

    def __init__(
        self,
        inner: BaseSampler,
        space: DesignSpace,
        *,
        is_admissible: Callable[[Genome], bool],
        is_new: Callable[[Genome], bool],
        seed: int,
        n_redraws: int = 20,
        n_random: int = 200,
    ) -> None:
        self._inner = inner
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

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every gene as Optuna knows it."""
        return self._distributions

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._inner.infer_relative_search_space(study, trial)  # some samplers prepare themselves here
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        given = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if self._distributions.keys() <= given.keys():
            return given
        params, origin = self._choose(study, trial, given)
        if ORIGIN not in trial.user_attrs:
            study._storage.set_trial_user_attr(trial._trial_id, ORIGIN, origin)
            trial.user_attrs[ORIGIN] = origin  # what the asking trial holds in memory
        return params

    def _choose(self, study: Study, trial: FrozenTrial, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The first admissible and new draw with its origin; else a replicate."""
        seen_before = None
        draws = (
            (origin, {**params, **given})
            for origin, source in (("sampler", self._proposals(study, trial)), ("random", self._random(trial)))
            for params in source
        )
        for origin, params in draws:
            genome = self._space.from_params(params)
            if not self._is_admissible(genome):
                continue
            if self._is_new(genome):
                return params, origin
            seen_before = seen_before or params
        if seen_before is None:
            raise RuntimeError(
                f"none of {self._n_redraws + self._n_random} designs drawn for trial {trial.number} is admissible; "
                "the cost limit leaves next to nothing of the design space"
            )
        return seen_before, "replicate"

    def _proposals(self, study: Study, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
        """What the wrapped sampler proposes; nothing while it has too little to learn from."""
        single = {name: d.choices[0] for name, d in self._categoricals() if d.single()}
        for _ in range(self._n_redraws):
            params = self._inner.sample_relative(study, trial, self._learnable)
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

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()
