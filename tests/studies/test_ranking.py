"""Which design is the best: each counts once, by the shrunken estimate of all its scores."""

import pytest
from narrowing import there
from trial_records import preset, record, repeated

from unetx_evaluators.evaluation import Outcome
from unetx_studies.ranking import Ranking, preset_key
from unetx_studies.shrinkage import shrinkage
from unetx_studies.spread import Scored

FIELD = [record(n, f"f{n}", 0.80 + 0.001 * (n % 3)) for n in range(9)]
STEADY = [
    record(20 + seed, "steady", score, seed=seed) for seed, score in enumerate((0.819, 0.821, 0.820, 0.822, 0.818))
]
REGULAR = [record(30 + seed, "f0", score, seed=seed) for seed, score in enumerate((0.789, 0.811, 0.798, 0.803), 1)]
LUCKY = record(40, "lucky", 0.823)


def test_a_lucky_single_score_is_behind_a_lower_mean_of_many_seeds() -> None:
    found = Ranking([*FIELD, *STEADY, *REGULAR, LUCKY])
    first, second = found.designs[:2]
    assert (first.key, second.key) == ("steady", "lucky")
    assert first.dice == pytest.approx(0.82)
    assert first.dice < second.dice
    assert first.estimate > second.estimate
    assert first.standard_error < second.standard_error
    assert first.seeds == (0, 1, 2, 3, 4)
    assert (first.number, second.number) == (20, 40)
    assert not found.is_by_score
    assert found.leader == STEADY[0]


def test_estimates_are_those_of_the_mixed_model_on_every_complete_score() -> None:
    trials = [*FIELD, *STEADY, record(50, "f1", 0.99, outcome=Outcome.PRUNED), record(51, "f2", None, outcome=None)]
    known = shrinkage(Scored(e.key, e.seed, e.score or 0.0) for e in [*FIELD, *STEADY])
    assert known is not None
    for one in Ranking(trials).designs:
        assert (one.estimate, one.standard_error) == (known[one.key].mean, known[one.key].standard_error)


def test_with_one_seed_each_designs_are_in_the_order_of_their_scores_whenever_they_came() -> None:
    trials = [record(0, "u", 0.80), record(1, "a", 0.82), record(2, "b", 0.81), record(3, "c", 0.81)]
    for order in (trials, trials[::-1]):
        found = Ranking(order)
        assert [e.number for e in found.designs] == [1, 2, 3, 0]
        assert found.is_by_score
        assert found.leader == trials[1]


def test_what_is_not_complete_does_not_come_and_nothing_has_no_best() -> None:
    incomplete = [record(0, "a", 0.5, outcome=Outcome.CRASHED), record(3, "c", 0.9, outcome=Outcome.PRUNED)]
    assert Ranking(incomplete).best is None
    assert [e.number for e in Ranking([*incomplete, record(4, "b", 0.7)]).designs] == [4]


def test_a_ranking_up_to_a_trial_knows_none_after_it() -> None:
    whole = Ranking([*FIELD, *STEADY, LUCKY])
    assert whole.up_to(None) is whole.up_to(40) is whole
    assert whole.up_to(8).designs == Ranking(FIELD).designs
    best = whole.best
    whole.add(record(60, "new", 0.9))
    assert there(whole.best).key == "new" != (best.key if best else "")


def test_presets_are_known_by_their_origin_adapted_and_repeated_ones_too() -> None:
    evaluations = [
        record(0, "u", 0.8, origin=preset("u-net", is_adapted=True)),
        record(1, "n", 0.6, origin=preset("no-skip")),
        record(2, "u", 0.8, origin=repeated("u-net", is_adapted=True)),
        record(3, "a", 0.8, origin=repeated()),
    ]
    assert [preset_key(evaluations, name) for name in ("u-net", "no-skip", "unet++")] == ["u", "n", None]
    assert preset_key(evaluations[2:], "u-net") == "u"
    assert [e.origin.is_given for e in evaluations] == [True, True, True, False]


def test_a_design_is_told_by_its_means_over_seeds() -> None:
    trials = [record(0, "a", 0.8, original_dice=0.7), record(1, "a", 0.9, seed=1, original_dice=0.8)]
    best = there(Ranking(trials).best)
    assert best.dice == pytest.approx(0.85)
    assert best.original_dice == pytest.approx(0.75)
    untold = there(Ranking([*trials, record(2, "a", 0.9, seed=2)]).best)
    assert untold.original_dice is None, "a mean of some would be of other seeds"
