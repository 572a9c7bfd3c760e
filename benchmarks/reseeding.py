"""What re-seeding and shrunken estimates are worth: simulated searches of which the truth is known.

    python benchmarks/reseeding.py                # about 6 minutes of one core; goes on where it stopped
    python benchmarks/verdict_report.py > benchmarks/results/verdict.txt

Searches of 200 trainings (60 in one world) with eight workers that finish together, 2,000 of the first two worlds and
250 of the others. Designs scatter by 0.005 and seeds
by 0.006, as on a set of thin vessels, or as benchmarks/results/noise.txt has them for recorded runs; the recorded runs
themselves, benchmarks/results/proxies-*.jsonl, hold one design with two seeds a set, and cannot be chosen from.

``chosen``: of the design with the highest estimate its truth, how far estimates are from it, and how often intervals
hold it. ``policies``: the same after other ways of re-seeding. ``cheapest``: the cheapest design that passes for as
good as the U-Net. Rows go to benchmarks/results/verdict.jsonl; what stands there is not repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.special import ndtr
from verdict import MARGIN, N_STUDIES, SEED_SD, Part, Rng, Row, seeded, work_off, zoom

from unetx_search import reseeding
from unetx_search.reseeding import Replicate, Training, n_replicates, next_replicate
from unetx_studies import shrinkage as shrinking
from unetx_studies.shrinkage import Shrinkage, shrinkage
from unetx_studies.spread import Scored, Vector, seed_spread


@dataclass(frozen=True)
class Search:
    """A world of searches: how designs and seeds scatter."""

    name: str
    design_sd: float = 0.005
    seed_sd: float = SEED_SD
    common_sd: float = 0.0
    """Standard deviation of the effect of a seed on all designs."""
    shape: str = "normal"
    """Distribution of the designs: normal, skewed (a tail of bad ones), outliers (one in fourteen is far below)."""
    total: int = 200

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
    """A policy that chooses a design by the posterior means and variances of all, in the last part of the total."""

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
    """Top-two sampling (Russo 2020): with even odds the best of one draw, or of the first draw with another best."""
    draws = means + np.sqrt(variances) * rng.standard_normal((100, len(means)))
    bests = draws.argmax(1)
    others = bests[bests != bests[0]]
    return int(bests[0] if rng.random() < 0.5 or not len(others) else others[0])


def knowledge_gradient(means: Vector, variances: Vector, noise: float, rng: Rng) -> int:
    """The knowledge gradient (Frazier, Powell and Dayanik, SIAM J. on Control and Optimization 47(5), 2410-2439,
    2008)."""
    second, first = np.partition(means, -2)[-2:]
    rival = np.where(np.arange(len(means)) == means.argmax(), second, first)
    reach = np.maximum(variances / np.sqrt(variances + noise), 1e-15)
    z = -abs(means - rival) / reach
    return int(np.argmax(reach * (z * ndtr(z) + np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))))


def fixed(world: Search, begun: list[Training], rng: Rng) -> Replicate | None:
    """A policy that spends a quarter of the total on four seeds each."""
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


UNITS = ("plain", "shrunken", "moments", "reml")
"""What is told in units of the deviation of a design's score from seed to seed."""
FIRST = ("none", "halving")


def studies(world: Search, policy: Policy, n: int, name: str) -> Iterator[tuple[Vector, list[Training]]]:
    """Truths and finished trainings of simulated searches with eight workers that finish together."""
    rng, choices = seeded("studies", world.name), seeded("choices", world.name, name)
    for _ in range(n):
        truth = world.designs(rng, world.total)
        seeds = world.common_sd * rng.standard_normal(100)
        noise = rng.standard_normal((world.total, 100)) * world.seed_sd

        def trained(design: str, seed: int) -> Training:
            score = 0.8 + truth[int(design)] + seeds[seed] + noise[int(design), seed]  # noqa: B023
            return Training(design, seed, float(score))

        n_new = {"a quarter x 4": 0, "none": world.total}.get(name, world.total - n_replicates(world.total, 0.3))
        n_new -= n_new % N_WORKERS  # until then, the policies propose new designs
        done = [trained(f"{i:03}", 0) for i in range(n_new)]
        while len(done) < world.total:
            pending: list[Training] = []
            while len(pending) < N_WORKERS and len(done) + len(pending) < world.total:
                found = policy(world, [*done, *pending], choices)
                n_new += found is None
                pending.append(Training(f"{n_new - 1:03}", 0) if found is None else Training(*found))
            done += [trained(design, seed) for design, seed, _ in pending]
        yield 0.8 + truth, done


def chosen() -> Part:
    for world in SEARCHES:
        for policy in FIRST:
            n = N_STUDIES if world in SEARCHES[:2] else N_STUDIES // 8
            yield world.name, policy, lambda world=world, policy=policy, n=n: searched(world, policy, n)  # type: ignore[misc]


def policies() -> Part:
    for world in (SEARCHES[0], SEARCHES[1], SEARCHES[3], SEARCHES[4], SEARCHES[9]):
        for policy in POLICIES:
            if policy not in FIRST:
                n = N_STUDIES // 4 if world is SEARCHES[0] else N_STUDIES // 16
                yield world.name, policy, lambda world=world, policy=policy, n=n: searched(world, policy, n)  # type: ignore[misc]


def searched(world: Search, policy: str, n: int) -> Row:
    """The truth of the design with the highest estimate, and the errors of estimates and intervals."""
    rows = []
    for truth, done in studies(world, POLICIES[policy], n, policy):
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
        if len(rows) < N_STUDIES // 8:
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
    return {**row, **{key: row[key] / np.hypot(world.seed_sd, world.common_sd) for key in UNITS}, "n": n}


def by_moments(scores: list[Scored]) -> tuple[str, float]:
    """The best by shrinkage with the variances of the method of moments, and its estimate.

    s_a^2 = (MSA - MSE) / n_0 and no less than 0, with MSA = sum n_i (mean_i - mean)^2 / (k - 1) and
    n_0 = (N - sum n_i^2 / N) / (k - 1) (Searle et al. 1992, chapter 3, on unbalanced data).
    """
    seeds = seed_spread(scores)
    by_design: dict[str, list[float]] = {}
    for one in scores:
        by_design.setdefault(one.design, []).append(one.score)
    means = {name: float(np.mean(own)) for name, own in by_design.items()}
    if seeds is None or len(means) < 2:
        best = max(means, key=lambda name: means[name])
        return best, means[best]
    sizes, plain = np.array([len(own) for own in by_design.values()]), np.array([*means.values()])
    n_0 = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(means) - 1)
    between = sizes @ (plain - sizes @ plain / sizes.sum()) ** 2 / (len(means) - 1)
    square, centre = max(0.0, between - seeds.deviation**2) / n_0, plain.mean()
    estimates = {
        name: centre + (means[name] - centre) * square / (square + seeds.deviation**2 / len(own))
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


def cheapest() -> Part:
    yield "contenders covered", "halving", lambda: cheap(True)
    yield "best alone", "halving", lambda: cheap(False)


def cheap(covered: bool) -> Row:
    """The row of searches for the cheapest design, with costs of 0.5 to 1.5 times the U-Net's, whatever the score."""
    world = SEARCHES[0]
    drawn = seeded("costs").uniform(0.5, 1.5, world.total)
    costs = {f"{i:03}": float(cost) for i, cost in enumerate(drawn)} | {"000": 1.0}

    def policy(world: Search, begun: list[Training], rng: Rng) -> Replicate | None:
        known = costs if covered else None
        return next_replicate(begun, world.total, range(100), reference="000", n_given=1, costs=known, margin=MARGIN)

    rows = []
    for truth, done in studies(world, policy, N_STUDIES // 8, "cheapest"):
        known = shrinkage(Scored(one.design, one.seed, one.score or 0.0) for one in done)
        assert known is not None
        row = {"truth": truth[int(known.estimates[0].design)] - 0.8}
        for probability in (0.5, 0.8, 0.95):
            name = known.cheapest(costs, "000", MARGIN, probability)
            row[f"cost {probability}"] = costs[name or "000"]
            row[f"wrong {probability}"] = name is not None and truth[int(name)] < truth[0] - MARGIN
        rows.append(row)
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def main() -> int:
    reseeding.shrinkage = lambda scores: estimated(tuple(scores))  # eight workers ask with the same finished scores
    work_off({"chosen": chosen, "policies": policies, "cheapest": cheapest})
    return 0


if __name__ == "__main__":
    sys.exit(main())
