"""Judges the runs of noise.py: how quiet is each variant and read-out, and how well does it foretell a longer training?

    python benchmarks/noise_report.py > benchmarks/results/noise.txt

For a table of designs by seeds: the intraclass correlation ICC(3,1) of Shrout and Fleiss (Psychological Bulletin 86(2),
420-428, 1979), two-way with the seeds' main effect removed; Kendall's tau-b and Spearman's rho between one seed's
scores and the references' means, averaged over the seeds; the standard deviation between seeds of one design (their
main effect removed) and between the designs' means; the runs in which a class was not learned, that is: its Dice is
below half of the median of that class over all runs. The references are noisy, too: the reliability of their means is
said, for where it is low, no score can be expected to foretell them. ``seeds`` is how many trainings of a design have
to be averaged for a reliability of 0.8 (Spearman and Brown), which multiplies the cost. ``less 1`` is the intraclass
correlation without the design farthest from the others: one bad design alone makes it high. Intervals are percentiles
of a seeded bootstrap over designs. Variants are compared on the designs that all of them have; the default budget is
judged on all. Seconds are CPU time; rows were made on machines of different speed, so compare steps times batch.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from noise import N_VARIANT_DESIGNS, SETS
from scipy.stats import kendalltau, spearmanr

RESULTS = Path(__file__).parent / "results"
N_BOOTSTRAP = 1000
END = "last@1.0"
FEW_CASES = (6, 12, 24)
ENOUGH = 0.8

Table = npt.NDArray[np.float64]
Row = dict[str, Any]


def objective(row: Row, read_out: str, kind: str, n_cases: int | None) -> float:
    """Mean over classes of the mean over the first cases that have the class."""
    return float(np.nanmean(np.nanmean(np.array(row["dice"][read_out][kind][:n_cases], dtype=float), axis=0)))


def table(rows: list[Row], score: Callable[[Row], float]) -> Table:
    """``[designs, seeds]`` of the designs that have every seed."""
    seeds, whole = sorted({row["seed"] for row in rows}), whole_designs(rows)
    by_run = {(row["design"], row["seed"]): score(row) for row in rows}
    return np.array([[by_run[design, seed] for seed in seeds] for design in whole]).reshape(len(whole), len(seeds))


def whole_designs(rows: list[Row]) -> list[int]:
    """Those that have every seed, in order."""
    seeds = {row["seed"] for row in rows}
    found = {design: {row["seed"] for row in rows if row["design"] == design} for design in {r["design"] for r in rows}}
    return sorted(design for design, own in found.items() if own == seeds)


def icc(scores: Table) -> float:
    """ICC(3,1) = (MS_designs - MS_error) / (MS_designs + (k - 1) MS_error)."""
    n, k = scores.shape
    residual = scores - scores.mean(1, keepdims=True) - scores.mean(0, keepdims=True) + scores.mean()
    between = k * ((scores.mean(1) - scores.mean()) ** 2).sum() / (n - 1)
    error = (residual**2).sum() / ((n - 1) * (k - 1))
    return float((between - error) / (between + (k - 1) * error))


def reliability(scores: Table) -> float:
    """Of the designs' means over the seeds: the ICC stepped up by Spearman and Brown, and no less than 0."""
    single, k = max(0.0, icc(scores)), scores.shape[1]
    return k * single / (1 + (k - 1) * single)


def without_farthest(scores: Table) -> Table:
    """Without the design whose mean is farthest from the median of the designs' means."""
    means = scores.mean(1)
    return np.delete(scores, np.abs(means - np.median(means)).argmax(), axis=0)


def seeds_needed(scores: Table) -> str:
    """For means with a reliability of ENOUGH; a dash where the designs cannot be told apart at all."""
    single = icc(scores)
    return "-" if single <= 0 else str(math.ceil(ENOUGH * (1 - single) / (single * (1 - ENOUGH)) - 1e-9))


def seed_deviation(scores: Table) -> float:
    n, k = scores.shape
    residual = scores - scores.mean(1, keepdims=True) - scores.mean(0, keepdims=True) + scores.mean()
    return float(np.sqrt((residual**2).sum() / ((n - 1) * (k - 1))))


def agreement(scores: Table, reference: Table, measure: Callable[..., Any]) -> float:
    """Rank correlation of one seed's scores with the references' means, averaged over seeds."""
    return float(np.mean([measure(column, reference.mean(1)).statistic for column in scores.T]))


def interval(n: int, statistic: Callable[[npt.NDArray[np.intp]], float]) -> tuple[float, float]:
    """5th and 95th percentile over resampled designs."""
    rng = np.random.default_rng(0)
    draws = [statistic(rng.integers(0, n, n)) for _ in range(N_BOOTSTRAP)]
    low, high = np.nanpercentile(draws, (5, 95))
    return float(low), float(high)


@dataclass(frozen=True)
class Judged:
    """A variant's scores under one read-out, beside the references."""

    scores: Table
    reference: Table

    def line(self) -> str:
        n = len(self.scores)
        with np.errstate(all="ignore"):
            low, high = interval(n, lambda chosen: icc(self.scores[chosen]))
            tau = agreement(self.scores, self.reference, kendalltau)
            worst, best = interval(n, lambda chosen: agreement(self.scores[chosen], self.reference[chosen], kendalltau))
        rho = agreement(self.scores, self.reference, spearmanr)
        return (
            f"{self.scores.mean():.4f}  {seed_deviation(self.scores):.4f}  {self.scores.mean(1).std(ddof=1):.4f}  "
            f"{icc(self.scores):5.2f} [{low:5.2f}, {high:5.2f}] {seeds_needed(self.scores):>5} "
            f"{icc(without_farthest(self.scores)):7.2f}  "
            f"{tau:5.2f} [{worst:5.2f}, {best:5.2f}]  {rho:5.2f}"
        )


def unlearned(rows: list[Row], all_rows: list[Row]) -> tuple[int, int]:
    """Runs with a class that was not learned, of how many."""

    def by_class(row: Row) -> Table:
        return np.asarray(np.nanmean(np.array(row["dice"][END]["hard"], dtype=float), axis=0))

    enough = np.median([by_class(row) for row in all_rows], axis=0) / 2
    return sum(bool((by_class(row) < enough).any()) for row in rows), len(rows)


def report(name: str, rows: list[Row]) -> None:
    """The tables of one dataset."""
    references = [row for row in rows if row["variant"] == "reference"]
    names = dict.fromkeys(row["variant"] for row in rows if row["variant"] != "reference")
    variants = [name for name in names if len({row["seed"] for row in rows if row["variant"] == name}) > 1]
    print(f"\n{name}: {len(rows)} runs, {len(references)} of them references")
    if len(whole_designs(references)) < N_VARIANT_DESIGNS:
        print("  too few references yet")
        return
    full = table(references, lambda row: objective(row, END, "hard", None))
    n_missed, n = unlearned(references, rows)
    seconds = np.mean([row["seconds"] for row in references])
    print(
        f"  references: Dice {full.mean():.4f}, seeds {seed_deviation(full):.4f}, designs "
        f"{full.mean(1).std(ddof=1):.4f}, ICC {icc(full):.2f} ({icc(without_farthest(full)):.2f} less 1), "
        f"reliability of their means {reliability(full):.2f}, "
        f"unlearned {n_missed} of {n}, {seconds:.0f} s each"
    )
    header = "Dice    seeds   designs  ICC [90 %]         seeds  less 1  tau [90 %]            rho"
    print(f"\n  {'variant':<14}{'s':>4} {'unlearned':>10}  {header}")

    def line(label: str, own: list[Row]) -> None:
        n_missed, n = unlearned(own, rows)
        print(
            f"  {label:<14}{np.mean([row['seconds'] for row in own]):4.0f} {f'{n_missed} of {n}':>10}  "
            f"{judged(own, references, END, 'hard', None).line()}"
        )

    for variant in variants:
        line(variant, [row for row in rows if row["variant"] == variant and row["design"] < N_VARIANT_DESIGNS])
    line("DEFAULT", [row for row in rows if row["variant"] == SETS[name].default])
    print(f"\n  {'variant':<14} {'read-out':<26}  {header}")
    for variant in variants:
        own = [row for row in rows if row["variant"] == variant and row["design"] < N_VARIANT_DESIGNS]
        for read_out in own[0]["dice"]:
            for kind in ("hard", "soft"):
                print(
                    f"  {variant:<14} {f'{read_out}, {kind}':<26}  "
                    f"{judged(own, references, read_out, kind, None).line()}"
                )
        for n_cases in FEW_CASES:
            print(
                f"  {variant:<14} {f'{END}, hard, {n_cases} cases':<26}  "
                f"{judged(own, references, END, 'hard', n_cases).line()}"
            )


def judged(own: list[Row], references: list[Row], read_out: str, kind: str, n_cases: int | None) -> Judged:
    """On the designs that have references, too."""
    known = set(whole_designs(own)) & set(whole_designs(references))

    def of(rows: list[Row], read_out: str, kind: str, n_cases: int | None) -> Table:
        return table(
            [row for row in rows if row["design"] in known], lambda row: objective(row, read_out, kind, n_cases)
        )

    return Judged(of(own, read_out, kind, n_cases), of(references, END, "hard", None))


def main() -> int:
    for file in sorted(RESULTS.glob("noise-*.jsonl")):
        report(file.stem.removeprefix("noise-"), [json.loads(line) for line in file.read_text().splitlines()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
