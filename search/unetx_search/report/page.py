"""The page of a study's report, with all that its records and files tell."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unetx_search.cheapest import cheapest_words
from unetx_search.evidence_text import evidence_lines
from unetx_search.finals.config import REFERENCE
from unetx_search.progress import duration
from unetx_search.report.cases import shown_cases
from unetx_search.report.insight import insight_sections
from unetx_search.report.study import ReportedStudy
from unetx_search.status import trial_facts
from unetx_space import Architecture, RequestError, encoder
from unetx_space.canonical import canonical
from unetx_space.files import write_whole
from unetx_space.operators.catalogue import ALIGNMENTS, ATTENTIONS, FUSIONS, UPSAMPLERS
from unetx_studies.drawing import Numbers, differences, to_svg, to_svgs, to_thumbnail
from unetx_studies.evidence import evidence
from unetx_studies.ranking import Ranked, outcome_counts
from unetx_studies.report import figures, numbers
from unetx_studies.report.cases import ShownCase
from unetx_studies.report.page import Page, Section, Table, page_html
from unetx_studies.spread import REACH

REPORT = "report.html"
"""Name of the report in a study's folder; CSV and JSON of the same name lie beside it."""
MAX_THUMBNAILS = 60
THICKEST_PX = 7.0
"""Width of a skip that all of the best designs have."""


def write_report(study: ReportedStudy, target: Path) -> None:
    """Write the report of a study as HTML, with tables as CSV and JSON beside it.

    Raises RequestError when the files cannot be written.
    """
    try:
        write_whole(target, page_html(_page(study)))
        write_whole(target.with_suffix(".csv"), _csv(study))
        write_whole(target.with_suffix(".json"), json.dumps(_facts(study), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise RequestError(f"{target} cannot be written: {error.strerror or error}") from error


def _page(study: ReportedStudy) -> Page:
    shown = evidence(study.status.evaluations)
    words = [line.strip() for line in evidence_lines(shown) if line.strip()]
    sentence = study.verdict["conclusion"] if study.verdict else _closing(words)
    front = numbers.pareto_front(study.designs, study.costs)
    cases = shown_cases(study)
    thumbs = {one.key: one for one in (*front, *study.designs[:MAX_THUMBNAILS])}.values()
    return Page(
        title=study.status.study,
        sentence=sentence or "No trial is complete yet.",
        facts=_head_facts(study),
        drawings=_winner_drawings(study),
        differences=_winner_differences(study),
        worst=[cases[0].only_first()] if cases else [],
        classes=list(study.task.get("classes", ())),
        limits=list(study.verdict["limits"]) if study.verdict else [],
        sections=[*_result_sections(study, front, cases), *_design_sections(study), *_record_sections(study, words)],
        thumbnails={one.key: to_thumbnail(_named(study, one)) for one in list(thumbs)[: 2 * MAX_THUMBNAILS]},
    )


def _closing(words: Sequence[str]) -> str:
    """What the search says of its lead: the lines after the measured ones."""
    told = [place for place, line in enumerate(words) if line.startswith(("The best design", "U-Net itself"))]
    return " ".join(words[told[0] :]) if told else "U-Net or any other design has no score yet: nothing to compare."


def _head_facts(study: ReportedStudy) -> list[tuple[str, str]]:
    facts = []
    for what, one in (("the best", study.best), ("U-Net", study.unet)):
        if one is not None:
            reach = REACH * one.standard_error
            facts.append((f"{what}, estimated Dice", f"{one.estimate:.4f} ± {reach:.4f}"))
    if study.best is not None and study.unet is not None:
        share = study.costs[study.best.key] / study.costs[study.unet.key]
        facts.append((f"{study.cost_by} of the best", f"{share:.0%} of U-Net's"))
    worst = _worst_case(study)
    if worst is not None and study.best is not None:
        case, dice, beside = worst
        n_seeds = len(study.best.seeds)
        of_seeds = f", mean of {n_seeds} seeds" if n_seeds > 1 else ""
        facts.append((f"worst case of the best{of_seeds}", f"{case}: {dice:.3f}{beside}"))
    if study.status.cheapest is not None:
        facts.append(("cheapest", cheapest_words(study.status.cheapest)))
    return facts


def _worst_case(study: ReportedStudy) -> tuple[str, float, str] | None:
    if study.best is None or not study.cases.get(study.best.key):
        return None
    case, dice = min(study.cases[study.best.key].items(), key=lambda item: (item[1], item[0]))
    unet = study.cases.get(study.reference or "", {}).get(case)
    return case, dice, "" if unet is None or study.best.key == study.reference else f" (U-Net {unet:.3f})"


def _winner_drawings(study: ReportedStudy) -> dict[str, str]:
    if study.best is None:
        return {}
    best = study.best
    if study.unet is not None and study.unet.key != best.key:
        told, plain = to_svgs(_named(study, best), _named(study, study.unet))
        return {f"{study.name(best)}, the best by its estimate": told, "U-Net": plain}
    found = {f"{study.name(best)}, the best by its estimate": to_svg(_named(study, best))}
    for one in [one for one in study.designs if one.key != best.key][:1]:
        found[f"{study.name(one)}, the next"] = to_svg(_named(study, one))
    return found


def _winner_differences(study: ReportedStudy) -> list[str]:
    if study.best is None or study.unet is None or study.best.key == study.unet.key:
        return []
    return differences(study.architectures[study.best.key], study.architectures[study.unet.key])


def _named(study: ReportedStudy, one: Ranked) -> Architecture:
    """The design with what its drawing is called by, and costs."""
    patch = study.task.get("patch")
    where = {"task": {"patch": patch}} if patch else {}
    return replace(study.architectures[one.key], provenance={"study": study.status.study, "trial": one.number, **where})


def _result_sections(study: ReportedStudy, front: Sequence[Ranked], cases: Sequence[ShownCase]) -> list[Section]:
    if not study.designs:
        return []
    names = {one.key: study.name(one) for one in study.designs}
    sections = []
    if study.verdict is not None:
        sections.append(_finals_section(study.verdict))
    sections += [
        Section(
            "Designs",
            "Every training is a mark. The estimate, with 95 %, is the mean over a design's trainings, pulled towards "
            "the mean of all designs by as much as seeds vary: so a single lucky training does not lead.",
            figures.ranking_figure(study.designs, names, study.reference),
            table=_ranking_table(study),
            is_folded=True,
        ),
        Section(
            "Dice and cost",
            f"Estimated Dice, with 95 %, beside {study.cost_by}. Point at a design to see it.{_too_far(study)}",
            figures.pareto_figure(study.designs, front, study.costs, names, study.reference, study.cost_by),
        ),
        Section(
            "Progress",
            "Each mark is one training; the last trials train designs again with other seeds. The highest single score "
            "is partly luck, so the best estimate falls where another seed shows that. It begins with three designs.",
            figures.progress_figure(study.progress),
        ),
        _cases_section(study, cases),
        _curves_section(study),
    ]
    return sections


def _finals_section(verdict: Mapping[str, Any]) -> Section:
    rows = [
        (one["design"], one["difference"], one["low"], one["high"])
        for one in verdict["comparisons"]
        if one["baseline"] == REFERENCE and None not in (one["low"], one["high"])
    ]
    heads = ("design", "seeds", "Dice", "cost", "given up")
    table = [
        (
            one["name"],
            str(len(one["seeds"])),
            "" if one["dice"] is None else f"{one['dice']:.4f}",
            f"{one['cost']:.3g}",
            "yes" if one["given_up"] else "",
        )
        for one in verdict["designs"]
    ]
    cases = f"{verdict['n_cases']} test cases of {verdict['n_patients']} patients"
    note = f"Against U-Net on {cases}; the band is the margin. "
    figure = figures.verdict_figure(rows, verdict["margin"]) if rows else None
    return Section("Finals", note + verdict["cheapest_conclusion"], figure, table=(heads, table))


def _ranking_table(study: ReportedStudy) -> Table:
    heads = ("design", "estimate", "±", "seeds", "mean Dice", study.cost_by, "parameters", "origin")
    rows = [
        (
            study.name(one), f"{one.estimate:.4f}", f"{REACH * one.standard_error:.4f}", str(len(one.seeds)),
            f"{one.dice:.4f}", f"{study.costs[one.key]:.3g}", f"{one.first.n_parameters:,}", str(one.origin),
        )
        for one in study.designs[:200]
    ]  # fmt: skip
    return heads, rows


def _cases_section(study: ReportedStudy, shown_cases: Sequence[ShownCase]) -> Section:
    best, unet = study.best, study.unet
    if best is None or not study.cases.get(best.key):
        return Section("Cases", "")
    own, other = study.cases[best.key], study.cases.get(unet.key, {}) if unet is not None else {}
    ordered = sorted(own.items(), key=lambda item: (item[1], item[0]))
    shown = ordered if len(ordered) <= 12 else [*ordered[:6], *ordered[-6:]]
    if best.key == study.reference:
        other = {}
    rows = [
        (case, f"{dice:.4f}", *((f"{other[case]:.4f}", f"{dice - other[case]:+.4f}") if case in other else ()))
        for case, dice in shown
    ]
    which = f"the six worst and the six best of {len(ordered)}" if len(ordered) > 12 else f"all {len(ordered)}"
    note = f"Validation cases by the mean Dice over the best design's trainings; the table has {which}."
    note += " A picture shows one training." if shown_cases else f" {_why_no_pictures(study)}"
    beside = (_with_trainings(study, unet), "difference") if other and unet is not None else ()
    heads = ("case", _with_trainings(study, best), *beside)
    return Section("Cases", note, cases=shown_cases, table=(heads, rows))


def _with_trainings(study: ReportedStudy, one: Ranked) -> str:
    return study.name(one) + (f", mean of {len(one.trials)}" if len(one.trials) > 1 else "")


def _too_far(study: ReportedStudy) -> str:
    """Which designs a figure leaves out, as they would press all others together."""
    low = numbers.lowest_shown([one.estimate for one in study.designs])
    far = [study.name(one) for one in study.designs if one.estimate < low]
    named = ", ".join(far[:5]) + (f" and {len(far) - 5} more" if len(far) > 5 else "")
    return f" Far below, and left out: {named}." if far else ""


def _why_no_pictures(study: ReportedStudy) -> str:
    if study.task.get("no_images"):
        return "No pictures, as --no-images asks."
    if study.prepared is None:
        return "No pictures: the prepared cases are not in the cache any more."
    return "No pictures: no prediction of the best design was kept."


def _curves_section(study: ReportedStudy) -> Section:
    told = [*study.designs[: figures.MOST_CURVES - 1], *([study.unet] if study.unet is not None else [])]
    curves = {study.name(one): study.curves.get(one.number, ()) for one in told}
    figure = figures.curves_figure({name: points for name, points in curves.items() if points})
    return Section("Learning curves", "All points but the last are scored on a part of the cases.", figure)


def _design_sections(study: ReportedStudy) -> list[Section]:
    if not study.designs:
        return []
    found = study.effects
    how = "other choices alike" if found and found[0].is_adjusted else "each for itself, as there are few designs"
    effects = Section(
        "What goes with a choice",
        f"Against the plain choice at every node, {how}; how many designs make it stands behind. Filled: stands after "
        "correction for all choices. A description of what was tried, on validation cases.",
        figures.effects_figure(found) if found else None,
        table=(
            ("question", "choice", "difference", "95 %", "p (Holm)", "designs"),
            [
                (one.question, one.choice, f"{one.difference:+.4f}", f"{one.low:+.4f} to {one.high:+.4f}",
                 f"{one.p_value:.3f}", str(one.n_designs))
                for one in found
            ],
        ) if found else None,
        is_folded=True,
    )  # fmt: skip
    operators = numbers.operator_frequencies(study.designs, study.genomes)
    rows = [
        (kind, name, f"{one.among_best:.0%}", f"{one.among_all:.0%}")
        for (kind, name), one in sorted(operators.items(), key=lambda item: (item[0][0], -item[1].among_best))
    ]
    return [
        effects,
        _skip_map(study),
        Section(
            "Operators", "Share of decoder nodes, among the best third of the designs and among all.",
            table=(("kind", "operator", "best third", "all"), rows), is_folded=True,
        ),
        *insight_sections(study),
    ]  # fmt: skip


def _skip_map(study: ReportedStudy) -> Section:
    """The section with every skip that some design has, drawn on the U as thick as it is frequent among the best."""
    found = numbers.skip_frequencies(study.designs, study.genomes)
    heads = ("node", "reads", "best third", "all")
    rows = [(node, source, f"{one.among_best:.0%}", f"{one.among_all:.0%}") for (source, node), one in found.items()]
    title = "Which skips the best designs have"
    unet = study.unet
    if unet is None or not found:
        return Section(title, "", table=(heads, rows) if rows else None)
    genome = study.genomes[unet.key]
    refs = {str(ref): ref for node in genome.nodes for ref in (node.ref, node.coarser, *node.sources)}
    refs |= {str(encoder(level)): encoder(level) for level in range(len(genome.nodes) + 1)}
    known = {(refs[s], refs[n]): one for (s, n), one in found.items() if s in refs and n in refs}
    nodes = tuple(
        type(node)(
            node.ref, node.coarser, tuple(sorted((s for s, n in known if n == node.ref), key=lambda ref: ref.level)),
            node.attention, node.upsampler, node.fusion,
        )
        for node in genome.nodes
    )  # fmt: skip
    drawn = Architecture(study.architectures[unet.key].backbone, canonical(type(genome)(nodes)), provenance={})
    numbers_on = Numbers(
        {place: f"{one.among_best:.0%}" for place, one in known.items()},
        {place: max(0.5, THICKEST_PX * one.among_best) for place, one in known.items()},
        {},
        "share of the best third of the designs that have each skip",
    )
    n_best = numbers.n_best(study.designs)
    note = (
        f"Width and per cent: how many of the best third of the designs ({n_best}) have a skip. The boxes are U-Net's."
    )
    return Section(title, note, drawings={"": to_svg(drawn, numbers_on)}, table=(heads, rows), is_folded=True)


def _record_sections(study: ReportedStudy, words: Sequence[str]) -> list[Section]:
    status = study.status
    counts = ", ".join(f"{n} {outcome}" for outcome, n in outcome_counts(status.trials).items())
    failures = [
        (f"trial {trial.number}", str(trial.outcome), trial.reason)
        for trial in status.evaluations
        if trial.outcome is not None and (trial.outcome.failed or trial.outcome.violates)
    ]
    spent = duration(sum(trial.seconds for trial in status.evaluations))
    return [
        Section(
            "What was measured",
            f"{len(status.evaluations)} of {status.n_trials} trials ({counts}), {spent} of work.",
            table=(("what", "how much"), [(line.partition("  ")[0], line.partition("  ")[2].strip()) for line in words
                                          if line.startswith(("seeds  ", "designs  ", "one score"))]),
        ),
        Section("Failures", "", table=(("trial", "outcome", "reason"), failures) if failures else None),
        _data_section(study.task),
        _settings_section(study),
        _citations(study),
    ]  # fmt: skip


def _data_section(task: Mapping[str, Any]) -> Section:
    if not task:
        return Section("Data", "")
    rows = [
        ("name", str(task["name"])), ("source", str(task["source"])), ("dimensions", str(task["dims"])),
        ("channels", ", ".join(task["channels"])), ("classes", ", ".join(task["classes"])),
        *((part, str(len(task["splits"][part]))) for part in ("train", "validation", "test")),
        *((name.replace("_", " "), str(chosen["reason"])) for name, chosen in task.get("choices", {}).items()),
    ]  # fmt: skip
    return Section("Data", "What the data are, what was chosen for them, and why.", table=(("what", "how"), rows))


def _settings_section(study: ReportedStudy) -> Section:
    rows = [
        (name, json.dumps(value)) for name, value in study.settings.items() if name not in ("genes", "data", "task")
    ]
    versions: Mapping[str, str] = study.best.first.versions if study.best is not None else {}
    rows += [(f"version of {name}", version) for name, version in versions.items()]
    run = study.status.run
    rows.append(("last run", f"{run.started_at:%Y-%m-%d %H:%M} UTC on {run.process.host}"))
    note = "The same command with the same data and settings continues or repeats it; on CPUs with the same scores."
    return Section("How to reproduce", note, table=(("setting", "value"), rows), is_folded=True)


def _citations(study: ReportedStudy) -> Section:
    if study.best is None:
        return Section("How to cite", "")
    papers: dict[str, str] = {}
    for node in study.genomes[study.best.key].nodes:
        used = [UPSAMPLERS[node.upsampler], FUSIONS[node.fusion], ALIGNMENTS[node.alignment]]
        if node.attention.placement is not None:
            used.append(ATTENTIONS[node.attention.type])
        papers |= {spec.title: spec.paper for spec in used if spec.paper}
    rows = list(papers.items())
    note = "Papers of the operators that the best design uses."
    return Section("How to cite", note, table=(("operator", "paper"), rows) if rows else None)


def _csv(study: ReportedStudy) -> str:
    text = io.StringIO()
    rows = list(map(trial_facts, study.status.trials))
    writer = csv.DictWriter(text, fieldnames=rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _facts(study: ReportedStudy) -> dict[str, Any]:
    return {
        "study": study.status.study,
        "designs": [
            {
                "trial": one.number, "key": one.key, "origin": str(one.origin), "estimate": one.estimate,
                "standard_error": one.standard_error, "dice": one.dice, "seeds": list(one.seeds),
                "cost": study.costs[one.key],
            }
            for one in study.designs
        ],
        "cost": study.cost_by,
        "effects": [asdict(one) for one in study.effects],
        "progress": [asdict(one) for one in study.progress],
        "verdict": study.verdict,
    }  # fmt: skip
