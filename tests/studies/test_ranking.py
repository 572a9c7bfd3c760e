"""Which design is the best: each counts once, by the seed that all share."""

from trial_records import preset, record, repeated

from unetx_evaluators.evaluation import Outcome
from unetx_studies.ranking import preset_key, ranking


def test_a_design_appears_once_by_its_first_seed_whatever_a_second_gave() -> None:
    found = ranking(
        [
            record(0, "u", 0.80, origin=preset("u-net")),
            record(1, "a", 0.82),
            record(2, "u", 0.90, seed=1, origin=repeated("u-net")),
            record(3, "b", 0.81),
        ]
    )
    assert [(e.number, e.score) for e in found] == [(1, 0.82), (3, 0.81), (0, 0.80)]


def test_of_equal_scores_the_earlier_trial_comes_first_and_what_is_not_complete_does_not_come() -> None:
    found = ranking(
        [
            record(0, "a", 0.5, outcome=Outcome.CRASHED),
            record(1, "b", 0.7),
            record(2, "a", 0.7, seed=1),
            record(3, "c", 0.9, outcome=Outcome.PRUNED),
            record(4, "d", None, outcome=None),
        ]
    )
    assert [e.number for e in found] == [1, 2]


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
