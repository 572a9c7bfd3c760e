"""The studies of a folder, in short: their state, their best design, and what their finals concluded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from unetx_search.finals.report import read_conclusion
from unetx_search.status import read_status
from unetx_space.errors import RequestError, UnetxError
from unetx_space.files import json_text
from unetx_studies.study_folders import studies_in


@dataclass(frozen=True, slots=True)
class StudyOverview:
    """A study in short."""

    name: str
    folder: str
    state: str
    """The state, as ``status`` says it; where the study cannot be read, the reason."""
    n_finished: int = 0
    n_trials: int = 0
    best_trial: int | None = None
    best_estimate: float | None = None
    finals: str | None = None
    """The conclusion of its finals; None before there were any."""


def study_overviews(out: Path) -> tuple[StudyOverview, ...]:
    """List every study in a folder by name, also those that cannot be read. Raises RequestError for no folder."""
    if not out.is_dir():
        raise RequestError(f"{out} is no folder; name the one that holds the studies, such as runs")
    return tuple(map(_overview, studies_in(out)))


def _overview(folder: Path) -> StudyOverview:
    try:
        status = read_status(folder)
        best = status.best
    except UnetxError as error:
        return StudyOverview(folder.name, str(folder), f"cannot be read: {error}")
    return StudyOverview(
        status.study,
        str(folder),
        status.state(),
        len(status.evaluations),
        status.n_trials,
        best.number if best else None,
        best.estimate if best else None,
        read_conclusion(folder),
    )


def listing_text(found: tuple[StudyOverview, ...], out: Path) -> str:
    """Return the studies as text."""
    if not found:
        return f"{out} holds no study"
    lines = []
    for one in found:
        best = "" if one.best_estimate is None else f", best Dice {one.best_estimate:.4f} (trial {one.best_trial})"
        lines.append(f"{one.name}: {one.n_finished} of {one.n_trials} trials{best}; {one.state}")
        lines += [] if one.finals is None else [f"  {one.finals}"]
    return "\n".join(lines)


def listing_json(found: tuple[StudyOverview, ...]) -> str:
    """Return the studies as JSON."""
    return json_text([asdict(one) for one in found])
