"""Inference of the meaning of mask values from all masks of a dataset, and proposals where it is ambiguous.

A mask may hold background or foreground alone, so all are read. Palettes are compared: where an index is the same
colour in all masks, and 0 is black, values are indices; else they are colours, for editors and quantisers number
colours in the order in which they meet them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.problems import Problems
from unetx_evaluators.tasks.sources import pictures
from unetx_evaluators.tasks.sources.base import listed
from unetx_evaluators.tasks.sources.header import Header
from unetx_evaluators.tasks.sources.labels import (
    BACKGROUND,
    FOREGROUND,
    IGNORE,
    INTEGER_TOLERANCE,
    MAX_VALUE,
    ClassMap,
    as_integers,
    hex_colour,
)
from unetx_evaluators.tasks.sources.pictures import MaskKind
from unetx_evaluators.tasks.sources.volumes import volume_reader

BLACK = 0
GREY_TOLERANCE = 16
"""Largest difference between the parts of a colour that is grey except for a JPEG's compression."""
FEW_VALUES = 8
"""Largest number of values that a user is asked to name one by one."""
_NAMED = 24
"""Largest number of colours that are proposed as labels."""
_EDGE = 0.1
"""Share of the highest value: values closer to either end count as that end."""
_AT_THE_TOP = 0.2
"""Smallest share of the foreground near the highest value if values between are those of edges."""
_NEAR_BLACK = 0.02
"""Smallest share of the colours near black if compression or interpolation made them."""
_LOWEST_TOP = 16
"""Smallest highest value below which interpolation leaves values between."""


@dataclass(frozen=True, slots=True)
class MaskValues:
    """The values of one mask."""

    file: Path
    kind: Literal["number", "index", "colour"]
    """What its pixels are: grey levels or numbers, indices of a palette, or colours."""
    counts: Mapping[int, int]
    """Number of pixels by level, index or ``0xRRGGBB``."""
    palette: Mapping[int, int]
    """Colours of the indices that occur."""

    @property
    def colours(self) -> dict[int, int] | None:
        """The number of pixels by colour; None where levels exceed those of a colour."""
        if self.kind == "colour":
            return dict(self.counts)
        if self.kind == "number" and not all(0 <= value <= 0xFF for value in self.counts):
            return None
        found: Counter[int] = Counter()
        for value, n_pixels in self.counts.items():
            found[self.palette[value] if self.kind == "index" else value * 0x010101] += n_pixels
        return dict(found)


def read_mask(file: Path, kind: MaskKind) -> tuple[Header, npt.NDArray[Any]]:
    """Header and values ``[*spatial]`` of a mask, read as that kind. Raises DataError."""
    volumes = volume_reader(file)
    if volumes is None:
        return pictures.read_mask(file, kind=kind)
    if kind == "colour":
        raise DataError(f"{file}: the mask of a volume holds numbers, no colours; give --labels values instead")
    header, array = volumes.read_array(file)
    return header, array[0]


def infer_class_map(masks: Sequence[Path], folder: Path) -> ClassMap:
    """The class map of background and foreground, if all masks together hold two values.

    Otherwise raises DataError with a proposal.
    """
    held = _read_values(masks, folder)
    in_colours = _colours_decide(held)
    pixels = _total_counts(held, in_colours)
    if in_colours and not any(one.kind == "index" for one in held) and all(map(_is_grey, pixels)):
        in_colours, pixels = False, {value & 0xFF: n for value, n in pixels.items()}  # levels, stored as colours
    values = sorted(pixels)
    if len(values) == 2 and values[0] == BLACK and (not in_colours or _is_grey(values[1])):
        return ClassMap((BACKGROUND, FOREGROUND), (values[0], values[1]), coloured=in_colours)
    spelled = [hex_colour(value) if in_colours else str(value) for value in values]
    raise DataError(
        f"{folder}: without --labels the masks hold 0 and one other value, such as 0 and 255; all together hold "
        f"{listed(spelled, 'colour' if in_colours else 'value')}; {_suggestion(held, pixels, spelled, in_colours)}"
    )


def check_palettes(masks: Sequence[Path], folder: Path, *, allows_colours: bool) -> None:
    """Raise DataError where indices are ambiguous because the palettes of the masks differ.

    ``allows_colours``: whether the layout lets the user name colours instead.
    """
    indexed = [one for one in _read_values(masks, folder) if one.kind == "index"]
    if not _differ(indexed):
        return
    colours = sorted({colour for one in indexed for colour in one.palette.values()})
    remedy = "save them with one palette, or as grey levels"
    if allows_colours:
        remedy = f"name colours instead of numbers, {_labels_of([hex_colour(one) for one in colours[:_NAMED]])}"
    raise DataError(
        f"{folder}: the palettes of the masks differ, so that a number stands for another colour in another mask; "
        f"{remedy}"
    )


def midpoint_threshold(masks: Sequence[Path]) -> int:
    """The threshold half-way between black and the brightest level of some masks."""
    top = 0
    for mask in masks:
        with suppress(DataError):
            top = max(top, int(read_mask(mask, "brightness")[1].max()))
    return top // 2


def _read_values(masks: Sequence[Path], folder: Path) -> list[MaskValues]:
    """The values of all masks that can be read; others fail when their case is read. Raises DataError if none can."""
    problems, held = Problems(), []
    fractions: dict[str, np.floating[Any]] = {}
    top = 0.0
    for mask in masks:
        with problems.collecting():
            array, palette, kind = _pixels(mask)
            odd = _fractions(array)
            if odd.size:
                fractions[mask.name], top = odd.min(), max(top, float(array.max()))
            else:
                values, counts = np.unique(as_integers(array, mask), return_counts=True)
                pairs = dict(zip(values.tolist(), counts.tolist(), strict=True))
                used = {index: palette.get(index, BLACK) for index in pairs} if kind == "index" else {}
                held.append(MaskValues(mask, kind, pairs, used))
    if len(fractions) > len(held):
        first = next(iter(fractions.values()))
        raise DataError(
            f"{folder}: {listed(list(fractions), 'mask')} hold what is no whole number, such as {first!s}, as "
            f"interpolation and networks leave it: --threshold {top / 2:g} makes what is above it foreground; or save "
            "whole numbers, resampled with nearest neighbour"
        )
    if not held:
        problems.raise_all()
    return held


def _pixels(mask: Path) -> tuple[npt.NDArray[Any], dict[int, int], Literal["number", "index", "colour"]]:
    if volume_reader(mask) is not None:
        return read_mask(mask, "number")[1], {}, "number"
    palette = pictures.read_palette(mask)
    coloured = pictures.read_header(mask).coloured
    array = pictures.read_mask(mask, kind="colour" if coloured else "number")[1]
    return array, palette or {}, "colour" if coloured else "number" if palette is None else "index"


def _fractions(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        return array[:0].reshape(-1)
    return np.asarray(array[np.abs(array - np.rint(array)) > INTEGER_TOLERANCE])


def _colours_decide(held: Sequence[MaskValues]) -> bool:
    """Whether the values of the masks are colours rather than numbers."""
    if any(one.kind == "colour" for one in held):
        return True
    indexed = [one for one in held if one.kind == "index"]
    by_index = {index: colour for one in indexed for index, colour in one.palette.items()}
    if _differ(indexed):
        return True
    if by_index and (by_index[0] != BLACK if 0 in by_index else BLACK in by_index.values()):
        return True
    return 0 < len(indexed) < len(held) and len(_total_counts(held, True)) < len(_total_counts(held, False))


def _differ(indexed: Sequence[MaskValues]) -> bool:
    """Whether an index has several colours."""
    pairs = {pair for one in indexed for pair in one.palette.items()}
    return len({index for index, _ in pairs}) < len(pairs)


def _total_counts(held: Sequence[MaskValues], in_colours: bool) -> dict[int, int]:
    """The number of pixels of all masks by value, or by colour."""
    found: Counter[int] = Counter()
    for one in held:
        found.update(one.colours or {} if in_colours else one.counts)
    return dict(found)


def _is_grey(colour: int) -> bool:
    return colour == (colour & 0xFF) * 0x010101


def _suggestion(held: Sequence[MaskValues], pixels: Mapping[int, int], spelled: Sequence[str], in_colours: bool) -> str:
    """A text on options with which masks of these values can be read."""
    if len(pixels) < 2:
        return "there is nothing to tell apart: give masks that outline something"
    naming = f"say what they mean, {_labels_of(spelled)}"
    if not in_colours and not 0 <= min(pixels) <= max(pixels) <= MAX_VALUE:
        naming = f"save them with values from 0 to {MAX_VALUE}, which --labels can name"
    if max(pixels) <= 0:
        return naming
    if BLACK not in pixels:
        return naming if len(pixels) <= FEW_VALUES else "so many are no classes: are these the masks?"
    objects = f"--threshold 0 makes everything {'but black' if in_colours else 'above 0'} foreground"
    levels = _levels(pixels) if in_colours else pixels
    if all(len(one.colours or {} if in_colours else one.counts) <= 2 for one in held):
        return f"each mask alone holds two at most: {objects}; or {naming}"
    if levels is not None and not _is_marked(spelled) and (top := _top_of_edges(levels)) is not None:
        return (
            f"most lie near 0 and near {top}, the others as interpolation and compression leave them at edges: "
            f"--threshold {top // 2} makes what is above it foreground"
        )
    if len(pixels) <= FEW_VALUES:
        return f"if they number objects, {objects}; if they are classes, {naming}"
    return f"if they number objects, {objects}; classes are named one by one, with --labels NAME=VALUE,NAME=VALUE,..."


def _is_marked(spelled: Sequence[str]) -> bool:
    """Whether the values are those of classes from 0 without gaps, and 255, which mostly means ignored."""
    return len(spelled) > 2 and list(spelled) == [*map(str, range(len(spelled) - 1)), "255"]


def _labels_of(spelled: Sequence[str]) -> str:
    names = [BACKGROUND, *(f"class{n}" for n in range(1, len(spelled)))]
    if _is_marked(spelled):
        names[-1] = IGNORE
    example = ",".join(f"{name}={value}" for name, value in zip(names, spelled, strict=True))
    return f"like --labels {example}"


def _levels(colours: Mapping[int, int]) -> dict[int, int] | None:
    """The number of pixels by brightness, if colours are grey, or most of them come from compression or interpolation.

    These leave colours near black, in which objects are not drawn.
    """
    found: Counter[int] = Counter()
    n_grey = n_near_black = 0
    for colour, n_pixels in colours.items():
        parts = colour.to_bytes(3, "big")
        n_grey += max(parts) - min(parts) <= GREY_TOLERANCE
        n_near_black += BLACK < max(parts) <= _EDGE * 0xFF
        found[max(parts)] += n_pixels
    is_blurred = len(colours) > FEW_VALUES and n_near_black > max(3, _NEAR_BLACK * len(colours))
    return dict(found) if n_grey == len(colours) or is_blurred else None


def _top_of_edges(levels: Mapping[int, int]) -> int | None:
    """The highest level, if enough of the foreground is near it and levels between are those of edges; else None."""
    top = max(levels)
    between = {level: n for level, n in levels.items() if _EDGE * top < level < (1 - _EDGE) * top}
    near_top = sum(n for level, n in levels.items() if level >= (1 - _EDGE) * top)
    foreground = sum(n for level, n in levels.items() if level > _EDGE * top)
    is_edge = near_top >= _AT_THE_TOP * foreground and (len(levels) > FEW_VALUES or not between)
    return top if top >= _LOWEST_TOP and min(levels) >= 0 and is_edge else None
