"""Predictions over their images: the reference's outline in white, each class of the prediction in a colour of its own.

White and the palette's colours, over a dark edge, are told apart by the colour-blind, on dark and on bright images.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import numpy as np

from unetx_evaluators.evaluation import CaseScore
from unetx_evaluators.tasks.task import IGNORED, Label, Task
from unetx_evaluators.views import Prediction, View, reduced
from unetx_space.files import written_whole
from unetx_studies.drawing.captions import printable
from unetx_studies.sheet.pictures import MAX_ASPECT, Picture, data_uri, make_picture, outline
from unetx_studies.sheet.style import class_colour
from unetx_studies.verdict import case_means

HEIGHT = 220.0
"""Height of a picture, in pixels of the drawing."""
GAP, LINE = 14.0, 17.0
LEAST_WIDTH, CHARACTER_WIDTH = 190.0, 7.2
"""Width for the words below a picture, and of one of their characters."""
FEW_CASES = 4
"""Cases that are shown beside every trial: the first that are scored."""
STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;fill:#1b2333}"
    ".edge,.truth,.found{fill:none;vector-effect:non-scaling-stroke}.edge{stroke:#000;stroke-opacity:.55;"
    "stroke-width:4.4}.truth{stroke:#fff;stroke-width:2.8}.found{stroke-width:1.5}"
)
INDEX = "index.json"


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions as a zip of PNGs with an index."""
    index = [{"case": one.case, **asdict(one.view)} for one in predictions]
    with written_whole(path, durable=False) as aside, zipfile.ZipFile(aside, "w") as file:
        file.writestr(INDEX, json.dumps(index))
        for number, one in enumerate(predictions):
            file.writestr(f"{number}.png", one.png)


def read_predictions(path: Path) -> dict[str, Prediction]:
    """The predictions in a file, by case; empty where there is no such file, or it is damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            index = json.loads(file.read(INDEX))
            return {
                one["case"]: Prediction(
                    one["case"], View(one["axis"], tuple(one["slices"])), file.read(f"{number}.png")
                )
                for number, one in enumerate(index)
            }
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError):
        return {}


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """A slice of a case with the predictions of several networks."""

    picture: Picture
    predicted: tuple[Label, ...]
    """The label map ``[h, w]`` of each network."""

    @property
    def width(self) -> float:
        """Width in pixels of the drawing."""
        return HEIGHT * min(max(self.picture.aspect, 1 / MAX_ASPECT), MAX_ASPECT)

    def image(self) -> str:
        """The image alone, as an SVG element in units of its pixels."""
        rows, columns = self.picture.label.shape
        size = f'width="{columns}" height="{rows}" preserveAspectRatio="none" style="image-rendering:pixelated"'
        return f'<image {size} href="{data_uri(self.picture.panels[0])}"/>'

    def lines(self, number: int) -> str:
        """The outlines of the reference and of one network's prediction, over a shade that white stands out on."""
        rows, columns = self.picture.label.shape
        shade = f'<path class="shade" fill="#000" fill-opacity=".25" d="M0 0h{columns}v{rows}h-{columns}z"/>'
        return "".join((shade, *_outlined(self.picture.label, "truth"), *_outlined(self.predicted[number], "found")))

    def scaled(self, inner: str) -> str:
        """Put SVG that is in units of the image's pixels on the scale of the drawing."""
        rows, columns = self.picture.label.shape
        return f'<g transform="scale({self.width / columns:.5g} {HEIGHT / rows:.5g})">{inner}</g>'


def overlays(task: Task, predictions: Sequence[Prediction], *, only_fullest: bool = False) -> list[Overlay]:
    """The overlays of one case as several networks predict it, slice by slice.

    ``only_fullest`` gives the one slice where the reference has most foreground.

    Raises OSError or ValueError where the case, or a prediction, is not what it was.
    """
    case, view = predictions[0].case, predictions[0].view
    image, truth = task.image(case), np.asarray(task.label(case))
    predicted = [one.labels() for one in predictions]
    places = list(range(len(view.slices)))
    if view.axis is not None and not (view.axis < truth.ndim and view.slices[-1] < truth.shape[view.axis]):
        raise ValueError(f"case {case}: slices {view.slices} along axis {view.axis} of {truth.shape}")
    shown = reduced(view.of(truth))
    if any(labels.shape != shown.shape for labels in predicted):
        raise ValueError(f"case {case}: predictions of {[labels.shape for labels in predicted]} on {shown.shape}")
    if only_fullest:
        foreground = ((shown > 0) & (shown != IGNORED)).reshape(len(places), -1).sum(axis=1)
        places = [int(foreground.argmax())]
    return [
        Overlay(
            make_picture(
                case, image, truth, task.label_spacing, task.channels,
                slice_axis=view.axis, index=None if view.axis is None else view.slices[place],
            ),
            tuple(labels[place] for labels in predicted),
        )
        for place in places
    ]  # fmt: skip


def _outlined(labels: Label, kind: str) -> Iterator[str]:
    for value in np.unique(labels[(labels > 0) & (labels != IGNORED)]).tolist():
        path = outline(labels == value)
        if kind == "truth":
            yield f'<path class="edge" d="{path}"/><path class="truth" d="{path}"/>'
        else:
            yield f'<path class="found" stroke="{class_colour(value)}" d="{path}"/>'


def legend(classes: Sequence[str]) -> list[tuple[str, str]]:
    """The legend of overlays: words and colour of each entry."""
    named = [(f"prediction: {printable(name, 50)}", class_colour(value)) for value, name in enumerate(classes) if value]
    return [("reference, beneath the prediction", "#ffffff"), *named]


def predictions_svg(
    task: Task, predictions: Iterable[Prediction], scores: Sequence[CaseScore], title: str
) -> str | None:
    """The first cases of a trial as one drawing that brings its own light ground; None where none can be shown."""
    dice, shown = case_means(scores), []
    for one in list(predictions)[:FEW_CASES]:
        try:
            [overlay] = overlays(task, [one], only_fullest=True)
        except (OSError, ValueError):  # the cache was cleaned
            continue
        shown.append((overlay, dice.get(one.case)))
    return _sheet(shown, task.classes, title) if shown else None


def _sheet(shown: Sequence[tuple[Overlay, float | None]], classes: Sequence[str], title: str) -> str:
    entries = legend(classes)
    rows = [shown[at : at + 2] for at in range(0, len(shown), 2)]
    width = max(sum(max(one.width, LEAST_WIDTH) + GAP for one, _ in row) + GAP for row in rows)
    parts, y = [], GAP
    for row in rows:
        x = GAP
        for overlay, dice in row:
            words = printable(overlay.picture.name, int(max(overlay.width, LEAST_WIDTH) / CHARACTER_WIDTH))
            inner = overlay.scaled(overlay.image() + overlay.lines(0))
            parts.append(f'<g transform="translate({x:.1f} {y:.1f})">{inner}</g>')
            for line, text in enumerate((words, "" if dice is None else f"Dice {dice:.3f}"), start=1):
                parts.append(f'<text x="{x:.1f}" y="{y + HEIGHT + line * LINE:.1f}">{escape(text)}</text>')
            x += max(overlay.width, LEAST_WIDTH) + GAP
        y += HEIGHT + 2 * LINE + GAP
    for words, colour in entries:
        y += LINE
        parts.append(f'<rect x="{GAP}" y="{y - 10:.1f}" width="22" height="12" fill="{colour}" stroke="#48556b"/>')
        parts.append(f'<text x="{GAP + 30}" y="{y:.1f}">{escape(words)}</text>')
    height = y + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}"><title>{escape(title)}</title><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fcfdff"/>{"".join(parts)}</svg>\n'
    )
