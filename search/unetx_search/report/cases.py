"""The cases of a report that are shown as pictures: those where the best design does worst and best, with U-Net's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unetx_studies.overlays import overlays
from unetx_studies.report.cases import ShownCase

if TYPE_CHECKING:
    from unetx_search.report.study import ReportedStudy

OF_EACH = 2
"""Number of worst cases that are shown, and of best ones."""


def shown_cases(study: ReportedStudy) -> list[ShownCase]:
    """Draw the cases, the worst first; none where images may not be shown or the data are gone."""
    if study.best is None or study.prepared is None or study.best.key not in study.pictured:
        return []
    both = {"U-Net": study.unet} if study.best.key == study.reference else {"best": study.best, "U-Net": study.unet}
    designs = [(name, one) for name, one in both.items() if one and one.key in study.pictured]
    told = [(name, one, study.pictured[one.key]) for name, one in designs]
    dice = study.cases.get(study.best.key, {})
    ordered = sorted(
        (case for case in dice if all(case in kept.predictions for *_, kept in told)),
        key=lambda case: (dice[case], case),
    )
    best = ordered[OF_EACH:][::-1][:OF_EACH]
    shown = []
    for words, cases in (("worst", ordered[:OF_EACH]), ("best", best)):
        for place, case in enumerate(cases):
            rank = f"{words.capitalize()} case" if place == 0 else f"Next {words} case"
            captions = [
                f"{name}: Dice {kept.dice[case]:.3f} in trial {kept.trial}"
                + (
                    f" ({study.cases[one.key][case]:.3f} on average of {len(one.trials)})"
                    if len(one.trials) > 1
                    else ""
                )
                for name, one, kept in told
            ]
            try:
                slices = overlays(study.prepared, [kept.predictions[case] for *_, kept in told])
            except (OSError, ValueError):  # the cache was cleaned
                continue
            shown.append(ShownCase(f"{rank} of the best design: {case}", captions, slices))
    return shown
