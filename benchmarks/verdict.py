"""How far verdicts, shrunken estimates and re-seeding can be trusted: simulated studies of which the truth is known.

    python benchmarks/verdict.py                   # about 25 minutes of one core; goes on where it stopped
    python benchmarks/verdict.py --only intervals  # one part of: intervals finals chosen policies cheapest

Every world is simulated 2,000 times from a seed of its own. A row a world and method goes to
benchmarks/results/verdict.jsonl; what stands there is not repeated; verdict_report.py makes the table of it.
The recorded runs, benchmarks/results/proxies-*.jsonl, hold one design with two seeds a set, and noise.txt the deviations
of designs and seeds: too few designs to choose from, so their deviations are simulated.

``intervals``: one design against the U-Net with a plan of finals. How often the interval covers the truth, how often it
says better or worse, its width in units of the ideal one; against the two-way bootstrap, plain and studentised, the
fiducial distribution of the mean squares, and a sign-flip test over cases alone.

``finals``: the best of three designs, chosen by the very scores that judge it. ``chosen``: the best of 200 trainings.
``policies``: what re-seeding is worth. ``cheapest``: the cheapest design that is not worse than the U-Net.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit
from scipy.stats import permutation_test

from unetx_search import reseeding
from unetx_search.reseeding import Replicate, Training, n_replicates, next_replicate
from unetx_studies import shrinkage as shrinking
from unetx_studies.shrinkage import Shrinkage, shrinkage
from unetx_studies.spread import Scored, Vector, design_deviation, seed_spread
from unetx_studies.verdict import Noise, Scores, conclusions, detectable, verdict, zoom
from unetx_studies.verdict.differences import mean_squares

RESULTS = Path(__file__).parent / "results"
ROWS = RESULTS / "verdict.jsonl"
N_STUDIES = 2_000
N_BOOTSTRAP = 400
SEED_SD, CASE_SD, REST_SD, MARGIN = 0.006, 0.02, 0.02, 0.005
"""Of a design's mean score from seed to seed; of a case's difference, whatever the seed; and of one seed's beyond both."""
Rng = np.random.Generator
Row = dict[str, Any]


@dataclass(frozen=True)
class Finals:
    """A world of finals: true differences to the U-Net, and how scores scatter around them."""

    name: str
    truth: tuple[float, ...] = (0.0,)
    n_seeds: int = 5
    sizes: tuple[int, ...] = (1,) * 30
    """Cases of each patient."""
    shape: str = "normal"
    """Of what differs from case to case: normal, heavy (t with 3 degrees of freedom), skewed (exponential)."""
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
        """[study, design, seed, case] of designs less U-Net, whose own noise all designs have in common."""
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


# --- intervals --------------------------------------------------------------------------------------------------------


def satterthwaite(values: Vector, groups: Sequence[str], rng: Rng) -> tuple[Vector, Vector]:
    """The product's."""
    squares = mean_squares(values, groups)
    variance, df = squares.variance()
    reach = stdtrit(df, 0.975) * np.sqrt(variance)
    return squares.mean - reach, squares.mean + reach


def fiducial(values: Vector, groups: Sequence[str], rng: Rng) -> tuple[Vector, Vector]:
    """Mean squares over drawn chi-squares (Weerahandi, Generalized Confidence Intervals, JASA 88, 899-905, 1993)."""
    squares = mean_squares(values, groups)
    dfs = squares.n_seeds - 1.0, squares.df_groups
    draws = [rng.chisquare(df, (N_BOOTSTRAP * 5, 1)) / df for df in (*dfs, dfs[0] * dfs[1])]
    seeds, of_groups, rest = squares.seeds / draws[0], squares.groups / draws[1], squares.rest / draws[2]
    total = np.maximum(seeds + of_groups - rest, np.minimum(seeds, of_groups)) / (squares.n_seeds * squares.n_groups)
    reach = np.quantile(abs(rng.standard_normal(draws[0].shape)) * np.sqrt(total), 0.95, axis=0)
    return squares.mean - reach, squares.mean + reach


def bootstrap(values: Vector, groups: Sequence[str], rng: Rng, studentised: bool = False) -> tuple[Vector, Vector]:
    """Seeds and patients drawn again: percentiles, or those of Student's ratio."""
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
    """Patients' means, seeds taken as given: what a test that forgets the seeds would say."""
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


# --- finals: the best of three ----------------------------------------------------------------------------------------


def finals() -> Iterator[tuple[str, str, Callable[[], Row]]]:
    quiet = {"case_sd": 0.008, "rest_sd": 0.01, "seed_sd": 0.003}
    worlds = (
        Finals("three like U-Net", (0.0,) * 3),
        Finals("three like U-Net, 3 seeds", (0.0,) * 3, n_seeds=3),
        Finals("three like U-Net, heavy-tailed", (0.0,) * 3, shape="heavy"),
        Finals("one at +0.01", (0.01, 0.0, 0.0)),
        Finals("0, +0.005, +0.01", (0.0, 0.005, 0.01)),
        Finals("three at +0.02", (0.02,) * 3),
        Finals("little noise, three like U-Net", (0.0,) * 3, **quiet),  # type: ignore[arg-type]
        Finals("little noise, all at the margin", (MARGIN,) * 3, **quiet),  # type: ignore[arg-type]
        Finals("little noise, all at minus the margin", (-MARGIN,) * 3, **quiet),  # type: ignore[arg-type]
    )
    for world in worlds:
        yield world.name, "best of 3", lambda world=world: best_of_three(world)  # type: ignore[misc]


def best_of_three(world: Finals) -> Row:
    values = world.differences(seeded("finals", world.name), N_STUDIES)
    names, costs = ("a", "b", "c", "u-net"), {"a": 0.7, "b": 0.8, "c": 0.9, "u-net": 1.0}
    out = []
    for table in values:
        scores = Scores(names, tuple(range(world.n_seeds)), world.groups, np.concatenate([table, table[:1] * 0.0]))
        found = verdict(scores, names[:3], names[3:], costs=costs, margin=MARGIN)
        assert found.chosen is not None
        chosen = names.index(found.chosen.design)
        truth, own = world.truth[chosen], found.comparisons[chosen]
        cheap = None if found.cheapest is None else world.truth[names.index(found.cheapest.design)]
        out.append(
            (
                own.difference.mean - truth,
                found.chosen.estimate - truth,
                own.low <= truth <= own.high,
                found.chosen.low <= truth <= found.chosen.high,
                own.low > 0,
                found.chosen.low > 0,
                min(one.p_value for one in found.comparisons) <= 0.05,
                "equivalent" in found.conclusion,
                cheap is not None,
                cheap is not None and cheap <= -MARGIN,
            )
        )
    keys = "plain_bias cross_bias plain_cover zoom_cover plain_better zoom_better holm equivalent cheaper cheap_wrong"
    row = dict(zip(keys.split(), np.mean(np.array(out, dtype=float), axis=0).tolist(), strict=True))
    return {**row, "plain_bias": row["plain_bias"] / world.seed_sd, "cross_bias": row["cross_bias"] / world.seed_sd}


# --- the best of 200 trainings ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """A world of searches: how designs and seeds scatter."""

    name: str
    design_sd: float = 0.005
    seed_sd: float = SEED_SD
    common_sd: float = 0.0
    """What a seed gives to all designs."""
    shape: str = "normal"
    """Of the designs: normal, skewed (a tail of bad ones), outliers (one in fourteen is far below)."""
    total: int = 200

    @property
    def must_show(self) -> bool:
        """One of those that are simulated as often as the finals; the others a quarter as often."""
        return self in SEARCHES[:3]

    def designs(self, rng: Rng, n: int) -> Vector:
        if self.shape == "skewed":
            return self.design_sd * (1.0 - rng.exponential(size=n))
        found = self.design_sd * rng.standard_normal(n)
        if self.shape == "outliers":
            found[rng.choice(n, n // 14, replace=False)] -= self.design_sd * rng.uniform(4, 30, n // 14)
        return found


SEARCHES = (
    Search("designs 0.005"),
    Search("no difference", design_sd=0.0),
    Search("correlated seeds", common_sd=SEED_SD),
    Search("designs 0.002", design_sd=0.002),
    Search("designs 0.01", design_sd=0.01),
    Search("a tail of bad designs", shape="skewed"),
    Search("outliers", shape="outliers"),
    Search("60 trainings", total=60),
    Search("recorded nuclei", design_sd=0.0141, seed_sd=0.0027),
    Search("recorded slices", design_sd=0.0039, seed_sd=0.0031),
    Search("recorded slices, naive", design_sd=0.0145, seed_sd=0.0169),
)
Known = tuple[Scored, ...]
Policy = Callable[[Search, list[Training], Rng], Replicate | None]


@lru_cache(maxsize=4)
def estimated(scores: Known) -> Shrinkage | None:
    return shrinkage(scores)


def halving(world: Search, begun: list[Training], rng: Rng) -> Replicate | None:
    return next_replicate(begun, world.total, range(100), reference="000", n_given=1)


def by_posterior(choose: Callable[[Vector, Vector, float, Rng], int]) -> Policy:
    """A policy that names a design by the posterior means and variances of all, in the same last part of the total."""

    def policy(world: Search, begun: list[Training], rng: Rng) -> Replicate | None:
        used: dict[str, int] = {}
        for one in begun:
            used[one.design] = used.get(one.design, 0) + 1
        if len(used) < world.total - n_replicates(world.total, 0.3):
            return None
        known = estimated(tuple(Scored(one.design, one.seed, one.score) for one in begun if one.score is not None))
        assert known is not None
        noise = known.seed_deviation**2
        means = np.array([one.mean for one in known.estimates])
        variances = np.array([one.standard_error**2 for one in known.estimates])
        waiting = np.array([used[one.design] - len(one.seeds) for one in known.estimates])
        variances = 1.0 / (1.0 / np.maximum(variances, 1e-12) + waiting / max(noise, 1e-12))
        design = known.estimates[choose(means, variances, noise, rng)].design
        return Replicate(design, used[design])

    return policy


def top_two(means: Vector, variances: Vector, noise: float, rng: Rng) -> int:
    """Russo 2020: with even odds the best of one draw, or else of the first draw that another is the best of."""
    draws = means + np.sqrt(variances) * rng.standard_normal((100, len(means)))
    bests = draws.argmax(1)
    others = bests[bests != bests[0]]
    return int(bests[0] if rng.random() < 0.5 or not len(others) else others[0])


def knowledge_gradient(means: Vector, variances: Vector, noise: float, rng: Rng) -> int:
    """Frazier, Powell and Dayanik, SIAM Journal on Control and Optimization 47(5), 2410-2439, 2008."""
    second, first = np.partition(means, -2)[-2:]
    rival = np.where(np.arange(len(means)) == means.argmax(), second, first)
    reach = np.maximum(variances / np.sqrt(variances + noise), 1e-15)
    z = -abs(means - rival) / reach
    return int(np.argmax(reach * (z * ndtr(z) + np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))))


def fixed(world: Search, begun: list[Training], rng: Rng) -> Replicate | None:
    """A quarter of the total with four seeds each."""
    n = world.total // 4
    return None if len(begun) < n else Replicate(f"{len(begun) % n:03}", len(begun) // n)


N_WORKERS = 8
POLICIES: dict[str, Policy] = {
    "none": lambda world, begun, rng: None,
    "halving": halving,
    "top-two thompson": by_posterior(top_two),
    "knowledge gradient": by_posterior(knowledge_gradient),
    "a quarter x 4": fixed,
}


FIRST = ("none", "halving")


def studies(world: Search, policy: str, n: int) -> Iterator[tuple[Vector, list[Training]]]:
    """Truths and finished trainings of simulated searches with eight workers that finish together."""
    rng, choices = seeded("studies", world.name), seeded("choices", world.name, policy)
    for _ in range(n):
        truth = world.designs(rng, world.total)
        seeds = world.common_sd * rng.standard_normal(100)
        noise = rng.standard_normal((world.total, 100)) * world.seed_sd
        done: list[Training] = []
        n_new = 0
        while len(done) < world.total:
            pending: list[Training] = []
            while len(pending) < N_WORKERS and len(done) + len(pending) < world.total:
                found = POLICIES[policy](world, [*done, *pending], choices)
                n_new += found is None
                pending.append(Training(f"{n_new - 1:03}", 0) if found is None else Training(*found))
            for design, seed, _ in pending:
                score = 0.8 + truth[int(design)] + seeds[seed] + noise[int(design), seed]
                done.append(Training(design, seed, float(score)))
        yield 0.8 + truth, done


def chosen() -> Iterator[tuple[str, str, Callable[[], Row]]]:
    for world in SEARCHES:
        for policy in FIRST:
            n = N_STUDIES if world.must_show else N_STUDIES // 4
            yield world.name, policy, lambda world=world, policy=policy, n=n: searched(world, policy, n)  # type: ignore[misc]


def policies() -> Iterator[tuple[str, str, Callable[[], Row]]]:
    for world in SEARCHES:
        for policy in POLICIES:
            if policy not in FIRST:
                n = N_STUDIES // 2 if world is SEARCHES[0] else N_STUDIES // 8
                yield world.name, policy, lambda world=world, policy=policy, n=n: searched(world, policy, n)  # type: ignore[misc]


def searched(world: Search, policy: str, n: int) -> Row:
    """Of the design with the highest estimate: its truth, and how far estimates and intervals are from it."""
    rows = []
    for truth, done in studies(world, policy, n):
        scores = [Scored(one.design, one.seed, one.score or 0.0) for one in done]
        known = shrinkage(scores)
        assert known is not None
        best = known.estimates[0]
        of = truth[int(best.design)]
        lead, error = known.difference(best.design, "000")
        behind = of - truth[0]
        ranked = known.estimates
        means = np.array([one.raw for one in ranked])
        errors = world.seed_sd / np.sqrt([len(one.seeds) for one in ranked])
        top = int(means.argmax())
        low, high = (
            zoom(means, errors, 1e6, 0.04, 0.01) if policy in FIRST and len(rows) < n // 40 else (np.nan, np.nan)
        )
        zoomed = truth[int(ranked[top].design)]
        moments = likely = (best.design, np.nan)
        if len(rows) < N_STUDIES // 4:
            moments, likely = by_moments(scores), by_likelihood(scores)
        rows.append(
            (
                of - 0.8,
                best.raw - of,
                best.mean - of,
                abs(best.mean - of) <= 1.96 * best.standard_error,
                abs(lead - behind) <= 1.96 * error,
                lead > 1.96 * error and behind <= 0,
                lead > 1.96 * error,
                3.92 * best.standard_error,
                np.nan if np.isnan(low) else low <= zoomed <= high,
                high - low,
                moments[1] - truth[int(moments[0])],
                likely[1] - truth[int(likely[0])],
                len(best.seeds),
            )
        )
    keys = "truth plain shrunken cover cover_lead false_better better width zoom_cover zoom_width moments reml seeds"
    row = dict(zip(keys.split(), np.nanmean(np.array(rows, dtype=float), axis=0).tolist(), strict=True))
    return {**row, **{key: row[key] / world.seed_sd for key in ("plain", "shrunken", "moments", "reml")}, "n": n}


def by_moments(scores: list[Scored]) -> tuple[str, float]:
    """The best by shrinkage with the moments' variances of spread.py, and its estimate."""
    seeds, designs = seed_spread(scores), design_deviation(scores)
    by_design: dict[str, list[float]] = {}
    for one in scores:
        by_design.setdefault(one.design, []).append(one.score)
    centre = np.mean([np.mean(own) for own in by_design.values()])
    if seeds is None or designs is None:
        best = max(by_design, key=lambda name: np.mean(by_design[name]))
        return best, float(np.mean(by_design[best]))
    estimates = {
        name: centre + (np.mean(own) - centre) * designs**2 / (designs**2 + seeds.deviation**2 / len(own))
        for name, own in by_design.items()
    }
    best = max(estimates, key=lambda name: estimates[name])
    return best, float(estimates[best])


def by_likelihood(scores: list[Scored]) -> tuple[str, float]:
    """The best by the most likely node of the grid: restricted maximum likelihood, as finely as the grid is."""
    index: dict[str, int] = {}
    for one in scores:
        index.setdefault(one.design, len(index))
    table = np.full((len(index), 1 + max(one.seed for one in scores)), np.nan)
    for one in scores:
        table[index[one.design], one.seed] = one.score
    posterior, _, _ = shrinking._posterior(table[:, ~np.isnan(table).all(0)], index)
    weight = (posterior.weight == posterior.weight.max()).astype(float)
    means, _ = replace(posterior, weight=weight / weight.sum()).marginal()
    best = int(means.argmax())
    return list(index)[best], float(means[best])


# --- the cheapest that is as good -------------------------------------------------------------------------------------


def cheapest() -> Iterator[tuple[str, str, Callable[[], Row]]]:
    for covered in (True, False):
        for probability in (0.5, 0.8, 0.95):
            name = f"{'contenders covered' if covered else 'best alone'}, probability {probability:g}"
            yield name, "halving", lambda covered=covered, p=probability: cheap(covered, p)  # type: ignore[misc]


def cheap(covered: bool, probability: float) -> Row:
    """Costs between half and one and a half of the U-Net's, no matter how good. Half of all designs cost less."""
    rng, world = seeded("cheapest"), SEARCHES[0]
    rows = []
    for _ in range(N_STUDIES // 4):
        truth = world.designs(rng, world.total)
        truth[0] = 0.0
        noise = rng.standard_normal((world.total, 100)) * world.seed_sd
        costs = {f"{i:03}": float(cost) for i, cost in enumerate(rng.uniform(0.5, 1.5, world.total))} | {"000": 1.0}
        done: list[Training] = []
        n_new = 0
        while len(done) < world.total:
            pending: list[Training] = []
            while len(pending) < N_WORKERS and len(done) + len(pending) < world.total:
                found = next_replicate(
                    [*done, *pending], world.total, range(100),
                    reference="000", costs=costs if covered else None, margin=MARGIN,
                )  # fmt: skip
                n_new += found is None
                pending.append(Training(f"{n_new - 1:03}", 0) if found is None else Training(*found))
            done += [Training(d, s, float(0.8 + truth[int(d)] + noise[int(d), s])) for d, s, _ in pending]
        known = shrinkage(Scored(one.design, one.seed, one.score or 0.0) for one in done)
        assert known is not None
        name = known.cheapest(costs, "000", MARGIN, probability)
        best = truth[int(known.estimates[0].design)]
        rows.append((best, costs[name or "000"], name is not None and truth[int(name)] < -MARGIN, name is not None))
    return dict(
        zip("truth cost wrong named".split(), np.mean(np.array(rows, dtype=float), axis=0).tolist(), strict=True)
    )


# --- rows and table ---------------------------------------------------------------------------------------------------

PARTS = {"intervals": intervals, "finals": finals, "chosen": chosen, "policies": policies, "cheapest": cheapest}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=PARTS, help="one part")
    asked = parser.parse_args()
    conclusions.sign_flip = conclusions.signed_rank = lambda differences: 1.0  # slow, and judged in "intervals"
    reseeding.shrinkage = lambda scores: estimated(tuple(scores))  # eight workers ask with the same finished scores
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    done = {(row["part"], row["world"], row["method"]) for row in rows}
    for part in [asked.only] if asked.only else PARTS:
        for world, method, run in PARTS[part]():
            if (part, world, method) in done:
                continue
            began = time.process_time()
            row = {"part": part, "world": world, "method": method, **run(), "seconds": 0.0}
            row["seconds"] = round(time.process_time() - began, 1)
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
