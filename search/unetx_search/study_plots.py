"""The figures of a study in Optuna's dashboard: those of the report that tell how it gets on."""

from __future__ import annotations

from pathlib import Path


def show_study_plots(folder: Path) -> None:
    """Draw them anew, from what the study's records tell by now. Nothing happens before there is a score."""
    from unetx_search.reported_study import read_reported
    from unetx_studies.artifacts import show_plots
    from unetx_studies.report import figures, numbers
    from unetx_studies.store import find_location

    study = read_reported(folder)
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
    show_plots(find_location(folder).url, study.status.study, plots)
