"""The constrained sampler: whatever a sampler proposes, a trial gets a valid, affordable and new genome."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial
from trial_records import record

from unetx_search.sampler_study import SamplerStudy
from unetx_search.samplers.constrained_sampler import ConstrainedSampler
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.canonical import canonical, key
from unetx_space.cost import Cost
from unetx_space.design_space import DesignSpace, attention_genes, n_designs
from unetx_space.genome import Genome, encoder
from unetx_space.presets import PRESETS
from unetx_studies.candidate import Candidate, Origin

SPACE = DesignSpace(4)
TINY = DesignSpace(
    2, attentions=attention_genes(("none",)), upsamplers=("linear", "transposed"), fusions=("sum",), alignments=("max",)
)
"""One node, one possible source, two upsamplers: four designs."""


class Stubborn(BaseSampler):
    """Proposes the same genome for ever."""

    def __init__(self, genome: Genome) -> None:
        self.params = dict(SPACE.to_params(genome))
        self.n_asked = 0

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.n_asked += 1
        return {name: self.params[name] for name in search_space}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, *args: Any) -> Any:
        raise AssertionError("not needed")


def anything(_: Genome) -> bool:
    return True


class Bench:
    """A sampler that fills a study, and what it has proposed."""

    def __init__(
        self,
        inner: BaseSampler,
        *,
        space: DesignSpace = SPACE,
        is_admissible: Callable[[Genome], bool] = anything,
        seed: int = 0,
    ) -> None:
        self.space, self.is_admissible = space, is_admissible
        genes = {name: CategoricalDistribution(choices) for name, choices in space.genes.items()}
        self.study = SamplerStudy("s", genes, NopPruner())
        self.sampler = ConstrainedSampler(lambda _: inner, genes, self.admitted, seed=seed)
        self.seen: set[str] = set()

    def admitted(self, params: Mapping[str, Any], origin: Origin, reason: str) -> Candidate | None:
        genome = canonical(self.space.from_params(params))
        architecture = Architecture(isotropic_backbone(2, n_levels=self.space.n_levels), genome)
        if not self.is_admissible(genome):
            return None
        return Candidate(architecture, key(architecture), Cost(0, 0, 0), params, origin, reason)

    def propose(self) -> Candidate:
        asked = self.study.ask()
        candidate = self.sampler.propose(self.study.study, asked, self.seen)
        assert candidate is not None
        self.study.set_params(asked.number, candidate.params, candidate.origin)
        return candidate

    def propose_all(self, n: int) -> list[Candidate]:
        candidates = []
        for number in range(n):
            candidates.append(self.propose())
            self.seen.add(candidates[-1].key)
            self.study.end(record(number, candidates[-1].key, number / n))
        return candidates


def origins(candidates: Sequence[Candidate]) -> list[str]:
    return [str(candidate.origin) for candidate in candidates]


@pytest.mark.parametrize("inner", [TPESampler(seed=0, n_startup_trials=3), RandomSampler(seed=0)])
def test_genomes_are_admissible_and_new(inner: BaseSampler) -> None:
    def has_no_top_skip(genome: Genome) -> bool:
        return all(encoder(0) not in node.sources for node in genome.nodes if node.ref.level == 0)

    candidates = Bench(inner, is_admissible=has_no_top_skip).propose_all(25)
    genomes = [candidate.architecture.genome for candidate in candidates]
    assert all(map(has_no_top_skip, genomes))
    assert len(set(genomes)) == len({candidate.key for candidate in candidates}) == 25


def test_the_whole_space_is_named_from_the_first_trial() -> None:
    bench = Bench(TPESampler(seed=0))
    assert bench.propose().params.keys() == SPACE.genes.keys()
    assert bench.study.study.trials[0].params.keys() == SPACE.genes.keys()


def test_tpe_is_in_charge_after_its_start() -> None:
    candidates = Bench(TPESampler(seed=0, n_startup_trials=4)).propose_all(8)
    assert origins(candidates) == ["random"] * 4 + ["sampler"] * 4


def test_genes_that_an_evolutionary_sampler_mutates_are_asked_for_one_by_one() -> None:
    evolution = NSGAIISampler(seed=0, population_size=4, mutation_prob=0.5)
    assert origins(Bench(evolution).propose_all(12)) == ["random"] * 4 + ["sampler"] * 8


def test_a_sampler_that_repeats_itself_is_replaced_after_a_bounded_number_of_redraws() -> None:
    stubborn = Stubborn(PRESETS["u-net"].genome(4))
    first, second = Bench(stubborn).propose_all(2)
    assert first.architecture.genome == canonical(PRESETS["u-net"].genome(4))
    assert second.key != first.key
    assert stubborn.n_asked == 1 + 20
    assert origins([first, second]) == ["sampler", "random"]
    assert second.reason == "drawn at random after other draws (20 known already)"


def test_when_every_design_was_seen_nothing_is_proposed() -> None:
    bench = Bench(RandomSampler(seed=0), space=TINY)
    candidates = bench.propose_all(4)
    assert n_designs(TINY) == 4 == len({candidate.key for candidate in candidates})
    assert bench.sampler.propose(bench.study.study, bench.study.ask(), bench.seen) is None


def test_when_nothing_is_admissible_the_cost_limit_is_named() -> None:
    with pytest.raises(RuntimeError, match="cost limit"):
        Bench(RandomSampler(seed=0), is_admissible=lambda genome: False).propose()


def test_the_same_seed_proposes_the_same_genomes() -> None:
    runs = [Bench(TPESampler(seed=1, n_startup_trials=3), seed=7).propose_all(8) for _ in range(2)]
    assert [c.key for c in runs[0]] == [c.key for c in runs[1]]


def test_random_draws_do_not_depend_on_what_was_drawn_before() -> None:
    sampler = Bench(RandomSampler(seed=0), seed=3).sampler
    first = next(sampler.random(0))
    random.seed(1)
    assert next(sampler.random(0)) == first
