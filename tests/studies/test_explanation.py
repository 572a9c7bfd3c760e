"""What is concluded from looks at trained networks: SciPy and sums by hand as sources, roles, words, the drawing."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
from narrowing import there
from scipy import stats

from unetx_evaluators.evaluation import CaseScore, NetworkScores
from unetx_evaluators.insight import GateStatistics, Replacement, SizeRecall, SkipSimilarity, StageGradient
from unetx_space.architecture import Architecture
from unetx_space.backbone import isotropic_backbone
from unetx_space.presets import no_skip, unet
from unetx_studies.explanation import (
    Change,
    Explanation,
    Role,
    SeedObservations,
    explanation_svg,
    explanation_text,
    make_explanation,
)
from unetx_studies.explanation.skips import role_of

SVG = "{http://www.w3.org/2000/svg}"
U_NET = Architecture(isotropic_backbone(2, n_levels=3), unet(3))
TOP, DEEP = ("E0", "D0"), ("E1", "D1")
CASES = [f"case{number}" for number in range(8)]
NOISE = np.random.default_rng(0).normal(0, 0.001, len(CASES))
"""Of a case's score where a skip is replaced."""


def measured(dices: Sequence[float | None], n_small_hit: int = 8) -> NetworkScores:
    scores = tuple(
        CaseScore(case, "vessel", dict.fromkeys(("dice", "nsd", "boundary_iou"), dice))
        for case, dice in zip(CASES, dices, strict=False)
    )
    sizes = (SizeRecall("small", 10, n_small_hit, 4), SizeRecall("medium", 10, 9, 20), SizeRecall("large", 9, 9, 50))
    return NetworkScores(scores, {"vessel": sizes})


INTACT = measured([0.8] * 8)


def gradients(e0: float, head: float = 1.0) -> dict[int, tuple[StageGradient, ...]]:
    stages = {"E0": e0, "E1": 0.1, "E2": 0.05, "D1": 0.1, "D0": 0.3, "head": head}
    return {step: tuple(StageGradient(name, norm) for name, norm in stages.items()) for step in (1, 2, 5, 6)}


def observed(losses: Mapping[tuple[str, str], float], *, seed: int = 0, twin_e0: float = 0.02) -> SeedObservations:
    """All three replacements of a skip cost the same."""
    return SeedObservations(
        seed,
        INTACT,
        {
            pair: dict.fromkeys(Replacement, measured([0.8 - loss + float(noise) for noise in NOISE], 5))
            for pair, loss in losses.items()
        },
        tuple(SkipSimilarity(node, source, 0.8) for source, node in losses),
        (GateStatistics("D0", "E0", "se", 0.7, 0.1, 0.2), GateStatistics("D1", "block", "cbam", 0.5, 0.0, 0.0)),
        {case: {"vessel": 10 * number} for number, case in enumerate(CASES)},
        gradients(0.2),
        measured([0.6] * 8).case_scores,
        gradients(twin_e0, head=0.5),
    )


def found_in(*looks: SeedObservations, groups: Mapping[str, str] | None = None) -> Explanation:
    return make_explanation(looks, early=(1, 2), midway=(5, 6), groups=groups)


def test_a_change_and_its_interval_are_those_of_the_paired_t_test_of_scipy() -> None:
    skip = found_in(observed({TOP: 0.2})).skips[0]
    change = skip.dice[Replacement.MEAN]
    expected = stats.ttest_1samp(NOISE - 0.2, 0).confidence_interval(0.95)
    assert change is not None
    assert change.mean == pytest.approx(float(np.mean(NOISE)) - 0.2)
    assert (change.low, change.high) == pytest.approx((expected.low, expected.high))
    assert change.n_cases == 8
    assert skip.edge[Replacement.ZERO] == skip.dice[Replacement.ZERO]
    assert skip.small_recall[Replacement.SHUFFLED] == pytest.approx(5 / 10 - 8 / 10)


def test_cases_of_a_group_count_as_one_in_intervals() -> None:
    by_two = {case: case[:4] + str(number // 2) for number, case in enumerate(CASES)}
    change = found_in(observed({TOP: 0.2}), groups=by_two).skips[0].dice[Replacement.MEAN]
    expected = stats.ttest_1samp(NOISE.reshape(4, 2).mean(1) - 0.2, 0).confidence_interval(0.95)
    assert change is not None
    assert (change.low, change.high) == pytest.approx((expected.low, expected.high))


def test_a_class_that_appears_where_there_is_none_is_a_loss_and_one_that_nobody_shows_is_nothing() -> None:
    look = observed({TOP: 0.0})
    nowhere: list[float | None] = [0.5, None, None]
    after: list[float | None] = [0.5, 0.0, None]
    ways = dict.fromkeys(Replacement, measured(after))
    change = found_in(replace(look, intact=measured(nowhere), without={TOP: ways})).skips[0].dice[Replacement.ZERO]
    assert change is not None
    assert (change.mean, change.n_cases) == (-0.5, 2)


@pytest.mark.parametrize(
    ("low", "high", "role"),
    [
        (-0.3, -0.1, Role.DECISIVE),
        (-0.04, -0.006, Role.HELPS),
        (-0.3, -0.004, Role.OPEN),
        (-0.004, 0.005, Role.SPARE),
        (-0.001, 0.02, Role.OPEN),
        (0.006, 0.02, Role.HARMFUL),
        (None, None, Role.OPEN),
    ],
)
def test_a_role_needs_the_whole_interval(low: float | None, high: float | None, role: Role) -> None:
    mean = -0.2 if low is None or high is None else (low + high) / 2
    assert role_of(Change(mean, low, high, 8), margin=0.005) is role


def test_skips_are_told_in_words_the_one_that_matters_most_first() -> None:
    found = found_in(observed({DEEP: 0.0, TOP: 0.2}))
    assert [skip.role for skip in found.skips] == [Role.SPARE, Role.DECISIVE]
    text = explanation_text(U_NET, found)
    assert "E0 to D0: decisive: Dice falls by 0.200" in text
    assert "E1 to D1: redundant: not needed, and much like what the decoder has already (CKA 0.80)" in text
    assert text.index("E0 to D0: decisive") < text.index("E1 to D1: redundant")
    assert "Dice 0.8000 (seed 0) · 0.6000 without skips: together they are worth +0.200" in text
    assert max(map(len, text.splitlines())) <= 120
    for number in ("-30.0%", "0.70", "D1, block", "up to 20", "90.0%"):
        assert number in text


def test_classes_are_told_apart_where_there_are_several() -> None:
    """One class loses 0.4 in every case, the other nothing, and the mean over both half of it."""
    look = observed({TOP: 0.0})

    def both(vessel: float) -> NetworkScores:
        scores = (CaseScore(c, name, {"dice": d}) for c in CASES for name, d in (("organ", 0.9), ("vessel", vessel)))
        return NetworkScores(tuple(scores), dict.fromkeys(("organ", "vessel"), INTACT.recalls["vessel"]))

    ways = dict.fromkeys(Replacement, both(0.1))
    volumes = {case: {"organ": 5, "vessel": 3} for case in CASES}
    found = found_in(replace(look, intact=both(0.5), without={TOP: ways}, volumes=volumes))
    skip = found.skips[0]
    means = [change and change.mean for change in (*skip.by_class.values(), skip.dice[Replacement.MEAN])]
    assert means == pytest.approx([0, -0.4, -0.2])
    assert skip.edge[Replacement.MEAN] is None
    row = "E0 to D0  +0.000 (+0.000 to +0.000)  -0.400 (-0.400 to -0.400)"
    assert row in explanation_text(U_NET, found).splitlines()


def test_a_skip_that_may_say_the_same_of_every_image_is_told_as_that() -> None:
    look = observed({TOP: 0.0})
    ways = {**look.without[TOP], Replacement.ZERO: measured([0.6 + float(noise) for noise in NOISE])}
    found = found_in(replace(look, without={TOP: ways}))
    assert found.skips[0].says.startswith("a constant would do")


def test_a_gradient_is_compared_as_a_share_of_the_heads_step_by_step() -> None:
    """0.2 / 1 against 0.02 / 0.5 is five times, in every step, and so surely."""
    found = found_in(observed({TOP: 0.0}))
    first = found.stages[0]
    assert first.stage == "E0"
    assert first.early.share == pytest.approx(0.2)
    assert first.early.twin == pytest.approx(0.04)
    assert first.midway.factor is not None
    assert first.midway.factor.mean == pytest.approx(5)
    assert first.midway.factor.low == pytest.approx(5)
    assert first.midway.factor.n_cases == 2
    assert "Midway, more gradient arrives than without skips at E0 (×5)." in explanation_text(U_NET, found)


def test_a_gradient_that_is_not_known_in_a_step_leaves_the_step_out() -> None:
    look = observed({TOP: 0.0})
    broken = {**look.gradients, 5: (StageGradient("E0", None), StageGradient("head", 1.0))}
    stage = found_in(replace(look, gradients=broken)).stages[0]
    assert (there(stage.midway.factor).n_cases, stage.early.factor and stage.early.factor.n_cases) == (1, 2)
    gone = {step: (StageGradient("E0", None),) for step in look.gradients}
    assert found_in(replace(look, twin_gradients=gone)).stages[0].early.factor is None


def test_cases_are_told_by_how_much_of_a_class_they_show() -> None:
    """Of 0, 10, ... 70 voxels the case without any has no size, and 10..30, 40..50 and 60..70 are the thirds."""
    dices = [0.9, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8]
    found = found_in(replace(observed({TOP: 0.0}), intact=measured(dices)))
    told = [(one.size, one.n_cases, one.max_voxels) for one in found.volumes]
    assert told == [("small", 3, 30), ("medium", 2, 50), ("large", 2, 70)]
    assert [one.dice for one in found.volumes] == pytest.approx([0.2, 0.5, 0.75])
    same = {case: {"vessel": 7} for case in CASES}
    assert [one.n_cases for one in found_in(replace(observed({TOP: 0.0}), volumes=same)).volumes] == [8, 0, 0]


def test_seeds_are_pooled_and_told() -> None:
    found = found_in(*(observed({TOP: 0.1}, seed=seed, twin_e0=0.02 * 4**seed) for seed in (0, 1)))
    assert found.seeds == (0, 1)
    factor = there(found.stages[0].early.factor)
    assert factor.mean == pytest.approx(math.sqrt(5 * 1.25))
    assert "(2 seeds)" in explanation_text(U_NET, found)
    assert not any("One training" in said for said in found.limits)


def test_what_cannot_be_concluded_is_said() -> None:
    look = observed({TOP: 0.1})
    found = found_in(look, groups=dict.fromkeys(CASES, "p"))
    change = there(found.skips[0].dice[Replacement.MEAN])
    assert (change.low, change.high) == (None, None)
    assert found.skips[0].role is Role.OPEN
    said = " ".join(found.limits)
    assert "One training" in said
    assert "of one group" in said
    unshuffled = {TOP: {**look.without[TOP], Replacement.SHUFFLED: None}}
    assert found_in(replace(look, without=unshuffled)).skips[0].dice[Replacement.SHUFFLED] is None


def test_a_design_without_skips_has_no_twin_and_says_so() -> None:
    look = replace(observed({}), twin_scores=(), twin_gradients=None)
    found = found_in(look)
    assert (found.twin_dice, found.all_skips, found.skips) == (None, None, ())
    assert any("no skips" in said for said in found.limits)
    without = Architecture(U_NET.backbone, no_skip(3))
    assert "no skips" in explanation_text(without, found)
    ET.fromstring(explanation_svg(without, found))


def test_an_explanation_is_json() -> None:
    told = json.loads(json.dumps(asdict(found_in(observed({TOP: 0.2}))), allow_nan=False))
    assert told["skips"][0]["dice"]["mean"]["mean"] == pytest.approx(-0.2, abs=0.001)
    assert told["skips"][0]["role"] == "decisive"


def test_the_drawing_has_every_loss_at_its_source_and_every_gradient_in_its_box() -> None:
    root = ET.fromstring(explanation_svg(U_NET, found_in(observed({TOP: 0.2, DEEP: 0.0}))))
    words = [element.text for element in root.iter(f"{SVG}text")]
    assert {"E0 −0.200", "E1 +0.000", "gradient ×5"} <= set(words)
    widths = {
        (path.attrib["data-source"], path.attrib["data-node"]): float(path.attrib["stroke-width"])
        for path in root.iter(f"{SVG}path")
        if path.get("class") == "source"
    }
    assert widths[TOP] > 3 * widths[DEEP]
