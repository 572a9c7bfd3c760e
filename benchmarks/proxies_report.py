"""Judges the runs of proxies.py.

    python benchmarks/proxies_report.py > benchmarks/results/proxies.txt

**score**: Dice on the original voxels of the U-Net under the default budget, by seed, beside longer training, the
user's script and the plan of before; ``of longer`` is the ratio to eight times the steps. Seconds are CPU time of one
core. A class counts as unlearned where its Dice is below half of that after longer training.

**voxels**: the same on coarser voxels, with the share of the median image that the patch shows.

**spread**: for a table of designs by seeds the standard deviations of both and the intraclass correlation ICC(3,1) of
Shrout and Fleiss (Psychological Bulletin 86(2), 420-428, 1979), two-way with the seeds' main effect removed.

**agreement**: Kendall's tau of one seed's scores with the references' means, averaged over the seeds, with its 5th and
95th percentile over resampled designs; over all designs, and over the random ones alone. ``seeds SD`` is the standard
deviation between seeds of one design, ``ICC`` the reliability of one score. ``bias`` is how far the U-Net leads the
random designs on average, in Dice, beyond its lead among the references: above zero, the proxy favours its parent's
kind. ``extrapolated`` continues the last two rungs of the runs from scratch in a straight line, ``loss`` ranks these by
the sum of their training losses.

**chosen**: what the references say, on average over the order of the seeds, of the design that one seed puts first, and
of the one first by the mean of two seeds when only the better half of the designs got the second.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from unetx_studies.proxy_agreement import (
    FEWEST_DESIGNS,
    Draws,
    bootstrap_draws,
    design_mean_squares,
    percentiles,
    rank_correlations,
    reliability,
)
from unetx_studies.spread import Vector

RESULTS = Path(__file__).parent / "results"
UNLEARNED = 0.5

Row = dict[str, Any]

N_BOOTSTRAP = 1000


def dice(row: Row) -> float:
    """Dice on the original voxels."""
    return float(row["original_dice"] if row["original_dice"] is not None else row["dice"])


def table(rows: list[Row], score: Callable[[Row], float]) -> Vector:
    """Scores ``[designs, seeds]`` of the designs that have every seed, in order of their names."""
    seeds, by_run = sorted({row["seed"] for row in rows}), {(row["design"], row["seed"]): score(row) for row in rows}
    whole = [name for name in sorted({row["design"] for row in rows}) if all((name, seed) in by_run for seed in seeds)]
    return np.array([[by_run[name, seed] for seed in seeds] for name in whole]).reshape(len(whole), len(seeds))


def seed_deviation(scores: Vector) -> float:
    return design_mean_squares(scores)[1] ** 0.5


def agreement(scores: Vector, expected: Vector, draws: Draws) -> Vector:
    """Kendall's tau of one seed's scores with the references' means, averaged over seeds, of each draw."""
    found: Vector = np.mean([rank_correlations(column, expected, draws)[1] for column in scores.T], axis=0)
    return found


def score_table(by_set: dict[str, list[Row]]) -> Iterator[str]:
    yield "U-Net under the default budget"
    yield (
        f"  {'set':<18}{'voxels':>14}{'steps':>6}{'s':>5}{'seeds':>16}{'SD':>8}{'longer':>8}{'of longer':>10}"
        f"{'script':>8}{'before':>8}  unlearned"
    )
    for name, rows in by_set.items():
        own = [row for row in rows if row["part"] == "score"]
        of = {
            variant: [r for r in own if r["variant"] == variant] for variant in ("default", "longer", "plain", "before")
        }
        if not of["default"]:
            continue
        scores, first = [dice(row) for row in of["default"]], of["default"][0]
        longer = fmean(map(dice, of["longer"])) if of["longer"] else None
        yield (
            f"  {name:<18}{_by(first['spacing']):>14}{first['steps']:>6}"
            f"{fmean(row['seconds'] for row in of['default']):>5.0f}{' '.join(f'{score:.4f}' for score in scores):>16}"
            f"{stdev(scores) if len(scores) > 1 else float('nan'):>8.4f}{_four(longer):>8}"
            f"{'-' if longer is None else f'{fmean(scores) / longer:.3f}':>10}"
            f"{_four(fmean(map(dice, of['plain'])) if of['plain'] else None):>8}"
            f"{_four(fmean(map(dice, of['before'])) if of['before'] else None):>8}  {_unlearned(of) or 'none'}"
        )


def _unlearned(of: dict[str, list[Row]]) -> str:
    expected = of["longer"][0]["by_class"] if of["longer"] else {}
    worst = {name: min(row["by_class"].get(name, 0.0) for row in of["default"]) for name in expected}
    return ", ".join(name for name, score in worst.items() if score < UNLEARNED * expected[name])


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def voxel_table(by_set: dict[str, list[Row]]) -> Iterator[str]:
    yield "U-Net on coarser voxels, scored on the original ones, equal steps and batches"
    yield f"  {'set':<18}{'voxels':>17}{'patch':>12}{'share':>7}{'s':>5}{'Dice':>8}"
    for name, rows in by_set.items():
        for row in (row for row in rows if row["part"] == "voxels"):
            yield (
                f"  {name:<18}{_by(row['spacing']):>17}{_by(row['patch']):>12}{row['share']:>7.2f}"
                f"{row['seconds']:>5.0f}{dice(row):>8.4f}"
            )


def _by(sizes: Sequence[float]) -> str:
    return "x".join(f"{n:.3g}" for n in sizes)


def icc(scores: Vector) -> float:
    """The reliability of a single score: ICC(3,1) = (MS_designs - MS_error) / (MS_designs + (k - 1) MS_error) of Shrout
    and Fleiss (Psychological Bulletin 86(2), 420-428, 1979)."""
    between, error = design_mean_squares(scores)
    return float((between - error) / (between + (scores.shape[1] - 1) * error))


def spread_table(by_set: dict[str, list[Row]]) -> Iterator[str]:
    yield "Random designs under the default budget"
    yield f"  {'set':<18}{'designs':>8}{'mean':>8}{'designs SD':>12}{'seeds SD':>10}{'ICC':>7}{'5..95 %':>16}"
    for name, rows in by_set.items():
        scores = table([row for row in rows if row["part"] == "spread"], dice)
        if len(scores) < 3 or scores.shape[1] < 2:
            continue
        seeds = seed_deviation(scores)
        designs = max(0.0, float(scores.mean(1).var(ddof=1)) - seeds**2 / scores.shape[1]) ** 0.5
        low, high = percentiles(
            np.array([icc(scores[one]) for one in bootstrap_draws(len(scores), N_BOOTSTRAP)]), 5, 95
        )
        between = f"{low:.2f}..{high:.2f}"
        yield (
            f"  {name:<18}{len(scores):>8}{scores.mean():>8.4f}{designs:>12.4f}{seeds:>10.4f}{icc(scores):>7.2f}"
            f"{between:>16}"
        )


def agreement_table(name: str, rows: list[Row]) -> Iterator[str]:
    own = [row for row in rows if row["part"] == "agreement"]
    reference = [row for row in own if row["variant"] == "reference"]
    if not reference:
        return
    whole = sorted({row["design"] for row in reference if _is_whole(reference, row["design"])})
    expected = table([row for row in reference if row["design"] in whole], dice)
    by_name = dict(zip(whole, expected.mean(1), strict=True))
    random_only = [design for design in whole if design.isdigit()]
    yield (
        f"Agreement with eight times longer training on {name}: {len(whole)} designs, references' reliability "
        f"{reliability(expected).value:.2f}, designs' SD {expected.mean(1).std(ddof=1):.4f}, "
        f"seeds' {seed_deviation(expected):.4f}"
    )
    yield (
        f"  {'proxy':<18}{'designs':>8}{'seeds':>7}{'s':>6}{'Dice':>8}{'seeds SD':>10}{'ICC':>7}{'tau, all':>10}"
        f"{'5..95 %':>16}{'tau, random':>13}{'5..95 %':>16}{'bias':>9}"
    )
    read_outs: list[tuple[str, str, Callable[[Row], float]]] = [
        ("from scratch", "scratch", dice),
        ("extrapolated", "scratch", lambda row: 2 * row["curve"][-1][1] - row["curve"][-2][1]),
        ("loss", "scratch", lambda row: -row["loss_sum"]),
        ("encoder", "encoder", dice),
        ("all parameters", "all", dice),
        ("shared", "shared", dice),
        ("four times longer", "four times longer", dice),
    ]
    for words, variant, read in read_outs:
        runs = [row for row in own if row["variant"] == variant and row["design"] in whole]
        kept = sorted({row["design"] for row in runs if _is_whole(runs, row["design"])})
        if len(kept) < FEWEST_DESIGNS:
            continue
        scores = table([row for row in runs if row["design"] in kept], read)
        yield _line(words, runs, kept, scores, by_name, [design for design in kept if design in random_only])


def chosen_lines(name: str, rows: list[Row]) -> Iterator[str]:
    """What re-seeding is worth among designs whose references are known."""
    own = [row for row in rows if row["part"] == "agreement" and row["variant"] in ("scratch", "reference")]
    by_variant = {kind: [row for row in own if row["variant"] == kind] for kind in ("scratch", "reference")}
    whole = [
        design
        for design in sorted({row["design"] for row in own})
        if all(found and _is_whole(found, design) for found in by_variant.values())
    ]
    if len(whole) < FEWEST_DESIGNS:
        return
    scores, expected = (table([row for row in found if row["design"] in whole], dice) for found in by_variant.values())
    truth, half = expected.mean(1), len(whole) // 2
    once, again = [], []
    for first, second in ((0, 1), (1, 0)):
        ranked = np.argsort(-scores[:, first])
        better = ranked[:half]
        once.append(truth[ranked[0]])
        again.append(truth[better[np.argmax(scores[better][:, [first, second]].mean(1))]])
    yield (
        f"Chosen on {name}, Dice after longer training: mean of {len(whole)} designs {truth.mean():.4f}, best "
        f"{truth.max():.4f}; first by one seed {fmean(once):.4f}, first after the better half got another "
        f"{fmean(again):.4f}"
    )


def _is_whole(rows: Sequence[Row], design: str) -> bool:
    """Whether a design has every seed."""
    seeds = {row["seed"] for row in rows}
    return {row["seed"] for row in rows if row["design"] == design} == seeds


def _line(
    words: str, runs: list[Row], kept: list[str], scores: Vector, by_name: dict[str, float], random_only: list[str]
) -> str:
    several = scores.shape[1] > 1
    truth = np.array([by_name[design] for design in kept])
    chosen = [kept.index(design) for design in random_only]
    seconds = fmean(row["seconds"] for row in runs)
    unet = kept.index("u-net") if "u-net" in kept else None
    lead = float("nan") if unet is None else scores[unet].mean() - scores[chosen].mean()
    expected = float("nan") if unet is None else truth[unet] - truth[chosen].mean()
    mean = _four(float(scores.mean()) if abs(scores.mean()) <= 1 else None)
    return (
        f"  {words:<18}{len(kept):>8}{scores.shape[1]:>7}{seconds:>6.0f}{mean:>8}"
        f"{_four(seed_deviation(scores) if several else None):>10}{f'{icc(scores):.2f}' if several else '-':>7}"
        f"{_tau(scores, truth)}{_tau(scores[chosen], truth[chosen], width=13)}{lead - expected:>+9.4f}"
    )


def _tau(scores: Vector, truth: Vector, width: int = 10) -> str:
    low, high = percentiles(agreement(scores, truth, bootstrap_draws(len(truth), N_BOOTSTRAP)), 5, 95)
    between = f"{low:.2f}..{high:.2f}"
    return f"{agreement(scores, truth, np.arange(len(truth))[None])[0]:>{width}.2f}{between:>16}"


def main() -> int:
    files = sorted(RESULTS.glob("proxies-*.jsonl"))
    by_set = {
        file.stem.removeprefix("proxies-"): [json.loads(line) for line in file.read_text().splitlines()]
        for file in files
    }
    for lines in (
        score_table(by_set),
        voxel_table(by_set),
        spread_table(by_set),
        *(agreement_table(name, rows) for name, rows in by_set.items()),
        *(chosen_lines(name, rows) for name, rows in by_set.items()),
    ):
        if found := list(lines):
            print("\n".join(found), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
