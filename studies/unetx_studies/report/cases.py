"""Cases on a report's page: predictions of a few networks, side by side over the image, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count

import numpy as np

from unetx_evaluators.tasks.task import IGNORED
from unetx_studies.overlays import HEIGHT, Overlay, legend

_numbers = count()
"""Numbers of the images of a page, of which no two may have one name."""


@dataclass(frozen=True, slots=True)
class ShownCase:
    """A case on the page: its title, its slices with the predictions of some networks, and their captions."""

    title: str
    captions: Sequence[str]
    """The caption below the picture of each network."""
    slices: Sequence[Overlay]

    @property
    def first(self) -> int:
        """Index of the slice that is shown at first: where the reference has most foreground."""
        sizes = [int(((one.picture.label > 0) & (one.picture.label != IGNORED)).sum()) for one in self.slices]
        return int(np.argmax(sizes))

    def only_first(self) -> ShownCase:
        """The same case with that slice alone."""
        return ShownCase(self.title, self.captions, [self.slices[self.first]])


def cases_html(cases: Sequence[ShownCase], classes: Sequence[str]) -> str:
    """The HTML of cases below the legend of their colours; empty where there are none."""
    if not cases:
        return ""
    swatches = "".join(
        f'<li><span class="swatch" style="background:{colour}"></span>{escape(words)}</li>'
        for words, colour in legend(classes)
    )
    return f"<ul class='legend'>{swatches}</ul>{''.join(''.join(_case(one)) for one in cases)}"


def _case(case: ShownCase) -> Iterator[str]:
    names = [f"image{next(_numbers)}" for _ in case.slices]
    yield f"<div class='case' role='group' aria-label='{escape(case.title, quote=True)}'><h3>{escape(case.title)}</h3>"
    yield "<div class='pictures'>"
    for number, caption in enumerate(case.captions):
        width = case.slices[0].width
        yield (
            f"<figure style='max-width:{width * 1.6:.0f}px'><svg viewBox='0 0 {width:.1f} {HEIGHT:.0f}' role='img' "
            f"aria-label='{escape(f'{case.title}, {caption}', quote=True)}'>"
        )
        for place, (overlay, name) in enumerate(zip(case.slices, names, strict=True)):
            image = f"<use href='#{name}'/>" if number else overlay.image().replace("<image", f"<image id='{name}'", 1)
            hidden = "" if place == case.first else " hidden"
            yield f"<g class='slice' data-slice='{place}'{hidden}>{overlay.scaled(image + overlay.lines(number))}</g>"
        yield f"</svg><figcaption>{escape(caption)}</figcaption></figure>"
    yield "</div><div class='controls'>"
    if len(case.slices) > 1:
        notes = "|".join(one.picture.note.rpartition("slice ")[2] for one in case.slices)
        yield (
            f"<label>slice <input type='range' min='0' max='{len(case.slices) - 1}' value='{case.first}' "
            f"data-notes='{escape(notes, quote=True)}'> <output>{notes.split('|')[case.first]}</output></label> "
        )
    yield "<label><input type='checkbox' class='outlines' checked> outlines</label></div></div>"
