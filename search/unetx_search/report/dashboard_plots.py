"""The figures of a study in Optuna's dashboard: those of the report that tell how it gets on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unetx_search.report.study import ReportedStudy


def show_study_plots(study: ReportedStudy) -> None:
    """Put the figures of a study into Optuna's dashboard in place of earlier ones; nothing happens without a score."""
    from unetx_studies.artifacts import show_plots
    from unetx_studies.report import figures, numbers
    from unetx_studies.store import find_location

    if not study.designs:
        return
    front = numbers.pareto_front(study.designs, study.costs)
    names = {one.key: study.name(one) for one in study.designs}
    plots = {
        "progress": figures.progress_figure(study.progress),
        "dice-and-cost": figures.pareto_figure(
            study.designs, front, study.costs, names, study.reference, study.cost_by
        ),
        "skip-map": figures.skip_map_figure(numbers.skip_frequencies(study.designs, study.genomes)),
    }
    for figure, title in zip(plots.values(), ("Progress", "Dice and cost", "Skips of the best third"), strict=True):
        figure.update_layout(title=title, margin={"t": 70}, paper_bgcolor="#fcfdff", plot_bgcolor="#fcfdff")
    show_plots(find_location(study.status.folder).url, study.status.study, plots)
