"""The cheapest design that is as good as U-Net: chosen by exact costs and uncertain scores, told in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from narrowing import there
from trial_records import preset, record

from unetx_search.cheapest import CostOf, cheapest, cheapest_words
from unetx_search.config import CheapBy
from unetx_studies.ranking import Ranking
from unetx_studies.store import TrialRecord

COSTS = {"u": (100, 50), "small": (80, 60), "smaller": (60, 40), "bad": (10, 10), "large": (150, 70)}
"""Multiply-adds and parameters."""
QUIET = (0.001, -0.001, 0.0005, -0.0005)


def trained(
    key: str, mean: float, begin: int, wobble: Sequence[float] = (0.001, -0.001, 0.0005, -0.0005)
) -> list[TrialRecord]:
    """A design with four seeds."""
    macs, n_parameters = COSTS[key]
    origin = {"origin": preset("u-net")} if key == "u" else {}
    return [
        record(begin + n, key, mean + more, seed=n, macs=macs, n_parameters=n_parameters, **origin)  # type: ignore[arg-type]
        for n, more in enumerate(wobble)
    ]


STUDY = [
    *trained("u", 0.800, 0),
    *trained("small", 0.801, 10),
    *trained("smaller", 0.798, 20, (-0.0005, 0.001, -0.001, 0.0005)),
    *trained("bad", 0.700, 30),
    *trained("large", 0.820, 40),
]


def memory_of(key: str) -> int:
    return {"u": 1000, "small": 900, "smaller": 1100, "bad": 100, "large": 2000}[key]


@pytest.mark.parametrize(
    ("by", "margin", "key", "share"),
    [
        ("macs", 0.005, "smaller", 0.6),
        ("macs", 0.2, "bad", 0.1),
        ("params", 0.005, "smaller", 0.8),
        ("memory", 0.005, "small", 0.9),
    ],
)
def test_the_one_that_costs_least_within_the_margin_is_named_with_its_share(
    by: CheapBy, margin: float, key: str, share: float
) -> None:
    found = there(cheapest(Ranking(STUDY), "u", by, margin, CostOf(by, memory_of)))
    assert there(found.design).key == key
    assert found.share == pytest.approx(share)


def test_the_sentence_names_trial_share_and_certainty() -> None:
    found = there(cheapest(Ranking(STUDY), "u", "macs", 0.005, CostOf("macs", memory_of)))
    assert cheapest_words(found.facts) == (
        "trial 20 is as good as U-Net at 60 % of its multiply-adds "
        "(not lower by more than 0.005 Dice with 95 % probability)"
    )


def test_where_none_is_as_good_that_is_said() -> None:
    study = [e for e in STUDY if e.key in ("u", "bad", "large")]
    found = there(cheapest(Ranking(study), "u", "memory", 0.005, CostOf("memory", memory_of)))
    assert found.design is None
    assert cheapest_words(found.facts).startswith("no design with less than U-Net's training memory is known to be")
    assert found.facts["share"] is None


def test_an_uncertain_design_is_not_called_as_good() -> None:
    """Its one seed is as high as U-Net's mean, but seeds jump by 0.02, and the margin is 0.005."""
    wild = (0.02, -0.02, 0.02, -0.02)
    once = trained("small", 0.80, 10, (0.0,))
    study = [*trained("u", 0.80, 0, wild), *trained("large", 0.81, 40, wild[::-1]), *once]
    found = there(cheapest(Ranking(study), "u", "macs", 0.005, CostOf("macs", memory_of)))
    assert found.design is None


def test_without_a_score_of_u_net_there_is_nothing_to_compare_with() -> None:
    assert cheapest(Ranking(STUDY[4:]), "u", "macs", 0.005, CostOf("macs", memory_of)) is None
    assert cheapest(Ranking(()), "u", "macs", 0.005, CostOf("macs", memory_of)) is None
