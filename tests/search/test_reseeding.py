"""Re-seeding: how much, whom, with which seed, whatever happens in between."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from narrowing import there

from unetx_search.reseeding import FIRST_DESIGNS, Replicate, Training, n_replicates, next_replicate

SEEDS = tuple(range(100, 164))
TRUTH = {f"d{i:03}": value for i, value in enumerate(np.random.default_rng(0).normal(0.8, 0.005, 300))}


def score(design: str, seed: int) -> float:
    """The same for the same design and seed, like a training."""
    return float(TRUTH[design] + 0.006 * np.random.default_rng([int(design[1:]), seed]).standard_normal())


def search(total: int, n_workers: int = 1, shuffled: int | None = None, **options: object) -> list[Training]:
    """A study in which workers finish in the order they began, or a shuffled one."""
    done: list[Training] = []
    pending: list[Training] = []
    order, n_new = random.Random(shuffled), 0
    while len(done) < total:
        while len(pending) < n_workers and len(done) + len(pending) < total:
            begun = [*done, *pending]
            order.shuffle(begun)
            found = next_replicate(begun, total, SEEDS, reference="d000", **options)  # type: ignore[arg-type]
            n_new += found is None
            pending.append(Training(*(found or (f"d{n_new - 1:03}", SEEDS[0]))))
        design, seed, _ = pending.pop(0 if shuffled is None else order.randrange(len(pending)))
        done.append(Training(design, seed, score(design, seed)))
    return done


def replicates(done: list[Training]) -> Counter[str]:
    return Counter(one.design for one in done if one.seed != SEEDS[0])


@pytest.mark.parametrize(
    ("total", "share", "n_given", "expected"),
    [
        (200, 0.3, 4, 60),
        (10, 0.3, 4, 3),
        (10, 0.3, 8, 1),
        (5, 0.3, 4, 0),
        (1, 0.9, 0, 0),
        (200, 0.0, 4, 0),
        (10, 0.9, 2, 7),
    ],
)
def test_the_share_is_rounded_down_and_one_design_stays_new(
    total: int, share: float, n_given: int, expected: int
) -> None:
    assert n_replicates(total, share, n_given) == expected


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and less than 1"):
        n_replicates(10, share)


@pytest.mark.parametrize(("total", "n_workers"), [(20, 1), (20, 8), (60, 16), (200, 1), (200, 16)])
def test_a_study_has_its_share_of_replicates_with_any_number_of_workers(total: int, n_workers: int) -> None:
    done = search(total, n_workers)
    assert len({(one.design, one.seed) for one in done}) == total, "no design has one seed twice"
    again = replicates(done)
    assert again.total() == n_replicates(total, 0.3)
    for design in again:
        n = again[design] + 1
        assert {one.seed for one in done if one.design == design} == set(SEEDS[:n]), "the shared list, from its start"
    assert again["d000"] >= max(again.values()) // 2, "the reference keeps up"


def test_halving_gives_few_designs_many_seeds() -> None:
    """A study of 200: its 60 replicates in four rounds of 15; who is in the last has more than 8 seeds."""
    again = sorted(replicates(search(200)).values(), reverse=True)
    assert again[0] > 8
    assert again[2] > 4
    assert len(again) >= 12


def test_the_choice_does_not_depend_on_the_order_of_what_is_known() -> None:
    done = search(60)[:50]
    expected = next_replicate(done, 60, SEEDS, reference="d000")
    assert isinstance(expected, Replicate)
    for seed in range(5):
        shuffled = random.Random(seed).sample(done, len(done))
        assert next_replicate([*shuffled, shuffled[0]], 60, SEEDS, reference="d000") == expected


def test_after_a_crash_a_pending_replicate_is_neither_lost_nor_given_again() -> None:
    done = search(60)[:50]
    first = there(next_replicate(done, 60, SEEDS, reference="d000"))
    assert next_replicate(done, 60, SEEDS, reference="d000") == first, "asked again, the same"
    second = there(next_replicate([*done, Training(*first)], 60, SEEDS, reference="d000"))
    assert second != first


def test_workers_that_finish_in_any_order_repeat_nearly_the_same_designs() -> None:
    """Of the four designs with the most seeds one after another, half are so with eight workers in any order, too."""
    ordered, shuffled = (replicates(search(200, n, order)) for n, order in ((1, None), (8, 5)))
    top, other = ({name for name, _ in found.most_common(4)} for found in (ordered, shuffled))
    assert len(top & other) >= 2


@pytest.mark.parametrize("n_workers", [1, 8])
def test_the_reference_has_a_second_seed_among_the_first_20_trials_of_a_long_study(n_workers: int) -> None:
    early = [one for one in search(200, n_workers)[:40] if one.seed != SEEDS[0]]
    assert [(one.design, one.seed) for one in early] == [("d000", SEEDS[1])]
    assert Training("d000", SEEDS[1]) in {one._replace(score=None) for one in search(200, n_workers)[:20]}


def test_a_reference_without_a_score_waits_for_it_and_one_that_has_a_second_seed_gets_no_other() -> None:
    done = [Training(f"d{i:03}", SEEDS[0], 0.8) for i in range(FIRST_DESIGNS)]
    assert next_replicate(done, 200, SEEDS, reference="d000") == Replicate("d000", SEEDS[1])
    assert next_replicate([done[0]._replace(score=None), *done[1:]], 200, SEEDS, reference="d000") is None
    assert next_replicate([*done, Training("d000", SEEDS[1])], 200, SEEDS, reference="d000") is None
    assert next_replicate(done[1:], 200, SEEDS, reference="d001") is None, "too few designs"
    assert next_replicate(done, 200, SEEDS, reference="d000", share=0.0) is None


def test_with_a_share_of_0_and_at_the_total_nothing_is_repeated() -> None:
    assert not replicates(search(30, share=0.0))
    assert next_replicate(search(30), 30, SEEDS, reference="d000") is None


def test_designs_without_a_final_score_count_but_are_not_repeated() -> None:
    done = [Training(f"d{i:03}", SEEDS[0], 0.8 + i / 1000 if i % 2 else None) for i in range(14)]
    found = there(next_replicate(done, 20, SEEDS, reference="d000"))
    assert found.design == "d013", "the best; the reference was stopped early and has no score"
    failed = Training(found.design, found.seed)
    again = there(next_replicate([*done, failed], 20, SEEDS, reference="d000"))
    assert again != found, "a replicate that failed is not tried again"


def test_seeds_that_run_out_leave_new_designs() -> None:
    done = [Training(f"d{i:03}", 0, 0.8) for i in range(14)]
    assert next_replicate(done, 20, (0,), reference="d000") is None


def test_where_no_new_design_is_left_the_rest_is_replicates() -> None:
    done = [Training(f"d{i:03}", SEEDS[0], 0.8 + i / 1000) for i in range(4)]
    assert next_replicate(done, 20, SEEDS, reference="d000") is None
    while len(done) < 20:
        found = there(next_replicate(done, 20, SEEDS, reference="d000", is_exhausted=True))
        done.append(Training(*found, 0.8 + int(found.design[1:]) / 1000))
    assert next_replicate(done, 20, SEEDS, reference="d000", is_exhausted=True) is None
    again = replicates(done)
    assert again["d003"] >= again["d001"]
    assert again["d000"] >= 3


def test_where_nothing_has_a_score_a_new_design_is_next() -> None:
    assert next_replicate([Training("d000", 0)], 2, SEEDS, share=0.5) is None


@pytest.mark.parametrize("cost", [lambda i: 0.5 if i == 70 else 2.0, lambda i: 2.0], ids=["one is cheap", "none is"])
def test_the_cheapest_as_good_as_the_reference_is_repeated(cost: Callable[[int], float]) -> None:
    """d070 is made as good as the reference, which is neither the best nor the worst."""
    TRUTH["d000"], TRUTH["d070"] = 0.8, 0.801
    costs = {name: 1.0 if name == "d000" else cost(int(name[1:])) for name in TRUTH}
    again = replicates(search(200, costs=costs))
    assert (again["d070"] >= 7) is (costs["d070"] < 1.0)
