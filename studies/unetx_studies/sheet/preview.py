"""A preview of a few predicted cases in one PNG: a slice of each, with the outlines of its classes."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np

from unetx_evaluators.tasks.task import Label
from unetx_studies.sheet.pictures import Picture, Pixels

TILE = 256
"""Pixels of a picture's longer side."""
MARGIN = 6
CAPTION = 14
"""Pixels below a picture for its name."""
COLOURS = ((230, 60, 40), (40, 160, 240), (250, 200, 40), (60, 200, 90), (200, 90, 230), (250, 140, 40))
"""Colours of the classes, in turn."""


def preview_png(pictures: Sequence[Picture]) -> bytes:
    """The pictures side by side as a PNG, in as many columns as rows or one more."""
    from PIL import Image as pillow  # noqa: N813 - a module named like its class
    from PIL import ImageDraw

    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    step_x, step_y = TILE + MARGIN, TILE + CAPTION + MARGIN
    page = pillow.new("RGB", (columns * step_x + MARGIN, rows * step_y + MARGIN), "white")
    draw = ImageDraw.Draw(page)
    for number, picture in enumerate(pictures):
        left, top = MARGIN + number % columns * step_x, MARGIN + number // columns * step_y
        height, width = picture.label.shape
        aspect = picture.aspect
        size = (TILE, max(1, round(TILE / aspect))) if aspect >= 1 else (max(1, round(TILE * aspect)), TILE)
        grown = max(1, math.ceil(TILE / max(height, width)))
        tile = pillow.fromarray(outlined(picture.panels[0], picture.label, grown)).resize(size)
        page.paste(tile, (left, top))
        draw.text((left, top + size[1] + 1), f"{picture.name} ({picture.note})"[:44], fill="black")
    content = io.BytesIO()
    page.save(content, format="PNG")
    return content.getvalue()


def outlined(panel: Pixels, label: Label, grown: int) -> Pixels:
    """A panel with the edges of its classes in colours, ``[h, w, 3]``, each pixel ``grown`` times as long and wide."""
    colour = panel if panel.ndim == 3 else np.repeat(panel[..., None], 3, axis=-1)
    colour, large = (np.repeat(np.repeat(of, grown, 0), grown, 1) for of in (colour, label))
    inner = np.ones(large.shape, bool)
    for axis in (0, 1):
        for shift in (-1, 1):
            inner &= np.roll(large, shift, axis) == large
    edge = (large > 0) & ~inner
    paint = np.array(COLOURS, np.uint8)[(large.astype(int) - 1) % len(COLOURS)]
    return np.where(edge[..., None], paint, colour)
