"""How often an audit's intervals and its recommendation are right, on simulated scores whose truth is known.

    python benchmarks/audit.py > benchmarks/results/audit.txt

**intervals**: a proxy of pure noise, for so many designs: how often the 95 % interval of Kendall's and of Spearman's
correlation holds 0, and how often it lies above it.

**recommendation**: 12 designs, proxies of 100, 200 (the default) and 400 steps on two seeds, references on two. Scores
are truth, plus what the number of steps does to each design (``bias``), plus noise of the seed; standard deviations in
Dice. How often each number of steps is recommended, with a margin of 0.005; ``stays`` is "nothing is shown". ``loses``
is what a search of these designs by the recommended steps (or the default) truly loses more than by 400, on average,
and in how many of the audits that recommend fewer than the default that is more than the margin.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from statistics import fmean

import numpy as np

from unetx_search.audit.recommendation import recommended
from unetx_studies.proxy_agreement import bootstrap_draws, percentiles, rank_correlations
from unetx_studies.shrinkage import shrinkage
from unetx_studies.spread import Scored, Vector

N_TIMES = 500
N_DESIGNS, N_SEEDS, N_SEARCHES = 12, 2, 200
DEFAULT, LENGTHS = 200, (100, 200, 400)
MARGIN = 0.005
NOISE, REFERENCE_NOISE = 0.006, 0.003
SETTINGS = {
    "designs 0.005, no bias": (0.005, (0.0, 0.0, 0.0)),
    "designs 0.02, no bias": (0.02, (0.0, 0.0, 0.0)),
    "designs 0.02, bias 0.04 at 100": (0.02, (0.04, 0.0, 0.0)),
    "designs 0.02, bias 0.04 below 400": (0.02, (0.04, 0.04, 0.0)),
    "designs 0.02, bias 0.5 everywhere": (0.02, (0.5, 0.5, 0.5)),
    "designs equal": (1e-9, (0.0, 0.0, 0.0)),
}


def intervals() -> Iterator[str]:
    yield f"intervals of pure noise, {N_TIMES} times: share that hold 0, and that lie above it"
    yield f"  {'designs':>7}{'Kendall':>10}{'above':>8}{'Spearman':>11}{'above':>8}"
    rng = np.random.default_rng(0)
    for n in (5, 8, 12, 20):
        told = []
        for seed in range(N_TIMES):
            x, y = rng.normal(size=(2, n))
            rho, tau = rank_correlations(x, y, bootstrap_draws(n, seed=seed))
            told.append([percentiles(values, 2.5, 97.5) for values in (tau, rho)])
        bounds = np.array(told)  # [times, measure, end]
        holds, above = ((bounds[..., 0] <= 0) & (bounds[..., 1] >= 0)).mean(0), (bounds[..., 0] > 0).mean(0)
        yield f"  {n:>7}{holds[0]:>10.3f}{above[0]:>8.3f}{holds[1]:>11.3f}{above[1]:>8.3f}"


def recommendations() -> Iterator[str]:
    yield f"recommendations, {N_TIMES} times"
    head = "".join(f"{name:>7}" for name in (*LENGTHS, "stays"))
    yield f"  {'':<35}{head}{'loses':>9}{'wrongly short':>15}"
    rng = np.random.default_rng(1)
    for words, (spread, biases) in SETTINGS.items():
        found: Counter[int | None] = Counter()
        lost, wrong, n_short = [], 0, 0
        for _ in range(N_TIMES):
            truth: Vector = rng.normal(0.8, spread, N_DESIGNS)
            centres = [truth + bias * rng.normal(size=N_DESIGNS) for bias in biases]
            proxies = {steps: _scores(centre, NOISE, rng) for steps, centre in zip(LENGTHS, centres, strict=True)}
            reference = _scores(truth, REFERENCE_NOISE, rng)
            steps = recommended(proxies, DEFAULT, reference, _worth(reference), MARGIN).steps
            found[steps] += 1
            by_steps = dict(zip(LENGTHS, centres, strict=True))
            loss = _regret(by_steps[steps or DEFAULT], truth, rng) - _regret(centres[-1], truth, rng)
            lost.append(loss)
            is_short = steps is not None and steps < DEFAULT
            n_short += is_short
            wrong += is_short and loss > MARGIN
        counts = "".join(f"{found[steps] / N_TIMES:>7.0%}" for steps in (*LENGTHS, None))
        yield f"  {words:<35}{counts}{fmean(lost):>+9.4f}{wrong:>9} of {n_short}"


def _scores(centre: Vector, noise: float, rng: np.random.Generator, n_seeds: int = N_SEEDS) -> Vector:
    found: Vector = centre[:, None] + noise * rng.normal(size=(len(centre), n_seeds))
    return found


def _worth(reference: Vector) -> Vector:
    found = shrinkage(Scored(str(design), seed, float(score)) for (design, seed), score in np.ndenumerate(reference))
    assert found is not None
    by_name = {one.design: one.mean for one in found.estimates}
    return np.array([by_name[str(design)] for design in range(len(reference))])


def _regret(centre: Vector, truth: Vector, rng: np.random.Generator) -> float:
    """The mean true regret of choosing the best design by one seed."""
    chosen = _scores(centre, NOISE, rng, N_SEARCHES).argmax(0)
    return float(truth.max() - truth[chosen].mean())


def main() -> int:
    for lines in (intervals(), recommendations()):
        print("\n".join(lines), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
