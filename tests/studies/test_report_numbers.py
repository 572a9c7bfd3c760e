"""The numbers of a report, on made-up studies with known effects and with none."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from unetx_evaluators.evaluation import Budget, CurvePoint, Outcome
from unetx_space.canonical import canonical
from unetx_space.design_space import design_space
from unetx_space.genome import Attention, Genome
from unetx_space.presets import PRESETS
from unetx_studies.candidate import Origin, OriginKind
from unetx_studies.ranking import Ranked
from unetx_studies.report.figures import curves_figure
from unetx_studies.report.numbers import (
    CROSS_LEVEL,
    Frequency,
    effects,
    operator_frequencies,
    pareto_front,
    progress,
    skip_frequencies,
)
from unetx_studies.store import TrialRecord

BUDGET = Budget(steps=6, batch_size=1, width_factor=0.25, rungs=(6,), validation_cases=3)


def trial(number: int, key: str, score: float, seed: int = 0) -> TrialRecord:
    return TrialRecord(
        number=number, key=key, params={}, origin=Origin(OriginKind.RANDOM), why="", n_parameters=1, macs=1, seed=seed,
        budget=BUDGET, asked_at=datetime(2026, 1, 1, tzinfo=UTC), outcome=Outcome.COMPLETE, score=score,
    )  # fmt: skip


def ranked(scores: dict[str, float]) -> list[Ranked]:
    return [Ranked((trial(n, key, score),), score, 0.001) for n, (key, score) in enumerate(scores.items())]


def made_up(n: int, seed: int, worth: float = 0.0, noise: float = 0.004) -> tuple[list[Ranked], dict[str, Genome]]:
    """Random designs whose Dice rises by ``worth`` when all nodes have SE instead of none; and by nothing else."""
    rng, space = random.Random(seed), design_space("default", 4)
    genomes: dict[str, Genome] = {}
    while len(genomes) < n:
        genome = canonical(space.sample(rng))
        if any(node.sources for node in genome.nodes):
            genomes[f"d{len(genomes)}"] = genome
    drawn = np.random.default_rng(seed)
    scores = {}
    for key, genome in genomes.items():
        share = np.mean([node.attention.type == "se" for node in genome.nodes])
        scores[key] = 0.8 + worth * float(share) + noise * float(drawn.standard_normal())
    return sorted(ranked(scores), key=lambda one: -one.estimate), genomes


def test_a_choice_that_is_worth_something_is_found_and_others_are_not() -> None:
    found = {(one.question, one.choice): one for one in effects(*made_up(120, seed=1, worth=0.03))}
    se = found.pop(("attention", "se"))
    assert se.low < 0.03 < se.high
    assert se.p_value < 0.001
    assert se.is_adjusted
    assert all(one.p_value > 0.05 for one in found.values())


def test_where_nothing_is_worth_anything_hardly_anything_is_found() -> None:
    """At 5 % for all choices of a study together, at most 5 of 40 studies in all but one of 1,000 such tests."""
    n_found = sum(any(one.p_value < 0.05 for one in effects(*made_up(60, seed))) for seed in range(40))
    assert n_found <= 6


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = [one.low <= 0.0 <= one.high for seed in range(30) for one in effects(*made_up(80, 100 + seed))]
    assert len(held) > 200
    assert 0.93 < np.mean(held) < 0.99


def test_with_few_designs_each_question_stands_for_itself() -> None:
    found = effects(*made_up(14, seed=2, worth=0.03))
    assert found
    assert not any(one.is_adjusted for one in found)
    assert effects(*made_up(3, seed=2)) == ()
    assert effects([], {}) == ()


def test_designs_without_any_skip_do_not_count() -> None:
    designs, genomes = made_up(60, seed=3)
    genomes["none"] = canonical(PRESETS["no-skip"].genome(4))
    apart = ranked({"none": 0.1})
    assert effects([*designs, *apart], genomes) == effects(designs, genomes)
    assert CROSS_LEVEL in {(one.question, one.choice) for one in effects(designs, genomes)}


def test_frequencies_tell_the_best_third_beside_all() -> None:
    unet = canonical(PRESETS["u-net"].genome(3))
    gated = Genome(tuple(replace(node, attention=Attention("se", "fused")) for node in unet.nodes))
    none = canonical(PRESETS["no-skip"].genome(3))
    designs = ranked({"a": 0.9, "b": 0.8, "c": 0.7})
    genomes = {"a": gated, "b": unet, "c": none}
    skips = skip_frequencies(designs, genomes)
    assert skips["E0", "D0"] == Frequency(1.0, 2 / 3)
    operators = operator_frequencies(designs, genomes)
    assert operators["attention", "se"] == Frequency(1.0, 1 / 3)
    assert operators["attention", "none"].among_best == 0.0


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    designs = ranked({"dear": 0.9, "good": 0.85, "cheap": 0.8, "poor": 0.7, "worse": 0.84})
    costs = {"dear": 5.0, "good": 2.0, "cheap": 1.0, "poor": 1.5, "worse": 2.0}
    assert [one.key for one in pareto_front(designs, costs)] == ["cheap", "good", "dear"]


def test_progress_tells_the_highest_score_and_the_estimate_that_luck_does_not_move() -> None:
    trials = [trial(0, "a", 0.80), trial(1, "b", 0.90), trial(2, "b", 0.80, seed=1), trial(3, "a", 0.80, seed=1),
              trial(4, "c", 0.80)]  # fmt: skip
    found = progress(trials)
    assert [one.best_dice for one in found] == [0.80, 0.90, 0.90, 0.90, 0.90]
    assert [one.best_estimate is None for one in found] == [True] * 4 + [False], "two designs are too few"
    assert found[-1].best_estimate is not None
    assert found[-1].best_estimate < 0.88
    assert progress([]) == ()


def test_progress_of_a_long_study_computes_few_estimates() -> None:
    trials = [trial(number, f"d{number}", 0.8 + number / 10_000) for number in range(500)]
    found = progress(trials)
    assert len(found) == 500
    assert 30 < sum(one.best_estimate is not None for one in found) <= 60
    assert [one.best_estimate is None for one in found[:3]] == [True, True, False]
    assert found[-1].best_estimate is not None


def test_each_of_the_learning_curves_shown_has_a_colour_of_its_own() -> None:
    names = ["trial 4", "trial 3", "U-Net", "trial 2", "trial 7", "no-skip"]
    figure = curves_figure({name: [CurvePoint(10, 0.5, 1.0, 2.0)] for name in names})
    assert len({line.line.color for line in figure.data}) == len(names)
