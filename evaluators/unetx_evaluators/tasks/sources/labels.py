"""What the values of a mask mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.sources.base import listed
from unetx_evaluators.tasks.task import IGNORED, MAX_CLASSES, Label
from unetx_space.errors import RequestError

Labels = Mapping[str, int | str]
"""Class names with their mask value, or their colour as ``#rrggbb``. ``background`` is 0 or black unless it is named;
``ignore`` names what neither trains nor counts."""

BACKGROUND, IGNORE = "background", "ignore"

_MAX_VALUE = 65535
_LABEL = re.compile(r"\s*([^=,]*[^=,\s])\s*=\s*(\d{1,5}|#[0-9a-fA-F]{6})\s*")
_EXAMPLES = 4
_ROUNDING = 1e-3
_ENCODED_AT_ONCE = 1 << 22
"""Voxels; eight bytes are needed for each on the way."""


def parse_labels(text: str) -> dict[str, int | str]:
    """``liver=100,tumour=200`` or ``cell=#ff0000,border=#00ff00`` as ``Labels``. Raises RequestError."""
    labels: dict[str, int | str] = {}
    for part in text.split(","):
        match = _LABEL.fullmatch(part)
        is_colour = match is not None and match[2].startswith("#")
        if match is None or (not is_colour and int(match[2]) > _MAX_VALUE):
            raise RequestError(
                f"--labels is NAME=VALUE,NAME=VALUE,... with values from 0 to {_MAX_VALUE} or colours, like "
                f"'background=0,liver=100,ignore=255' or 'cell=#ff0000,border=#00ff00'; got {part!r} in {text!r}"
            )
        if match[1] in labels:
            raise RequestError(f"--labels names each class once; got {match[1]!r} twice in {text!r}")
        labels[match[1]] = match[2].lower() if is_colour else int(match[2])
    return labels


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Which values of a mask file mean which class; ``values[0]`` is the background."""

    names: tuple[str, ...]
    values: tuple[int, ...]
    """Whole numbers, or colours as ``0xRRGGBB``."""
    ignored: int | None = None
    """The value that becomes ``IGNORED``."""
    coloured: bool = False
    """Whether values are colours."""

    @classmethod
    def from_labels(cls, labels: Labels) -> Self:
        """Classes in the order of their values. Raises DataError."""
        coloured = any(isinstance(value, str) for value in labels.values())
        if coloured and not all(isinstance(value, str) for value in labels.values()):
            raise DataError(f"labels are all values or all colours, not some of each; got {dict(labels)}")
        meant = {name: _number(value) for name, value in labels.items()}
        background, ignored = meant.pop(BACKGROUND, 0), meant.pop(IGNORE, None)
        foreground = sorted((value, name) for name, value in meant.items())
        values = (background, *(value for value, _ in foreground))
        taken = (*values, ignored)
        if not foreground or len(set(taken)) < len(taken) or len(values) > MAX_CLASSES:
            raise DataError(
                f"labels name at least one class beside the background (0, unless background=VALUE says otherwise), at "
                f"most {MAX_CLASSES - 1}, each with a value of its own; got {dict(labels)}"
            )
        return cls((BACKGROUND, *(name for _, name in foreground)), values, ignored, coloured)

    @property
    def meaning(self) -> dict[int, int]:
        """Class index, or ``IGNORED``, by the value in the file."""
        known = {value: index for index, value in enumerate(self.values)}
        return known if self.ignored is None else {**known, self.ignored: IGNORED}

    def encode(self, mask: npt.NDArray[Any], file: Path, remedy: str) -> Label:
        """uint8 class indices, ``IGNORED`` where the mask says so. ``mask`` holds whole numbers, perhaps as floats."""
        values = np.array(sorted(self.meaning), dtype=np.int64)
        indices = np.array([self.meaning[value] for value in values.tolist()], dtype=np.uint8)
        flat = mask.reshape(-1)
        label = np.empty(flat.shape, dtype=np.uint8)
        strange: set[int] = set()
        for start in range(0, flat.size, _ENCODED_AT_ONCE):
            part = slice(start, start + _ENCODED_AT_ONCE)
            whole = as_whole_numbers(flat[part], file)
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
        return spelled_colour(value) if self.coloured else str(value)


def as_whole_numbers(mask: npt.NDArray[Any], file: Path) -> npt.NDArray[np.int64]:
    """The mask as integers; a value that is none (half, NaN, infinite) is a DataError.

    A scale in the header, such as 1/255, leaves some values beside their whole number by rounding alone.
    """
    if mask.dtype.kind in "bui":
        return mask.astype(np.int64)
    if mask.dtype.kind != "f":
        raise DataError(f"{file}: a label map holds whole numbers, this one values of type {mask.dtype}; write it anew")
    if not np.isfinite(mask).all():
        raise DataError(f"{file}: a label map holds whole numbers, this one NaN or infinite voxels; write it anew")
    whole: npt.NDArray[Any] = np.rint(mask)
    odd = np.unique(mask[np.abs(mask - whole) > _ROUNDING])
    if odd.size:
        raise DataError(
            f"{file}: a label map holds whole numbers, this one {odd[0]!s}; was it resampled with interpolation? "
            "resample labels with nearest neighbour"
        )
    return whole.astype(np.int64)


def two_valued(values: Sequence[int], *, coloured: bool, folder: Path) -> ClassMap:
    """Background 0 and one foreground value, if that is what all masks together hold. Colours always need labels."""
    if len(values) == 2 and values[0] == 0 and not coloured:
        return ClassMap((BACKGROUND, "foreground"), (0, values[1]))
    found = [spelled_colour(value) if coloured else str(value) for value in values]
    if len(found) < 2:
        remedy = "there is nothing to tell apart: give masks that outline something"
    else:
        names = [BACKGROUND, *(f"class{n}" for n in range(1, len(values)))]
        example = ",".join(f"{name}={value}" for name, value in zip(names[:_EXAMPLES], found, strict=False))
        remedy = f"say what they mean, like --labels {example}"
    raise DataError(
        f"{folder}: without --labels the masks hold 0 and one other value, such as 0 and 255; all together hold "
        f"{listed(found, 'colour' if coloured else 'value')}; {remedy}"
    )


def spelled_colour(value: int) -> str:
    """``#ff0000`` of 0xff0000."""
    return f"#{value:06x}"


def _number(value: int | str) -> int:
    return int(value.removeprefix("#"), 16) if isinstance(value, str) else value
