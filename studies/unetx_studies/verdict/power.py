"""Which difference some seeds and cases can show, asked before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, t

from unetx_studies.spread import CONFIDENCE, Vector
from unetx_studies.verdict.differences import mean_squares

POWER = 0.8
MAX_SEEDS, MAX_GROUPS = 100, 10_000
"""The most seeds and groups that are proposed."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations of what moves the difference of two designs."""

    groups: float
    """Deviation from patient to patient, whatever the seed, of the mean of a group's cases."""
    seeds: float
    """Deviation from seed to seed, whatever the patient: sqrt(2) times that of one design's mean score."""
    rest: float
    """Deviation of one group's mean on one seed, beyond both."""

    def standard_error(self, n_seeds: float, n_groups: float) -> float:
        """The standard error of the mean difference."""
        return math.sqrt(self.groups**2 / n_groups + self.seeds**2 / n_seeds + self.rest**2 / (n_groups * n_seeds))

    def degrees_of_freedom(self, n_seeds: int, n_groups: int) -> float:
        """Satterthwaite's degrees of freedom, from the expected mean squares."""
        rest = self.rest**2
        seeds, groups = rest + n_groups * self.seeds**2, rest + n_seeds * self.groups**2
        df_seeds, df_groups = max(n_seeds - 1, 1e-9), max(n_groups - 1, 1e-9)
        spread = seeds**2 / df_seeds + groups**2 / df_groups + rest**2 / (df_seeds * df_groups)
        return max(1.0, (seeds + groups - rest) ** 2 / spread) if spread > 0 else df_seeds * df_groups


def noise(tables: Iterable[tuple[Vector, Sequence[str]]], seed_deviation: float = 0.0) -> Noise | None:
    """The noise of differences, from tables [seed, case] of them with the cases' groups; None without two groups.

    Mean squares are averaged over the tables, and their expectations solved for the components. Tables of one seed tell
    nothing of the seeds; then ``seed_deviation`` does, that of one design's mean score as the study has estimated it,
    and what their groups vary by counts as the groups' own, which is a little too much.
    """
    parts: list[tuple[float, float, float]] = []
    for values, groups in tables:
        squares = mean_squares(values, groups)
        if squares.n_groups < 2:
            continue
        rest = float(squares.rest)
        seeds = (float(squares.seeds) - rest) / squares.n_groups if squares.n_seeds > 1 else 2.0 * seed_deviation**2
        parts.append(((float(squares.groups) - rest) / squares.n_seeds, seeds, rest))
    if not parts:
        return None
    return Noise(*(math.sqrt(max(0.0, part)) for part in np.mean(parts, axis=0)))


def detectable(
    noise: Noise, n_seeds: int, n_groups: int, power: float = POWER, confidence: float = CONFIDENCE
) -> float:
    """The smallest true difference for which an interval of this confidence excludes 0 with this probability.

    It is infinite with one seed or one group, as nothing then says how far others would be. Otherwise it solves
    P(T > t) = power for the non-central t distribution (Cohen, Statistical Power Analysis for the Behavioral Sciences,
    2nd ed., 1988) with the standard error and the degrees of freedom that the noise lets expect.
    """
    if n_seeds < 2 or n_groups < 2:
        return math.inf
    df, error = noise.degrees_of_freedom(n_seeds, n_groups), noise.standard_error(n_seeds, n_groups)
    if error == 0.0:
        return 0.0
    critical = float(t.ppf((1.0 + confidence) / 2, df))
    high = 2.0 * critical + 10.0
    while nct.sf(critical, df, high) < power:
        high *= 2.0
    return error * float(brentq(lambda shift: nct.sf(critical, df, shift) - power, 0.0, high))


@dataclass(frozen=True, slots=True)
class Outlook:
    """The power of planned finals: the difference they could show, and the seeds or groups that would show a target."""

    detectable: float
    target: float
    seeds_needed: int | None
    """Seeds that would show the target with the groups there are; None where no number of seeds would."""
    groups_needed: int | None
    """Groups that would show it with the planned seeds; None where no number of groups would."""
    floor: float
    """The difference that these groups could show with any number of seeds."""


def outlook(noise: Noise, n_seeds: int, n_groups: int, target: float) -> Outlook:
    """The outlook for designs trained with so many seeds, on cases of so many groups."""

    def fewest(reaches: int, most: int, seeds_vary: bool) -> int | None:
        def shows(n: int) -> bool:
            return detectable(noise, *((n, n_groups) if seeds_vary else (n_seeds, n))) <= target

        if not shows(most):
            return None
        low, high = 1, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if shows(middle) else (middle, high)
        return max(high, reaches)

    return Outlook(
        detectable(noise, n_seeds, n_groups),
        target,
        fewest(2, MAX_SEEDS, seeds_vary=True),
        fewest(2, MAX_GROUPS, seeds_vary=False),
        detectable(noise, MAX_SEEDS, n_groups),
    )


def outlook_lines(found: Outlook, n_seeds: int, n_groups: int, of: str = "cases") -> list[str]:
    """An outlook in sentences; ``of`` names what the groups are: cases, or patients."""
    if math.isinf(found.detectable):
        missing = [what for n, what in ((n_seeds, "seed"), (n_groups, of.removesuffix("s"))) if n < 2]
        return [
            f"One {' and one '.join(missing)} can show no difference: nothing says how far another would be from it."
        ]
    lines = [
        f"{n_seeds} seeds and {n_groups} {of} can show a difference of {found.detectable:.4f} Dice "
        f"({POWER:.0%} power, {1 - CONFIDENCE:.0%} two-sided)."
    ]
    if found.detectable <= found.target:
        return lines
    ways = []
    if found.seeds_needed is not None:
        ways.append(f"{found.seeds_needed} seeds")
    if found.groups_needed is not None:
        ways.append(f"{found.groups_needed} {of}")
    if ways:
        lines.append(f"A difference of {found.target:.4f} would take {' or '.join(ways)}.")
    else:
        lines.append(
            f"A difference of {found.target:.4f} would take more of both: with any number of seeds these "
            f"{n_groups} {of} show no less than {found.floor:.4f}."
        )
    return lines
