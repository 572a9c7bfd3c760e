"""The meaning of the values of a mask: values or colours of classes, or a threshold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import listed
from unetx_evaluators.tasks.sources.reading import UNION, ReadingOptions
from unetx_evaluators.tasks.task import IGNORED, MAX_CLASSES, Label
from unetx_space.errors import RequestError

if TYPE_CHECKING:
    from unetx_evaluators.tasks.sources.pictures import MaskKind

Value = int | str
"""A mask's value, or a colour as ``#rrggbb``."""
Labels = Mapping[str, Value | tuple[Value, ...]]
"""Mask values or colours, one or several, by name of the class. ``background`` is 0 or black unless it is named;
``ignore`` names values that are ignored in training and scoring."""

BACKGROUND, FOREGROUND, IGNORE = "background", "foreground", "ignore"
INTEGER_TOLERANCE = 1e-3
"""Largest distance of a float in a label map from a whole number: scaled headers give values such as 0.9999999."""

MAX_VALUE = 65535
"""The highest value that a label may name."""
_LABEL = re.compile(r"\s*([^=,]*[^=,\s])\s*=\s*(\d{1,5}|#[0-9a-fA-F]{6})\s*")
_ENCODED_AT_ONCE = 1 << 22
"""Number of voxels that are encoded at once, for each of which eight bytes are needed."""


def parse_labels(text: str) -> dict[str, Value | tuple[Value, ...]]:
    """Parse ``liver=100,tumour=200`` or ``cell=#ff0000,border=#00ff00`` as ``Labels``. Raises RequestError.

    A class that is named several times has several values: ``cell=1,cell=2``.
    """
    values: dict[str, list[Value]] = {}
    for part in text.split(","):
        match = _LABEL.fullmatch(part)
        is_colour = match is not None and match[2].startswith("#")
        if match is None or (not is_colour and int(match[2]) > MAX_VALUE):
            raise RequestError(
                f"--labels is NAME=VALUE,NAME=VALUE,... with values from 0 to {MAX_VALUE} or colours, like "
                f"'background=0,liver=100,ignore=255' or 'cell=#ff0000,border=#00ff00'; a class of several "
                f"values is named for each, 'cell=1,cell=2'; got {part!r} in {text!r}"
            )
        name = match[1].casefold() if match[1].casefold() in (BACKGROUND, IGNORE) else match[1]
        values.setdefault(name, []).append(match[2].lower() if is_colour else int(match[2]))
    return {name: several[0] if len(several) == 1 else tuple(several) for name, several in values.items()}


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold that divides the values of masks into background and foreground."""

    level: float
    """The threshold, above which values are foreground."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of both classes."""
        return (BACKGROUND, FOREGROUND)

    @property
    def mask_kind(self) -> MaskKind:
        """How the masks' pixels are read."""
        return "brightness"

    @property
    def stated(self) -> list[Any]:
        """JSON values for the identity of a source."""
        return ["above", self.level]

    def encode(self, mask: npt.NDArray[Any], file: Path, _remedy: str) -> Label:
        """The class indices of a mask in uint8. Raises DataError where it holds NaN."""
        if mask.dtype.kind == "f" and np.isnan(mask).any():
            raise DataError(f"{file}: holds NaN, which is neither above nor below {self.level:g}; write it anew")
        return (mask > self.level).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class ClassMap:
    """The values of classes in mask files; ``values[0]`` is the background."""

    names: tuple[str, ...]
    values: tuple[int, ...]
    """Values of the classes: whole numbers, or colours as ``0xRRGGBB``."""
    ignored: int | None = None
    """The value that becomes ``IGNORED``."""
    coloured: bool = False
    """Whether values are colours."""
    further: tuple[tuple[int, int], ...] = ()
    """Further values of classes that have several, with the class index or ``IGNORED``."""

    @classmethod
    def from_labels(cls, labels: Labels) -> Self:
        """The class map of ``labels``, classes in the order of their values. Raises DataError."""
        meant = {
            BACKGROUND if name.strip().casefold() == BACKGROUND else name: sorted(
                int(one.removeprefix("#"), 16) if isinstance(one, str) else one for one in _several(value)
            )
            for name, value in labels.items()
        }
        coloured = {isinstance(value, str) for several in labels.values() for value in _several(several)}
        if len(coloured) > 1:
            raise DataError(f"labels are all values or all colours, not some of each; got {dict(labels)}")
        n_names = len(meant)
        background, ignored = meant.pop(BACKGROUND, [0]), meant.pop(IGNORE, [])
        foreground = sorted((values, name) for name, values in meant.items())
        classes = [background, *(values for values, _ in foreground)]
        taken = [value for values in (*classes, ignored) for value in values]
        is_clear = len(set(taken)) == len(taken) and n_names == len(labels)
        if not foreground or not is_clear or len(classes) > MAX_CLASSES:
            raise DataError(
                f"labels name at least one class beside the background (0, unless background=VALUE says otherwise), at "
                f"most {MAX_CLASSES - 1}, each with a value of its own; got {dict(labels)}"
            )
        further = [(value, index) for index, values in enumerate(classes) for value in values[1:]]
        return cls(
            (BACKGROUND, *(name for _, name in foreground)),
            tuple(values[0] for values in classes),
            ignored[0] if ignored else None,
            coloured == {True},
            (*further, *((value, IGNORED) for value in ignored[1:])),
        )

    @property
    def meaning(self) -> dict[int, int]:
        """The class index, or ``IGNORED``, by the value in the file."""
        known = {value: index for index, value in enumerate(self.values)} | dict(self.further)
        return known if self.ignored is None else {**known, self.ignored: IGNORED}

    @property
    def mask_kind(self) -> MaskKind:
        """How the masks' pixels are read."""
        return "colour" if self.coloured else "number"

    @property
    def stated(self) -> list[Any]:
        """JSON values for the identity of a source."""
        return [*self.names, *self.meaning.items()]

    def encode(self, mask: npt.NDArray[Any], file: Path, remedy: str) -> Label:
        """The class indices, or ``IGNORED``, of a mask of whole numbers (perhaps floats), in uint8. Raises
        DataError."""
        values = np.array(sorted(self.meaning), dtype=np.int64)
        indices = np.array([self.meaning[value] for value in values.tolist()], dtype=np.uint8)
        flat = mask.reshape(-1)
        label = np.empty(flat.shape, dtype=np.uint8)
        strange: set[int] = set()
        for start in range(0, flat.size, _ENCODED_AT_ONCE):
            part = slice(start, start + _ENCODED_AT_ONCE)
            whole = as_integers(flat[part], file)
            places = np.minimum(np.searchsorted(values, whole), len(values) - 1)
            strange.update(np.unique(whole[values[places] != whole]).tolist())
            label[part] = indices[places]
        if strange:
            noun, found = "colour" if self.coloured else "value", [self._spelled(value) for value in sorted(strange)]
            names = {**dict(enumerate(self.names)), IGNORED: IGNORE}
            known = ", ".join(f"{self._spelled(value)} {names[index]}" for value, index in self.meaning.items())
            raise DataError(f"{file}: holds {listed(found, noun)} that no class has (known: {known}); {remedy}")
        return label.reshape(mask.shape)

    def _spelled(self, value: int) -> str:
        return hex_colour(value) if self.coloured else str(value)


def classes_from_options(labels: Labels | None, reading: ReadingOptions) -> ClassMap | Threshold | None:
    """The meaning of masks that the user states; None where none is stated. Raises DataError on contradictions."""
    several = reading.several_masks not in (None, UNION)
    if labels is not None and (several or reading.threshold is not None):
        other = f"--several-masks {reading.several_masks}" if several else f"--threshold {reading.threshold:g}"
        raise DataError(f"{other} says itself which classes there are: leave --labels out, or the other")
    if reading.threshold is not None:
        return Threshold(reading.threshold)
    return None if labels is None else ClassMap.from_labels(labels)


def as_integers(mask: npt.NDArray[Any], file: Path) -> npt.NDArray[np.int64]:
    """The mask as integers. Raises DataError on values that are not whole (0.5, NaN, infinity)."""
    if mask.dtype.kind in "bui":
        return mask.astype(np.int64)
    if mask.dtype.kind != "f":
        raise DataError(f"{file}: a label map holds whole numbers, this one values of type {mask.dtype}; write it anew")
    if not np.isfinite(mask).all():
        raise DataError(f"{file}: a label map holds whole numbers, this one NaN or infinite voxels; write it anew")
    whole = np.rint(mask)
    odd = mask[np.abs(mask - whole) > INTEGER_TOLERANCE]
    if odd.size:
        raise DataError(
            f"{file}: a label map holds whole numbers, this one {odd.min()!s}; was it resampled with interpolation? "
            "resample labels with nearest neighbour"
        )
    return np.asarray(whole, dtype=np.int64)


def hex_colour(value: int) -> str:
    """A colour such as 0xff0000 as a text like ``#ff0000``."""
    return f"#{value:06x}"


def _several(value: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    return value if isinstance(value, tuple) else (value,)
