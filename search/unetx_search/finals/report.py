"""The results of finals: the verdict as text and JSON, a table of cases, and the winners as architectures."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetx_evaluators.metrics import summarise
from unetx_search.cheapest import COSTS
from unetx_search.evidence_text import WIDTH
from unetx_search.finals.config import FINALS, REFERENCE, FinalsConfig
from unetx_search.progress import duration
from unetx_search.winner_files import search_provenance, write_winner
from unetx_space.canonical import key
from unetx_space.files import json_text, write_whole
from unetx_studies.study_folders import BEST, CHEAPEST
from unetx_studies.verdict import Chosen, Noise, Scores, Verdict, outlook, outlook_lines, scores_table, verdict

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import Budget, CaseScore
    from unetx_evaluators.tasks import Task
    from unetx_search.config import CheapBy
    from unetx_search.finals.entrants import Entrant, Lineup
    from unetx_space.architecture import Architecture

VERDICT, CASES = "verdict.json", "cases.csv"
"""Names of the files in the folder of finals."""


@dataclass(frozen=True)
class Results:
    """The results of finals, complete or not."""

    study: str
    folder: Path
    lineup: Lineup
    trainings: Mapping[tuple[str, int], Sequence[CaseScore]]
    """The case scores of each complete training, by name of the design and seed."""
    groups: Mapping[str, str]
    """The patient of each scored case."""
    costs: Mapping[str, float]
    cost_by: CheapBy
    margin: float
    asked: int
    """How many designs of the search were to compete."""
    given_up: frozenset[str]
    """Names of the designs that were given up early."""
    budget: Budget
    task: Task
    failures: tuple[str, ...]
    seconds: float
    """The duration of all trainings together."""
    was_stopped: bool
    is_cross_validated: bool

    def joined(self, other: Results) -> Results:
        """Return the results joined with those of another fold: the same trainings on other cases."""
        places = dict.fromkeys([*self.trainings, *other.trainings])
        return replace(
            self,
            trainings={at: (*self.trainings.get(at, ()), *other.trainings.get(at, ())) for at in places},
            groups={**self.groups, **other.groups},
            given_up=self.given_up | other.given_up,
            failures=self.failures + other.failures,
            seconds=self.seconds + other.seconds,
            was_stopped=self.was_stopped or other.was_stopped,
        )

    @cached_property
    def scores(self) -> Scores:
        return scores_table(self.trainings, self.groups)

    @cached_property
    def verdict(self) -> Verdict:
        candidates = [one.name for one in self.lineup.entrants if one.is_candidate]
        baselines = [one.name for one in self.lineup.entrants if not one.is_candidate]
        return verdict(
            self.scores,
            candidates,
            baselines,
            margin=self.margin,
            costs=self.costs,
            asked=self.asked,
            out=self.given_up,
        )

    def entrant(self, name: str) -> Entrant:
        return next(one for one in self.lineup.entrants if one.name == name)

    @property
    def limits(self) -> tuple[str, ...]:
        """What these finals cannot say, a sentence each."""
        found = [*self.verdict.limits]
        if self.is_cross_validated:
            found.append("Cross-validated: most of these cases have also chosen the designs, which favours those.")
        found += [f"Left out: {reason}." for reason in self.lineup.left_out]
        found += [
            f"Given up early, as behind the leader with 99 % certainty: {name}." for name in sorted(self.given_up)
        ]
        found += [f"Without a score: {failure}." for failure in self.failures]
        return tuple(found)


def outlook_text(
    lineup: Lineup, noise: Noise | None, config: FinalsConfig, groups: Mapping[str, str], margin: float
) -> str:
    """Say what finals could show, before anything is trained."""
    names = ", ".join(one.name for one in lineup.entrants)
    head = f"finals: {names}; {config.seeds} seeds each, on {len(groups)} test cases"
    if config.folds is not None:
        head = f"finals: {names}; {config.seeds} seeds each, all cases in {config.folds} folds"
    lines = [head, *(f"left out: {reason}" for reason in lineup.left_out)]
    n_groups = len(set(groups.values())) * (config.folds or 1)
    of = "cases" if len(set(groups.values())) == len(groups) else "patients"
    if noise is None:
        lines.append("What they can show is not known: the search has no design with several seeds beside U-Net.")
    else:
        told = outlook_lines(outlook(noise, config.seeds, n_groups, max(margin, 1e-4)), config.seeds, n_groups, of)
        lines += ["by the noise of the search (longer trainings are mostly less noisy):", *told]
    return "\n".join(lines)


def finals_text(results: Results) -> str:
    """Return one screen of text: the designs with their differences to U-Net, the conclusion, and its limits."""
    scores, found = results.scores, results.verdict
    head = "finals stopped; the same command continues them" if results.was_stopped else "finals"
    lines = [f"{results.study}: {head} ({duration(results.seconds)} of training)", ""]
    if REFERENCE in scores.designs:
        lines += _table(results)
    lines += ["", *textwrap.wrap(found.conclusion, WIDTH)]
    if found.chosen is not None and found.chosen.better is not None:
        sure = f"Probability that it is better by more than {results.margin:g}: {found.chosen.better:.0%}."
        lines += textwrap.wrap(sure, WIDTH)
    lines += ["", *textwrap.wrap(cheapest_sentence(results), WIDTH)]
    for limit in results.limits:
        lines += textwrap.wrap(limit, WIDTH, subsequent_indent="  ")
    lines += ["", f"  verdict    {results.folder / VERDICT}", f"  cases      {results.folder / CASES}"]
    if found.chosen is not None:
        lines.append(f"  best       {results.folder / BEST}")
    if found.cheapest is not None:
        lines.append(f"  cheapest   {results.folder / CHEAPEST}")
    return "\n".join(lines)


def _table(results: Results) -> list[str]:
    scores = results.scores
    cost = COSTS[results.cost_by]
    lines = [f"{'design':<20}  seeds  {'Dice':>6}  {'to U-Net':>8}  {'95 % interval':>18}  {'p':>5}  {cost}"]
    p_values = {(one.design, one.baseline): one.p_value for one in results.verdict.comparisons}
    order = sorted(scores.designs, key=lambda name: -scores.mean(name))
    for name in order:
        n_seeds = sum(1 for design, _ in results.trainings if design == name)
        line = f"{name:<20}  {n_seeds:>5}  {scores.mean(name):.4f}"
        share = results.costs[name] / results.costs[REFERENCE]
        if name == REFERENCE:
            line += f"  {'':>8}  {'':>18}  {'':>5}  {share:.0%}"
        else:
            difference = scores.difference(name, REFERENCE)
            low, high = difference.interval()
            reach = f"{low:+.4f} to {high:+.4f}" if math.isfinite(low) else "not known"
            p = p_values.get((name, REFERENCE))
            line += f"  {difference.mean:>+8.4f}  {reach:>18}  {'' if p is None else f'{p:.3f}':>5}  {share:.0%}"
        lines.append(line)
    return [*lines, "p: two-sided, over seeds and patients, corrected for all comparisons (Holm)"]


def cheapest_sentence(results: Results) -> str:
    """Say which design costs least and is shown to be as good as U-Net."""
    found, cost = results.verdict.cheapest, COSTS[results.cost_by]
    if found is None:
        return (
            f"No design with less than U-Net's {cost} is shown to be as good (not lower by more than "
            f"{results.margin:g} Dice, one-sided 5 %, corrected for all that cost less)."
        )
    return (
        f"{found.design} is as good as U-Net at {found.cost:.0%} of its {cost}: lower by at most "
        f"{max(0.0, -found.low):.4f} Dice (one-sided 95 %; margin {results.margin:g})."
    )


def read_conclusion(study: Path) -> str | None:
    """Read the conclusion of a study's finals; None where there were none, or their file is damaged."""
    try:
        told = json.loads((study / FINALS / VERDICT).read_text(encoding="utf-8"))
        return str(told["conclusion"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def finals_facts(results: Results) -> dict[str, Any]:
    """Return the results for JSON."""
    scores, found = results.scores, results.verdict
    return {
        "study": results.study,
        "conclusion": found.conclusion,
        "cheapest_conclusion": cheapest_sentence(results),
        "limits": list(results.limits),
        "was_stopped": results.was_stopped,
        "margin": results.margin,
        "metric": "mean over classes of Dice, each test case",
        "designs": [
            {
                "name": one.name,
                "trial": one.trial,
                "key": key(one.architecture),
                "width_factor": one.width_factor,
                "cost": results.costs[one.name],
                "cost_by": results.cost_by,
                "given_up": one.name in results.given_up,
                "seeds": sorted(seed for design, seed in results.trainings if design == one.name),
                "dice": scores.mean(one.name) if one.name in scores.designs else None,
            }
            for one in results.lineup.entrants
        ],
        "comparisons": [
            {**asdict(one), "difference": one.difference.mean, "standard_error": one.difference.standard_error}
            for one in found.comparisons
        ],
        "chosen": None if found.chosen is None else _chosen_facts(found.chosen),
        "cheapest": None if found.cheapest is None else asdict(found.cheapest),
        "budget": asdict(results.budget),
        "n_cases": len(scores.groups),
        "n_patients": len(set(scores.groups)),
        "seconds": results.seconds,
    }


def _chosen_facts(chosen: Chosen) -> dict[str, Any]:
    low, high = chosen.difference.interval()
    return {
        "design": chosen.design,
        "reference": chosen.reference,
        "n_rivals": chosen.n_rivals,
        "difference": chosen.difference.mean,
        "low": low,
        "high": high,
        "probability_above_margin": chosen.better,
    }


def write_results(folder: Path, results: Results) -> None:
    """Write verdict, cases and winners into the folder of the finals, and remove the file of a former winner."""
    facts = finals_facts(results)
    write_whole(folder / VERDICT, json_text(facts) + "\n")
    write_whole(folder / CASES, _cases_csv(results))
    for file, winner in ((BEST, results.verdict.chosen), (CHEAPEST, results.verdict.cheapest)):
        write_winner(folder / file, None if winner is None else _described(results, winner.design, facts))


def _described(results: Results, name: str, facts: Mapping[str, Any]) -> Architecture:
    """The design of that name with its scores and the verdict."""
    entrant = results.entrant(name)
    scores = [score for (design, _), own in results.trainings.items() if design == name for score in own]
    seeds = [seed for design, seed in results.trainings if design == name]
    return replace(
        entrant.architecture,
        score={
            "dice": results.scores.mean(name),
            "metric": "mean over test cases and seeds of the mean Dice over foreground classes",
            "metrics": summarise(scores),
            "budget": asdict(replace(results.budget, width_factor=entrant.width_factor)),
            "seeds": seeds,
            "verdict": {one: facts[one] for one in ("conclusion", "cheapest_conclusion", "chosen", "limits")},
        },
        provenance={**search_provenance(results.study, entrant.trial, results.task), "design": name},
    )


def _cases_csv(results: Results) -> str:
    """Write every score of every case as a row of CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["design", "seed", "patient", "case", "class", "metric", "value"])
    for (design, seed), scores in results.trainings.items():
        for score in scores:
            patient = results.groups.get(score.case, score.case)
            for metric, value in score.values.items():
                row = [design, seed, patient, score.case, score.class_name, metric, "" if value is None else value]
                writer.writerow(row)
    return text.getvalue()
