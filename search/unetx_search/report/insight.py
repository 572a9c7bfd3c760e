"""A report's sections on how designs work: gradients by stage, redundant skips, and what each skip is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unetx_studies.report import figures
from unetx_studies.report.page import Section

if TYPE_CHECKING:
    from unetx_search.report.study import ReportedStudy


def insight_sections(study: ReportedStudy) -> list[Section]:
    """Return the sections on the best design and U-Net, as far as training or ``explain`` noted something."""
    told = {
        study.name(one): study.insights[one.number]
        for one in (study.best, study.unet)
        if one is not None and study.insights.get(one.number)
    }
    return [_gradients(told), _redundancy(told), *(_importance(name, found) for name, found in study.explained.items())]


def _gradients(told: Mapping[str, Mapping[str, Any]]) -> Section:
    """The section on gradients, at the last step at which they were noted."""
    norms: dict[str, dict[str, float]] = {}
    rows: list[Sequence[str]] = []
    for name, insight in told.items():
        by_step = insight.get("gradients") or {}
        for step, stages in by_step.items():
            rows += [(name, step, stage["stage"], _number(stage["norm"])) for stage in stages]
        if by_step:
            last = by_step[max(by_step, key=int)]
            norms[name] = {stage["stage"]: stage["norm"] for stage in last if stage["norm"]}
    note = "Root mean square of the gradient in each stage, midway through training: ratios are what to compare."
    figure = figures.gradients_figure(norms) if norms else None
    return Section("Gradients by stage", note, figure, is_folded=True,
                   table=(("design", "step", "stage", "norm"), rows) if rows else None)  # fmt: skip


def _redundancy(told: Mapping[str, Mapping[str, Any]]) -> Section:
    rows = [
        (name, skip["node"], skip["source"], _number(skip["cka"]))
        for name, insight in told.items()
        for skip in insight.get("similarities") or ()
    ]
    note = "How alike a source and the decoder's own map are (CKA): near 1, the decoder has it already."
    return Section("Redundant skips", note, table=(("design", "node", "reads", "CKA"), rows) if rows else None,
                   is_folded=True)  # fmt: skip


def _importance(name: str, found: Mapping[str, Any]) -> Section:
    """The section on the findings of an ``explain.json``."""
    skips = found["skips"]
    changes = list(_changes(skips))
    rows = [(skip["node"], skip["source"], skip["role"], skip["says"]) for skip in skips]
    note = f"Change of Dice of {name} when a skip's map is replaced by its mean, with 95 % where it is known."
    return Section("What each skip is worth", note, figures.changes_figure(changes) if changes else None,
                   table=(("node", "reads", "role", "finding"), rows), is_folded=True)  # fmt: skip


def _changes(skips: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, float, float]]:
    for skip in skips:
        change = skip["dice"].get("mean")
        if change is not None:
            low, high = (change["mean"] if change[end] is None else change[end] for end in ("low", "high"))
            yield f"{skip['node']} reads {skip['source']}", change["mean"], low, high


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3g}"
