"""The samplers by the names of ``--sampler``; Optuna is imported only when a sampler is made."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from unetx_search.samplers.constrained_sampler import SamplerOf


def made_by(name: str, **options: Any) -> SamplerOf:
    """Return a function that makes a sampler of a class, ``module:class``, from a seed and these options."""

    def make(seed: int) -> BaseSampler:
        sampler: BaseSampler = resolve_name(name)(seed=seed, **options)
        return sampler

    return make


SAMPLERS: Mapping[str, SamplerOf] = {
    "tpe": made_by("optuna.samplers:TPESampler", multivariate=True),
    "random": made_by("optuna.samplers:RandomSampler"),
}
