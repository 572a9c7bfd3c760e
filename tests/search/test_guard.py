"""The guard: whatever a sampler proposes, a trial gets a valid, affordable and new genome."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from unetx_search.samplers.guard import ORIGIN, Guard
from unetx_space.canonical import canonical
from unetx_space.design_space import DesignSpace, attention_genes, n_designs
from unetx_space.genome import Genome, encoder
from unetx_space.presets import PRESETS

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


def study_with(
    inner: BaseSampler,
    *,
    space: DesignSpace = SPACE,
    is_admissible: Callable[[Genome], bool] = anything,
    is_new: Callable[[Genome], bool] = anything,
    seed: int = 0,
) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    study.sampler = Guard(lambda _: inner, space, is_admissible=is_admissible, is_new=is_new, seed=seed)
    return study


def remembering() -> tuple[Callable[[Genome], bool], Callable[[Genome], None]]:
    """A predicate for new designs, and how to tell it of one."""
    seen: set[Genome] = set()
    return (lambda genome: canonical(genome) not in seen), (lambda genome: seen.add(canonical(genome)))


def ask_all(
    study: optuna.Study, n: int, note: Callable[[Genome], None], space: DesignSpace = SPACE
) -> Sequence[Genome]:
    genomes = []
    for number in range(n):
        trial = study.ask()
        genomes.append(space.suggest(trial))
        note(genomes[-1])
        study.tell(trial, number / n)
    return genomes


@pytest.mark.parametrize("inner", [TPESampler(seed=0, n_startup_trials=3), RandomSampler(seed=0)])
def test_genomes_are_admissible_and_new(inner: BaseSampler) -> None:
    is_new, note = remembering()

    def has_no_top_skip(genome: Genome) -> bool:
        return all(encoder(0) not in node.sources for node in genome.nodes if node.ref.level == 0)

    study = study_with(inner, is_admissible=has_no_top_skip, is_new=is_new)
    genomes = ask_all(study, 25, note)
    assert all(map(has_no_top_skip, genomes))
    assert len({canonical(genome) for genome in genomes}) == 25


def test_the_whole_space_is_named_from_the_first_trial() -> None:
    study = study_with(TPESampler(seed=0))
    trial = study.ask()
    SPACE.suggest(trial)
    assert trial.params.keys() == SPACE.genes.keys()
    assert trial.relative_params.keys() == SPACE.genes.keys()


def test_tpe_is_in_charge_after_its_start() -> None:
    study = study_with(TPESampler(seed=0, n_startup_trials=4))
    ask_all(study, 8, lambda genome: None)
    assert [trial.user_attrs[ORIGIN] for trial in study.trials] == ["random"] * 4 + ["sampler"] * 4


def test_a_sampler_that_repeats_itself_is_replaced_after_a_bounded_number_of_redraws() -> None:
    is_new, note = remembering()
    stubborn = Stubborn(PRESETS["u-net"].genome(4))
    study = study_with(stubborn, is_new=is_new)
    first, second = ask_all(study, 2, note)
    assert first == PRESETS["u-net"].genome(4)
    assert second != first
    assert stubborn.n_asked == 1 + 20
    assert [trial.user_attrs[ORIGIN] for trial in study.trials] == ["sampler", "random"]


def test_when_every_design_was_seen_a_trial_is_a_replicate() -> None:
    is_new, note = remembering()
    study = study_with(RandomSampler(seed=0), space=TINY, is_new=is_new)
    genomes = ask_all(study, 6, note, TINY)
    assert n_designs(TINY) == 4
    assert len({canonical(genome) for genome in genomes[:4]}) == 4
    assert [trial.user_attrs[ORIGIN] for trial in study.trials[4:]] == ["replicate", "replicate"]


def test_when_nothing_is_admissible_the_cost_limit_is_named() -> None:
    study = study_with(RandomSampler(seed=0), is_admissible=lambda genome: False)
    with pytest.raises(RuntimeError, match="cost limit"):
        SPACE.suggest(study.ask())


def test_an_enqueued_preset_is_kept_whatever_the_sampler_says() -> None:
    study = study_with(RandomSampler(seed=0), is_admissible=lambda genome: False)
    study.enqueue_trial(dict(SPACE.to_params(PRESETS["u-net"].genome(4))), user_attrs={ORIGIN: "preset u-net"})
    trial = study.ask()
    assert SPACE.suggest(trial) == PRESETS["u-net"].genome(4)
    assert study.trials[0].user_attrs[ORIGIN] == "preset u-net"


def test_a_half_asked_trial_keeps_what_it_has_and_becomes_admissible() -> None:
    def has_deep_skip(genome: Genome) -> bool:
        return any(encoder(2) in node.sources for node in genome.nodes if node.ref.level == 1)

    study = study_with(TPESampler(seed=0), is_admissible=has_deep_skip)
    trial = study.ask()
    given = {"D2.E0": True, "D2.E1": False, "D2.attention": "eca@block"}
    for name, value in given.items():
        study._storage.set_trial_param(
            trial._trial_id,
            name,
            SPACE_DISTRIBUTIONS[name].to_internal_repr(value),
            SPACE_DISTRIBUTIONS[name],
        )
    again = optuna.trial.Trial(study, trial._trial_id)
    genome = SPACE.suggest(again)
    assert {name: again.params[name] for name in given} == given
    assert has_deep_skip(genome)


SPACE_DISTRIBUTIONS = Guard(RandomSampler, SPACE, is_admissible=anything, is_new=anything, seed=0).distributions


def test_the_same_seed_proposes_the_same_genomes() -> None:
    runs = [ask_all(study_with(TPESampler(seed=1, n_startup_trials=3), seed=7), 8, lambda g: None) for _ in range(2)]
    assert runs[0] == runs[1]


def test_random_draws_do_not_depend_on_what_was_drawn_before() -> None:
    guard = Guard(RandomSampler, SPACE, is_admissible=anything, is_new=anything, seed=3)
    trial = optuna.trial.create_trial(state=TrialState.RUNNING)
    first = next(guard._random(trial))
    random.seed(1)
    assert next(guard._random(trial)) == first
