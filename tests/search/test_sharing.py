"""How many workers share a GPU: a pure function of measurements, and what is kept of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path

import pytest

from unetx_search.sharing.choice import (
    MIN_GAIN,
    SPARE,
    Sample,
    SharingLimits,
    decide,
    read_sharing,
    write_sharing,
)

LARGE = SharingLimits(free_mib=140_000, at_most=8)


def samples(*evaluations_per_min: float, worker_mib: float | None = 3000) -> tuple[Sample, ...]:
    return tuple(Sample(n, rate, worker_mib) for n, rate in enumerate(evaluations_per_min, start=1))


@pytest.mark.parametrize(
    ("rates", "n_workers", "is_final"),
    [
        ((), 1, False),
        ((41,), 1, False),
        ((41, 63), 2, False),
        ((41, 63, 66), 2, True),
        ((41, 63, 69.4), 3, False),  # 63 + 10 % = 69.3
        ((41, 63, 69.2), 2, True),
        ((41, 41), 1, True),
        ((41, 30), 1, True),  # they are in each other's way
        ((41, 30, 90), 1, True),  # what comes after a worker that did not pay is not looked at
        ((10, 20, 30, 40, 50, 60, 70, 80), 8, True),  # enough
    ],
)
def test_the_number_grows_while_another_worker_adds_a_tenth(
    rates: Sequence[float], n_workers: int, is_final: bool
) -> None:
    choice = decide("x", samples(*rates), LARGE)
    assert (choice.n_workers, bool(choice.reason)) == (n_workers, is_final)


@pytest.mark.parametrize(
    ("free_mib", "extra_mib", "n_workers", "is_final"),
    [
        (20_000, 0, 3, False),  # 18,000 to use: six workers of 3,000
        (10_001, 0, 3, True),  # 9,000.9: three, no fourth
        (10_000, 0, 3, True),
        (9_999, 0, 2, True),  # 8,999.1: a third would not fit, though it was measured
        (6_666, 0, 1, True),
        (10_001, 1500, 2, True),  # with the most expensive design a worker takes 4,500
        (100, 0, 1, True),  # not even one; that is for the evaluations to report
    ],
)
def test_as_many_as_could_hold_the_most_expensive_design_at_the_same_time(
    free_mib: float, extra_mib: float, n_workers: int, is_final: bool
) -> None:
    choice = decide("x", samples(10, 20, 30), SharingLimits(free_mib, 8, extra_mib))
    assert (choice.n_workers, bool(choice.reason)) == (n_workers, is_final)


def test_the_largest_process_that_was_seen_counts() -> None:
    seen = (Sample(1, 10, 4000), Sample(2, 20, 3000))
    assert not decide("x", seen, SharingLimits(13_400, 8)).reason
    assert (
        decide("x", seen, SharingLimits(13_400, 8)).n_workers == 2
    )  # 12,060 to use: a third like the first needs 12,000
    assert decide("x", seen, SharingLimits(13_300, 8)).reason.startswith("3 workers would need 12 GiB")


@pytest.mark.parametrize("at_most", [1, 2, 3])
def test_never_more_than_are_of_use(at_most: int) -> None:
    choice = decide("x", samples(10, 20, 30, 40), SharingLimits(140_000, at_most))
    assert choice.n_workers == at_most
    assert choice.reason == f"more than {at_most} worker{'s' if at_most > 1 else ''} would be of no use"


def test_without_a_word_about_memory_there_is_one_worker() -> None:
    for seen, room in (
        ((), SharingLimits(None, 8)),
        (samples(10, 20), SharingLimits(None, 8)),
        (samples(10, 20, worker_mib=None), LARGE),
    ):
        choice = decide("x", seen, room)
        assert (choice.n_workers, choice.reason) == (1, "how much memory is free is not known")


def test_a_number_that_could_not_work_is_the_end_with_its_reason() -> None:
    seen = (*samples(10, 20), Sample(3, 0.0, None, "a training ended as out-of-memory: 12 MiB free"))
    choice = decide("x", seen, LARGE)
    assert choice.n_workers == 2
    assert choice.reason == "with 3 workers it went wrong: a training ended as out-of-memory: 12 MiB free"
    assert decide("x", (Sample(1, 0.0, None, "no"),), LARGE).n_workers == 1


def test_the_choice_is_lawful_whatever_was_measured() -> None:
    """Of every sequence of gains: within bounds, in room, every step paid, and no more measurement once it is final."""
    gains = (-0.5, 0.0, MIN_GAIN / 2, 2 * MIN_GAIN, 1.0)
    for factors, free_mib, at_most in product(product(gains, repeat=3), (1000, 7000, 140_000), (1, 2, 4, 8)):
        rates = [40.0]
        for gain in factors:
            rates.append(rates[-1] * (1 + gain))
        seen, room = samples(*rates), SharingLimits(free_mib, at_most)
        choice = decide("x", seen, room)
        n = choice.n_workers
        assert 1 <= n <= max(1, at_most)
        assert n == 1 or n * 3000 <= free_mib * (1 - SPARE)
        assert all(later >= earlier * (1 + MIN_GAIN) for earlier, later in pairwise(rates[:n]))
        enough = next(k for k in range(len(seen) + 1) if decide("x", seen[:k], room).reason or k == len(seen))
        assert decide("x", seen[:enough], room).n_workers == n


def test_people_are_told_what_was_measured_and_what_it_comes_to() -> None:
    sharing = decide("NVIDIA H200", samples(41.2, 63, 65.9, worker_mib=3174), LARGE)
    assert str(sharing) == (
        "1 worker 41.2 evaluations/min, 2 workers 63.0, 3 workers 65.9: 2 workers "
        "(worker 3 adds 5%, and pays from 10% on); 3.1 GiB each, 137 free"
    )
    assert str(decide("x", (), SharingLimits(None, 8))) == "1 worker (how much memory is free is not known)"
    troubled = decide("x", (Sample(1, 0.0, None, "it died"),), LARGE)
    assert str(troubled) == "1 worker (with 1 worker it went wrong: it died)"


def test_what_was_measured_can_be_read_again(tmp_path: Path) -> None:
    kept = [decide("A", samples(41, 63, 66), LARGE), decide("B", samples(9, worker_mib=None), SharingLimits(None, 8))]
    write_sharing(tmp_path / "sharing.json", kept, "2.13")
    assert dict(read_sharing(tmp_path / "sharing.json", "2.13")) == {"A": kept[0], "B": kept[1]}
    assert set(read_sharing(tmp_path / "sharing.json")) == {"A", "B"}
    assert read_sharing(tmp_path / "sharing.json", "2.14") == {}, "another torch may be faster"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"torch": "2.13", "kinds": []}',
        '{"torch": "2.13", "kinds": {"A": {}}}',
        '{"torch": "2.13", "kinds": {"A": {"samples": 3}}}',
        json.dumps({"torch": "2.13", "kinds": {"A": {"kind": "A", "samples": [{"pace": 1}]}}}),
    ],
)
def test_a_damaged_file_is_no_measurement(tmp_path: Path, text: str) -> None:
    (tmp_path / "sharing.json").write_text(text)
    assert read_sharing(tmp_path / "sharing.json", "2.13") == {}
    assert read_sharing(tmp_path / "no such file") == {}
