"""The end of a search as the command line prints it: the same facts as text for people and as JSON for machines."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from unetx_search.cheapest import cheapest_words
from unetx_search.config import FIRST_PRESETS
from unetx_search.evidence_text import WIDTH, evidence_facts, evidence_lines
from unetx_space.errors import command
from unetx_space.files import json_text
from unetx_studies.evidence import evidence
from unetx_studies.ranking import outcome_counts
from unetx_studies.study_folders import BEST, CHEAPEST

if TYPE_CHECKING:
    from unetx_search.run import Summary
    from unetx_studies.ranking import Ranked

N_RANKED = 5
RANKED_BY = (
    "Ranked by the estimate: the mean Dice over seeds, pulled towards the mean of all designs by as much as seeds and "
    "designs vary; +- is its standard error."
)


def summary_text(summary: Summary) -> str:
    """Summarise a search on one screen: ranking, reference designs, what the scores can tell, and the next commands."""
    counts = ", ".join(f"{n} {outcome}" for outcome, n in outcome_counts(summary.evaluations).items())
    if summary.was_stopped:
        head = f"stopped: {len(summary.evaluations)} of {summary.n_trials} trials are done"
    elif summary.ran_out_of_time:
        head = f"the time is up: {len(summary.evaluations)} of {summary.n_trials} trials are done"
    elif summary.was_complete:
        head = f"the study is complete: {len(summary.evaluations)} of {summary.n_trials} trials were done before"
    else:
        head = f"done: {len(summary.evaluations)} of {summary.n_trials} trials"
    lines = [f"{summary.study}: {head} ({counts or 'none yet'})", ""]
    lines += _ranking(summary)
    lines += _on_original_voxels(summary)
    lines += evidence_lines(evidence(summary.evaluations))
    lines += _cheapest(summary)
    for warning in summary.warnings:
        lines += ["", f"Warning: {warning}"]  # in one line, so that the option in it can be copied
    lines += ["", *_where_to_go(summary)]
    return "\n".join(lines)


def _ranking(summary: Summary) -> list[str]:
    designs = summary.ranking.designs
    if not designs:
        return ["no trial completed, so there is no best architecture"]
    shown = list(designs[:N_RANKED])
    others = [*map(summary.preset, FIRST_PRESETS), summary.cheapest.design if summary.cheapest else None]
    for one in sorted((one for one in others if one is not None and one not in shown), key=designs.index):
        shown.append(one)
    lines = [
        f"{'rank':>5}  {'trial':>5}  {'estimate':>8}  {'+-':>6}  {'seeds':>5}  {'Dice':>6}  {'seconds':>7}  design"
    ]
    for one in shown:
        lines.append(
            f"{designs.index(one) + 1:>5}  {one.number:>5}  {one.estimate:>8.4f}  {one.standard_error:.4f}  "
            f"{len(one.seeds):>5}  {one.dice:.4f}  {one.first.seconds:>7.0f}  {one.key[:12]}  {one.origin}"
        )
    return [*lines, "", *textwrap.wrap(RANKED_BY, WIDTH)]


def _cheapest(summary: Summary) -> list[str]:
    if summary.cheapest is None:
        return []
    words = cheapest_words(summary.cheapest.facts)
    return ["", *textwrap.wrap(f"Cheapest: {words}.", WIDTH)]


def _on_original_voxels(summary: Summary) -> list[str]:
    """The scores of the best design and of U-Net before any resampling, where that makes a difference."""
    told = []
    best, unet = summary.best, summary.preset("u-net")
    for name, one in (("the best", best), ("U-Net", unet if unet != best else None)):
        if one is not None and one.original_dice not in (None, one.dice):
            told.append(f"{one.original_dice:.4f} ({name}, trial {one.number})")
    return ["", f"on the original voxels: {', '.join(told)}"] if told else []


def _where_to_go(summary: Summary) -> list[str]:
    best = summary.folder / BEST
    lines = [f"  study      {summary.database}"]
    if summary.best is not None:
        lines += [
            f"  best       {best}",
            f"  report     {summary.folder / 'report.html'}",
            f"  look       {command('unetx-search', 'show', best)}",
            f"  export     {command('unetx-search', 'export', best, 'best.onnx')}",
        ]
    if summary.cheapest is not None and summary.cheapest.design is not None:
        lines.append(f"  cheapest   {summary.folder / CHEAPEST}")
    if len(summary.ranking.designs) > 1:
        lines.append(f"  finals     {command('unetx-search', 'finals', summary.folder)}")
    lines.append(f"  dashboard  {command('unetx-search', 'dashboard', summary.folder)}")
    if summary.was_stopped or summary.ran_out_of_time:
        lines.append("  continue   run the same command again; interrupted trials are run under the same numbers")
    return lines


def summary_json(summary: Summary) -> str:
    """Return the facts of ``summary_text``, and every evaluation, as JSON."""
    best = summary.best
    return json_text(
        {
            "study": summary.study,
            "folder": str(summary.folder),
            "database": summary.database,
            "n_trials": summary.n_trials,
            "n_finished": len(summary.evaluations),
            "was_complete": summary.was_complete,
            "was_stopped": summary.was_stopped,
            "ran_out_of_time": summary.ran_out_of_time,
            "warnings": list(summary.warnings),
            **best_facts(best),
            "cheapest": summary.cheapest.facts if summary.cheapest else None,
            "evidence": evidence_facts(evidence(summary.evaluations)),
            "evaluations": [
                {
                    "trial": record.number,
                    "outcome": record.outcome,
                    "reason": record.reason,
                    "dice": record.score,
                    "original_dice": record.original_dice,
                    "origin": str(record.origin),
                    "key": record.key,
                    "seed": record.seed,
                    "seconds": record.seconds,
                }
                for record in summary.evaluations
            ],
        }
    )


def best_facts(best: Ranked | None) -> dict[str, Any]:
    """Return the best design's trial and scores for JSON; every value is None where there is no best design."""
    return {
        "best_trial": best.number if best else None,
        "best_estimate": best.estimate if best else None,
        "best_standard_error": best.standard_error if best else None,
        "best_seeds": list(best.seeds) if best else None,
        "best_dice": best.dice if best else None,
        "best_original_dice": best.original_dice if best else None,
    }
