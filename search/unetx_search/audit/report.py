"""The results of an audit as text and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from unetx_search.evidence_text import WIDTH
from unetx_search.progress import duration
from unetx_space.files import json_text, write_whole
from unetx_studies.proxy_agreement import TOP

if TYPE_CHECKING:
    from unetx_search.audit.config import AuditConfig
    from unetx_search.audit.findings import Audit, Proxy
    from unetx_search.proposals import Proposal
    from unetx_studies.candidate import Candidate
    from unetx_studies.proxy_agreement import Bounded, Ceiling

FILE = "audit.json"
"""Name of the file in an audit's folder with its results."""
ENOUGH = 8
"""Designs from which on intervals hold what they promise (benchmarks/results/audit.txt)."""
NOTES = (
    "Rank correlations with the references' means, of one seed (averaged over seeds) or of the mean of several; losses "
    "are low where they are good, features high. The ceiling is what scores without any noise would reach, as the "
    "references have some.",
    f"top {TOP}: the share of the references' best {TOP} designs that are among the proxy's. regret: Dice by which the "
    "best of these designs is better than the one that the proxy puts first; the best of more designs is lost by more.",
    "an hour: evaluations of one worker. Features cost about two training steps.",
)


def outlook_text(config: AuditConfig, designs: Sequence[Candidate], steps: int, listed: Sequence[Proposal]) -> str:
    """Say what an audit is going to train, and how much of a search that costs."""
    lengths = sorted({one.budget.steps for one in listed})
    *proxies, longest = map(str, lengths)
    share = sum(one.budget.steps for one in listed) / steps
    return (
        f"audit: {len(designs)} designs, each on {config.seeds} seed(s) for {', '.join(proxies)} and, as a reference, "
        f"{longest} steps: {len(listed)} trainings, as long as about {share:.0f} evaluations of a search"
    )


def audit_text(audit: Audit) -> str:
    """Return one screen of text: a row for each proxy, the ceiling, the recommendation, and the limits."""
    head = f"{audit.n_finished} of {audit.n_trainings} trainings"
    if audit.was_stopped:
        head += ", stopped; the same command continues it"
    lines = [f"{audit.config.study_name}: {head} ({duration(audit.seconds)} of training)", ""]
    if audit.ceiling is None:
        lines.append("too few designs have their references yet")
    else:
        lines += [*_table(audit, audit.ceiling), "", *(line for note in NOTES for line in textwrap.wrap(note, WIDTH))]
    if not audit.was_stopped:
        lines += ["", *textwrap.wrap(f"Steps for the next search: {audit.recommendation.reason}.", WIDTH)]
    for limit in limits(audit):
        lines += textwrap.wrap(limit, WIDTH, subsequent_indent="  ")
    return "\n".join([*lines, "", f"  audit      {audit.config.folder / FILE}"])


def _table(audit: Audit, found: Ceiling) -> Iterator[str]:
    yield (
        f"{'ranked by':<20}  seeds  designs  seconds  an hour  {'Spearman (95 %)':<22}  {'Kendall (95 %)':<22}  "
        f"top {TOP}  regret (95 %)"
    )
    for one in audit.proxies:
        if one.agreement is not None:
            yield _row(one)
    yield f"{'ceiling':<55}  {_correlation(found.spearman):<22}  {_correlation(found.kendall):<22}".rstrip()


def _row(one: Proxy) -> str:
    found = one.agreement
    assert found is not None
    seconds = "" if one.seconds is None else f"{one.seconds:.0f}" if one.seconds >= 10 else f"{one.seconds:.1f}"
    per_hour = "" if one.evaluations_an_hour is None else f"{one.evaluations_an_hour:.0f}"
    regret = found.regret
    return (
        f"{one.name:<20}  {one.n_seeds or '':>5}  {found.n_designs:>7}  {seconds:>7}  {per_hour:>7}  "
        f"{_correlation(found.spearman):<22}  {_correlation(found.kendall):<22}  {found.recall.value:>5.2f}  "
        f"{regret.value:.4f} ({regret.low:.4f} to {regret.high:.4f})"
    )


def _correlation(found: Bounded) -> str:
    if found.value != found.value:
        return "not known"
    return f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def limits(audit: Audit) -> tuple[str, ...]:
    """Return what this audit cannot say, a sentence each."""
    found = []
    if len(audit.designs) < audit.config.designs:
        found.append(f"The space has {len(audit.designs)} designs that are not too dear, fewer than were asked for.")
    if len(audit.designs) < ENOUGH:
        found.append(f"With fewer than {ENOUGH} designs intervals are too narrow.")
    if audit.config.seeds == 1:
        found.append("With one seed the noise of the references, and so the ceiling, is not known.")
    found += [f"Without a score: {failure}." for failure in audit.failures]
    return tuple(found)


def audit_facts(audit: Audit) -> dict[str, Any]:
    """Return the results for JSON."""
    return {
        "study": audit.config.study_name,
        "was_stopped": audit.was_stopped,
        "n_finished": audit.n_finished,
        "n_trainings": audit.n_trainings,
        "seconds": audit.seconds,
        "default_steps": audit.steps,
        "reference_steps": audit.reference_steps,
        "margin": audit.config.margin,
        "designs": [
            {"key": one.key, "origin": str(one.origin), **asdict(one.cost)}
            for one in audit.designs
        ],
        "scores": [
            {
                "design": one.trial.key, "steps": one.trial.budget.steps, "seed": one.trial.seed,
                "outcome": one.trial.outcome, "dice": one.trial.score, "seconds": one.trial.seconds,
            }
            for one in audit.trainings
        ],
        "ranked_by": [{**asdict(one), "evaluations_an_hour": one.evaluations_an_hour} for one in audit.proxies],
        "ceiling": None if audit.ceiling is None else asdict(audit.ceiling),
        "recommendation": None if audit.was_stopped else asdict(audit.recommendation),
        "limits": list(limits(audit)),
    }  # fmt: skip


def write_audit(audit: Audit) -> None:
    """Write the results into the audit's folder."""
    write_whole(audit.config.folder / FILE, json_text(audit_facts(audit)) + "\n")
