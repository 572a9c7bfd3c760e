"""The cases of a report that are shown as pictures: where the best design does worst and best, beside U-Net."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unetx_studies.overlays import overlays
from unetx_studies.report.cases import ShownCase

if TYPE_CHECKING:
    from unetx_search.reported_study import ReportedStudy

OF_EACH = 2
"""Worst cases, and best ones."""


def shown_cases(study: ReportedStudy) -> list[ShownCase]:
    """The worst first; none where images may not be shown, or the prepared cases or all predictions are gone."""
    if study.best is None or study.prepared is None or study.best.key not in study.pictured:
        return []
    told = [(study.name(one), study.pictured[one.key]) for one in (study.best, study.unet)
            if one is not None and one.key in study.pictured]  # fmt: skip
    told = told[:1] if study.best.key == study.reference else told
    dice = study.cases.get(study.best.key, {})
    ordered = sorted(
        (case for case in dice if all(case in one.predictions for _, one in told)), key=lambda case: (dice[case], case)
    )
    best = ordered[OF_EACH:][::-1][:OF_EACH]
    shown = []
    for words, cases in (("worst", ordered[:OF_EACH]), ("best", best)):
        for place, case in enumerate(cases):
            rank = f"{words.capitalize()} case" if place == 0 else f"Next {words} case"
            captions = [f"{name}: Dice {one.dice[case]:.3f} in trial {one.trial}" for name, one in told]
            try:
                slices = overlays(study.prepared, [one.predictions[case] for _, one in told])
            except (OSError, ValueError):  # the cache was cleaned
                continue
            shown.append(ShownCase(f"{rank} of the best design: {case}", captions, slices))
    return shown
