"""A prepared case as a picture: one slice in grey or colour, and the outline of every class as an SVG path.

Outlines run along voxel edges, so that they show exactly what the mask says. Volumes are shown as radiologists hang
them: the patient's right on the left, front or head at the top (arrays are RAS+, see ``tasks.sources.nifti``).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from unetx_evaluators.tasks.task import IGNORED, Image, Label
from unetx_evaluators.views import MAX_SIDE, View, reduced, reduced_size

MAX_PANELS = 4
"""Most channels that are shown side by side."""
HEIGHT = 220
"""Height of a panel on the page, in CSS pixels."""
MAX_ASPECT = 4.0
MOST_PNG_BYTES = 24_000
RGB = ("red", "green", "blue")

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A case as it is shown: the pixels of one slice, the label on it, and words."""

    name: str
    note: str
    panels: tuple[Pixels, ...]
    """``[h, w]`` grey or ``[h, w, 3]`` colour; one for each channel, or one for all three of a photograph."""
    captions: tuple[str, ...]
    """The channel that each panel shows; an empty text where there is but one panel."""
    label: Label
    """The label of the slice, ``[h, w]``."""
    aspect: float
    """Width over height in mm."""

    @property
    def has_ignored(self) -> bool:
        """Whether some voxels of the label neither train nor count."""
        return bool((self.label == IGNORED).any())


def make_picture(
    name: str, image: Image, label: Label, spacing: Sequence[float], channels: Sequence[str], *,
    slice_axis: int | None, index: int | None = None,
) -> Picture:  # fmt: skip
    """The picture of a case from ``image[c, *size]``, ``label[*size]``, ``spacing`` in mm along each axis of the label.

    Of a volume the slice ``index`` along ``slice_axis`` is shown, by default that with most foreground; None where
    there is nothing to slice.
    """
    note = "x".join(map(str, label.shape))
    view = View(None, (0,))
    if slice_axis is not None:
        view = View(slice_axis, (fullest_slice(label, slice_axis) if index is None else index,))
        note = f"{note}, slice {view.slices[0] + 1}"
        across, down = (mm for axis, mm in enumerate(spacing) if axis != slice_axis)
        spacing = (down, across)
    image, label = np.stack([view.of(channel)[0] for channel in image]), view.of(label)[0]
    height, width = label.shape
    image, label = _reduced(np.asarray(image), np.asarray(label))
    panels, captions = _panels(image, channels)
    return Picture(name, note, panels, captions, label, width * spacing[1] / (height * spacing[0]))


def fullest_slice(label: Label, axis: int) -> int:
    """Index of the slice with most foreground; of equals the one nearest to the middle."""
    rest = tuple(a for a in range(label.ndim) if a != axis)
    counts = ((label > 0) & (label != IGNORED)).sum(axis=rest)
    middle = (len(counts) - 1) / 2
    return int(min(np.flatnonzero(counts == counts.max()), key=lambda index: abs(index - middle)))


def _reduced(image: Image, label: Label) -> tuple[Image, Label]:
    """The slice with at most ``MAX_SIDE`` pixels a side: means of the image, single voxels of the label."""
    from PIL import Image as pillow  # noqa: N813 - a module named like its class

    if max(label.shape) <= MAX_SIDE:
        return image, label
    rows, columns = reduced_size(label.shape)
    small = [
        np.asarray(pillow.fromarray(channel).resize((columns, rows), pillow.Resampling.BOX))
        for channel in np.ascontiguousarray(image)
    ]
    return np.stack(small), reduced(label)


def _panels(image: Image, channels: Sequence[str]) -> tuple[tuple[Pixels, ...], tuple[str, ...]]:
    grey = [_stretched(channel) for channel in image]
    if tuple(channels) == RGB:
        return (np.stack(grey, axis=-1),), ("",)
    if len(grey) == 1:
        return (grey[0],), ("",)
    return tuple(grey[:MAX_PANELS]), tuple(channels[:MAX_PANELS])


def _stretched(values: npt.NDArray[Any]) -> Pixels:
    """Grey values from black at the 0.5th percentile to white at the 99.5th; a constant picture is mid-grey."""
    low, high = np.percentile(values, (0.5, 99.5))
    if low == high:
        low, high = float(values.min()), float(values.max())
    if low == high:
        return np.full(values.shape, 128, np.uint8)
    scaled = (values.astype(np.float64) - low) / (high - low)
    return np.asarray(np.rint(255 * scaled.clip(0, 1)), dtype=np.uint8)


def outline(mask: npt.NDArray[np.bool_]) -> str:
    """An SVG path along the edges of a mask, in units of pixels."""
    framed = np.pad(mask, 1)
    along_rows = framed[1:, 1:-1] != framed[:-1, 1:-1]
    along_columns = (framed[1:-1, 1:] != framed[1:-1, :-1]).T
    across = (f"M{start} {row}h{length}" for row, start, length in _runs(along_rows))
    down = (f"M{column} {start}v{length}" for column, start, length in _runs(along_columns))
    return "".join((*across, *down))


def _runs(edges: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """The line, start and length of every run of edges."""
    steps = np.diff(np.pad(edges.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    lines, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    return zip(lines.tolist(), starts.tolist(), (ends - starts).tolist(), strict=True)


def figure_html(picture: Picture) -> str:
    """The picture as an HTML figure with one SVG for each panel; outlines carry the CSS class ``k{label value}``."""
    aspect = min(max(picture.aspect, 1 / MAX_ASPECT), MAX_ASPECT)
    rows, columns = picture.label.shape
    lines = "".join(_outlines(picture.label))
    scale = f"scale({HEIGHT * aspect / columns:.5g} {HEIGHT / rows:.5g})"
    panels = "".join(
        f'<div><svg viewBox="0 0 {HEIGHT * aspect:.1f} {HEIGHT}" width="{HEIGHT * aspect:.0f}" height="{HEIGHT}" '
        f'role="img" aria-label="{escape(picture.name)} {escape(caption)}"><g transform="{scale}">'
        f'<image width="{columns}" height="{rows}" preserveAspectRatio="none" href="{data_uri(pixels)}"/>{lines}</g>'
        f"</svg>{f'<small>{escape(caption)}</small>' if caption else ''}</div>"
        for pixels, caption in zip(picture.panels, picture.captions, strict=True)
    )
    return (
        f'<figure><div class="panels">{panels}</div><figcaption><b>{escape(picture.name)}</b> '
        f"<span>{escape(picture.note)}</span></figcaption></figure>"
    )


def _outlines(label: Label) -> Iterator[str]:
    for value in np.unique(label[label > 0]).tolist():
        path = outline(label == value)
        kind = "ignored" if value == IGNORED else f"k{value}"
        yield f'<path class="edge {kind}" d="{path}"/><path class="line {kind}" d="{path}"/>'


def data_uri(pixels: Pixels) -> str:
    """A data URI of the pixels, as a PNG, or as a JPEG where that would be long."""
    from PIL import Image as pillow  # noqa: N813

    picture, stream = pillow.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    kind = "png"
    if stream.tell() > MOST_PNG_BYTES:
        stream, kind = io.BytesIO(), "jpeg"
        picture.save(stream, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
