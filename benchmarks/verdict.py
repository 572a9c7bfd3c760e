"""How far a verdict on finals can be trusted: simulated studies of which the truth is known.

    python benchmarks/verdict.py                  # about 5 minutes of one core; goes on where it stopped
    python benchmarks/verdict_report.py > benchmarks/results/verdict.txt

Every world is simulated 2,000 times, the choice among several 1,000 times, from a seed of its own. A row a world and
method goes to benchmarks/results/verdict.jsonl; what stands there is not repeated.

``intervals``: one design against the U-Net with a plan of finals. How often the interval holds the truth, how often it
says better or worse, and its width in units of the ideal one; against the two-way bootstrap, plain and studentised, the
fiducial distribution of the mean squares, and a sign-flip test over cases alone.

``finals``: the best of several designs, chosen by the very scores that judge it: cross-fitted as in the product, by the
zoom correction, and as if it had been named beforehand.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit
from scipy.stats import permutation_test

from unetx_studies.spread import Vector
from unetx_studies.verdict import Noise, Scores, conclusions, detectable, verdict
from unetx_studies.verdict.differences import mean_squares

ROWS = Path(__file__).parent / "results" / "verdict.jsonl"
N_STUDIES, N_BOOTSTRAP, N_STEPS = 2_000, 400, 200
SEED_SD, CASE_SD, REST_SD, MARGIN = 0.006, 0.02, 0.02, 0.005
"""Of a design's mean score from seed to seed; of a case's difference, whatever the seed; of one seed's beyond both."""
Rng = np.random.Generator
Row = dict[str, Any]
Part = Iterator[tuple[str, str, Callable[[], Row]]]


@dataclass(frozen=True)
class Finals:
    """A world of finals: true differences to the U-Net, and how scores scatter around them."""

    name: str
    truth: tuple[float, ...] = (0.0,)
    n_seeds: int = 5
    sizes: tuple[int, ...] = (1,) * 30
    """Number of cases of each patient."""
    shape: str = "normal"
    """Distribution over cases: normal, heavy (t with 3 degrees of freedom), skewed (exponential)."""
    shared: float = 0.0
    """Correlation of designs on one seed."""
    seed_sd: float = SEED_SD
    case_sd: float = CASE_SD
    rest_sd: float = REST_SD
    patient_sd: float = 0.0

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(f"p{patient}" for patient, size in enumerate(self.sizes) for _ in range(size))

    def differences(self, rng: Rng, n: int) -> Vector:
        """Differences [study, design, seed, case] of designs to the U-Net, whose noise is common to all designs."""
        S, N, k = self.n_seeds, sum(self.sizes), len(self.truth)

        def cases(*shape: int) -> Vector:
            match self.shape:
                case "heavy":
                    return rng.standard_t(3, shape) / np.sqrt(3)
                case "skewed":
                    return 1.0 - rng.exponential(size=shape)
            return rng.standard_normal(shape)

        def less_unet(noise: Vector) -> Vector:
            return (noise[:, 1:] - noise[:, :1]) / np.sqrt(2)

        own = np.sqrt(2 * (1 - self.shared)) * self.seed_sd * less_unet(rng.standard_normal((n, k + 1, S, 1)))
        found = np.array(self.truth)[:, None, None] + own + self.case_sd * less_unet(cases(n, k + 1, 1, N))
        found = found + self.rest_sd * less_unet(cases(n, k + 1, S, N))
        if self.patient_sd:
            patients = self.patient_sd * less_unet(cases(n, k + 1, 1, len(self.sizes)))
            found = found + np.repeat(patients, self.sizes, axis=3)
        return found


WORLDS = (
    Finals("no difference"),
    Finals("+0.005", (0.005,)),
    Finals("+0.01", (0.01,)),
    Finals("+0.02", (0.02,)),
    Finals("heavy-tailed cases", shape="heavy"),
    Finals("skewed cases", shape="skewed"),
    Finals("correlated seeds", shared=0.7),
    Finals("3 cases a patient", sizes=(3,) * 12, patient_sd=0.02),
    Finals("1 to 6 cases a patient", sizes=(1, 2, 3, 4, 5, 6) * 4, patient_sd=0.02),
    Finals("noise of seeds alone", case_sd=0.002, rest_sd=0.002),
    Finals("noise of cases alone", seed_sd=0.0005, case_sd=0.04),
    Finals("3 seeds", n_seeds=3),
    Finals("10 seeds", n_seeds=10),
    Finals("8 cases", sizes=(1,) * 8),
    Finals("100 cases", sizes=(1,) * 100),
)


def seeded(*words: object) -> Rng:
    return np.random.default_rng(zlib.crc32(repr(words).encode()))


def satterthwaite(values: Vector, groups: Sequence[str], rng: Rng) -> tuple[Vector, Vector]:
    """The intervals of the product."""
    squares = mean_squares(values, groups)
    variance, df = squares.variance()
    reach = stdtrit(df, 0.975) * np.sqrt(variance)
    return squares.mean - reach, squares.mean + reach


def fiducial(values: Vector, groups: Sequence[str], rng: Rng) -> tuple[Vector, Vector]:
    """Intervals from mean squares over drawn chi-squares (Weerahandi, Generalized Confidence Intervals, JASA 88,
    899-905, 1993)."""
    squares = mean_squares(values, groups)
    dfs = squares.n_seeds - 1.0, squares.df_groups
    draws = [rng.chisquare(df, (N_BOOTSTRAP * 5, 1)) / df for df in (*dfs, dfs[0] * dfs[1])]
    seeds, of_groups, rest = squares.seeds / draws[0], squares.groups / draws[1], squares.rest / draws[2]
    total = np.maximum(seeds + of_groups - rest, np.minimum(seeds, of_groups)) / (squares.n_seeds * squares.n_groups)
    reach = np.quantile(abs(rng.standard_normal(draws[0].shape)) * np.sqrt(total), 0.95, axis=0)
    return squares.mean - reach, squares.mean + reach


def bootstrap(values: Vector, groups: Sequence[str], rng: Rng, studentised: bool = False) -> tuple[Vector, Vector]:
    """Bootstrap intervals over seeds and patients: percentiles, or those of Student's ratio."""
    names = np.unique(groups)
    member = [np.flatnonzero(np.asarray(groups) == name) for name in names]
    S, G = values.shape[1], len(names)
    low, high = np.empty(len(values)), np.empty(len(values))
    sizes = np.array([len(cases) for cases in member])
    for i, table in enumerate(values):
        sums = np.stack([table[:, cases].sum(1) for cases in member], 1)
        seeds, drawn = rng.integers(0, S, (N_BOOTSTRAP, S)), rng.integers(0, G, (N_BOOTSTRAP, G))
        again, weight = sums[seeds[:, :, None], drawn[:, None, :]], sizes[drawn]
        if studentised:
            means = again / weight[:, None, :]
            squares = mean_squares(means, range(G))
            variance, _ = squares.variance()
            own = mean_squares(sums / sizes, range(G))
            ratio = (squares.mean - own.mean) / np.sqrt(np.maximum(variance, 1e-18))
            error = np.sqrt(own.variance()[0])
            below, above = np.quantile(ratio, (0.025, 0.975))
            low[i], high[i] = own.mean - above * error, own.mean - below * error
        else:
            low[i], high[i] = np.quantile(again.sum((1, 2)) / (S * weight.sum(1)), (0.025, 0.975))
    return low, high


METHODS: dict[str, Callable[[Vector, Sequence[str], Rng], tuple[Vector, Vector]]] = {
    "satterthwaite": satterthwaite,
    "fiducial": fiducial,
    "bootstrap": bootstrap,
    "bootstrap-t": lambda values, groups, rng: bootstrap(values, groups, rng, studentised=True),
}


def intervals() -> Iterator[tuple[str, str, Callable[[], Row]]]:
    shown = replace(WORLDS[0], name="the detectable difference")
    noise = Noise(CASE_SD, np.sqrt(2) * SEED_SD, REST_SD)
    for world in (*WORLDS, replace(shown, truth=(detectable(noise, shown.n_seeds, len(shown.sizes)),))):
        for name in METHODS:
            yield world.name, name, lambda world=world, name=name: judged(world, name)  # type: ignore[misc]
        yield world.name, "sign-flip", lambda world=world: flipped(world)  # type: ignore[misc]


def judged(world: Finals, method: str) -> Row:
    values = world.differences(seeded("intervals", world.name), N_STUDIES)[:, 0]
    low, high = METHODS[method](values, world.groups, seeded("method", world.name, method))
    truth, means = world.truth[0], values.mean((1, 2))
    return {
        "cover": float(np.mean((low <= truth) & (truth <= high))),
        "better": float(np.mean(low > 0)),
        "worse": float(np.mean(high < 0)),
        "width": float(np.median(high - low) / (3.92 * means.std())),
        "truth": truth,
    }


def flipped(world: Finals) -> Row:
    """The result of a sign-flip test over patients' means, which ignores the seeds."""
    values = world.differences(seeded("intervals", world.name), N_STUDIES)[:, 0].mean(1)
    names, groups = np.unique(world.groups), np.asarray(world.groups)
    means = np.stack([values[:, groups == name].mean(1) for name in names], 1)
    rng = seeded("flips", world.name)
    p = permutation_test(
        (means,), np.mean, permutation_type="samples", vectorized=True, n_resamples=999, batch=50, axis=1, rng=rng
    ).pvalue
    sign = np.sign(means.mean(1))
    better, worse = (float(np.mean((p <= 0.05) & (sign == one))) for one in (1, -1))
    return {"better": better, "worse": worse, "truth": world.truth[0]}


def zoom(means: Vector, errors: Vector, df: Vector | float, below: float, above: float) -> tuple[float, float]:
    """The interval of the true value of whichever mean is the highest, for means that may depend on each other: the
    zoom correction (Zrnic and Fithian, A Flexible Defense Against the Winner's Curse, arXiv 2411.18569, 2024) with the
    union bound, on the side where choosing errs. The truth is below it with at most the first probability, above it
    with at most the second.

    Let i lie D_i below the highest truth. If no mean is too high by more than max(r, D_i / 2), and that of the truly
    best not too low by so much, then who lies more than 2 r below does not win, and the winner is too high by r at
    most. A value t of the winner's truth is in the interval unless the mean is further above it than the smallest r
    that makes this likely enough, with the D_i that fit the means and t best: (2 / 3) (t - mean_i), and 0 above t. One
    clear winner has the usual interval, k equal ones that of Bonferroni's correction. And a winner that is too low
    means that the truly best is too low, too: no choosing errs on that side.
    """
    best, tiny = int(np.argmax(means)), np.finfo(float).tiny
    df = np.broadcast_to(np.asarray(df, dtype=np.float64), means.shape)
    upper = float((stdtrit(df, 1.0 - above) * errors).max())
    widest = float((stdtrit(df, 1.0 - below / (len(means) + 1)) * errors).max())
    off = np.linspace(0.0, widest, N_STEPS + 1)
    half = np.maximum((means[best] - off[:, None] - means) / 3, 0.0)
    half[:, best] = 0.0
    probability = stdtr(df, -np.maximum(half, off[:, None]) / np.maximum(errors, tiny)).sum(1)
    out_of_reach = np.where(half > off[:, None], half, np.inf).min(1)
    probability += stdtr(df[best], -out_of_reach / max(errors[best], tiny))
    return float(means[best] - off[probability >= below].max()), float(means[best] + upper)


def finals() -> Iterator[tuple[str, str, Callable[[], Row]]]:
    quiet = {"case_sd": 0.008, "rest_sd": 0.01, "seed_sd": 0.003}
    worlds = (
        Finals("three like U-Net", (0.0,) * 3),
        Finals("three like U-Net, 3 seeds", (0.0,) * 3, n_seeds=3),
        Finals("three like U-Net, heavy-tailed", (0.0,) * 3, shape="heavy"),
        Finals("one at +0.01", (0.01, 0.0, 0.0)),
        Finals("0, +0.005, +0.01", (0.0, 0.005, 0.01)),
        Finals("three at +0.02", (0.02,) * 3),
        Finals("two at 0, one at +0.02", (0.0, 0.0, 0.02)),
        Finals("three like U-Net, patients", (0.0,) * 3, sizes=(3,) * 12, patient_sd=0.02),
        Finals("ten like U-Net", (0.0,) * 10),
        Finals("ten from 0 to +0.015", tuple(np.linspace(0.0, 0.015, 10).tolist())),
        Finals("little noise, three like U-Net", (0.0,) * 3, **quiet),  # type: ignore[arg-type]
        Finals("little noise, all at the margin", (MARGIN,) * 3, **quiet),  # type: ignore[arg-type]
        Finals("little noise, all at minus the margin", (-MARGIN,) * 3, **quiet),  # type: ignore[arg-type]
    )
    for world in worlds:
        yield world.name, "verdict", lambda world=world: best_of_several(world)  # type: ignore[misc]


def best_of_several(world: Finals) -> Row:
    values = world.differences(seeded("finals", world.name), N_STUDIES // 2)
    names = (*(f"d{i}" for i in range(len(world.truth))), "u-net")
    costs = {name: 0.5 + 0.5 * (i + 1) / len(names) for i, name in enumerate(names)}
    out = []
    for table in values:
        scores = Scores(names, tuple(range(world.n_seeds)), world.groups, np.concatenate([table, table[:1] * 0.0]))
        found = verdict(scores, names[:-1], names[-1:], costs=costs, margin=MARGIN)
        assert found.chosen is not None
        chosen = names.index(found.chosen.design)
        truth, own = world.truth[chosen], found.comparisons[chosen]
        low, high = found.chosen.difference.interval()
        squares = mean_squares(table, world.groups)
        variances, df = squares.variance()
        zoomed = zoom(squares.mean, np.sqrt(variances), df, 0.04, 0.01)
        cheap = None if found.cheapest is None else world.truth[names.index(found.cheapest.design)]
        out.append(
            {
                "plain_bias": (own.difference.mean - truth) / world.seed_sd,
                "bias": (found.chosen.difference.mean - truth) / world.seed_sd,
                "plain_cover": own.low <= truth <= own.high,
                "zoom_cover": zoomed[0] <= truth <= zoomed[1],
                "cover": low <= truth <= high,
                "zoom_width": (zoomed[1] - zoomed[0]) / (high - low),
                "plain_better": own.low > 0,
                "zoom_better": zoomed[0] > 0,
                "better": low > 0,
                "worse": high < 0,
                "holm": min(one.p_value for one in found.comparisons) <= 0.05,
                "equivalent": "equivalent" in found.conclusion,
                "cheaper": cheap is not None,
                "cheap_wrong": cheap is not None and cheap <= -MARGIN,
            }
        )
    return {key: float(np.mean([row[key] for row in out])) for key in out[0]}


def work_off(parts: dict[str, Callable[[], Part]]) -> None:
    """Compute the missing rows of these parts."""
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    done = {(row["part"], row["world"], row["method"]) for row in rows}
    for part, runs in parts.items():
        for world, method, run in runs():
            if (part, world, method) in done:
                continue
            began = time.process_time()
            row = {"part": part, "world": world, "method": method, **run()}
            row["seconds"] = round(time.process_time() - began, 1)
            print(json.dumps(row), file=sys.stderr, flush=True)
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")


def main() -> int:
    conclusions.sign_flip = conclusions.signed_rank = lambda differences: 1.0  # slow, and judged in "intervals"
    work_off({"intervals": intervals, "finals": finals})
    return 0


if __name__ == "__main__":
    sys.exit(main())
