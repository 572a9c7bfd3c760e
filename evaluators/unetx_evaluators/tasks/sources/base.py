"""The interface of sources, which give the cases of any layout in a common form, and checks that layouts share.

A source lists and reads; it writes nothing. Whatever makes the data unusable is a DataError that names the file, the
reason and the remedy: it is in ``problems`` where the listing or a header shows it, raised when the case is read where
only its voxels do, and raised at once when nothing at all can be listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.task import Image, Label

_LISTED = 5
_LINKS_ALLOWED = ContextVar("links_allowed", default=False)


@dataclass(frozen=True, slots=True, eq=False)
class RawCase:
    """One case as read from its source, with original intensities."""

    image: Image
    """Finite intensities ``[c, *spatial]`` in float32."""
    label: Label
    """Indices ``[*spatial]`` into the source's classes, or ``IGNORED``, in uint8."""
    spacing: tuple[float, ...]
    """The mm per voxel and axis; ones where the data do not say."""


class Source(Protocol):
    """A dataset. Sources are picklable; reading the same case twice gives the same arrays."""

    @property
    def name(self) -> str:
        """The name of the dataset."""

    @property
    def layout(self) -> str:
        """The name of the layout."""

    @property
    def origin(self) -> str:
        """A text on where the data come from."""

    @property
    def identity(self) -> str:
        """A text that changes with the input, computed without reading any array."""

    @property
    def dims(self) -> Literal[2, 3]:
        """The number of spatial axes of the images."""

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the images' channels."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes by label value; ``classes[0]`` is the background."""

    @property
    def case_names(self) -> tuple[str, ...]:
        """The names of the cases: unique, sorted, and usable as file names."""

    @property
    def problems(self) -> tuple[DataError, ...]:
        """Errors that the listing and the headers show; ``case_names`` omits cases that cannot be read for them."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what in the listing may be a mistake; they may name files."""

    @property
    def n_bytes(self) -> int:
        """The size of the cases' files; 0 where there are none."""

    def read(self, name: str) -> RawCase:
        """Read and check one case. Raises DataError."""


def check_image(image: npt.NDArray[Any], file: Path) -> Image:
    """The image in float32. Raises DataError where it is empty, or a voxel is not finite."""
    if image.size == 0:
        raise DataError(f"{file}: is empty (shape {image.shape}); export it again or remove the case")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused below
        values = np.ascontiguousarray(image, dtype=np.float32)
    strange = int(values.size - np.isfinite(values).sum())
    if strange:
        raise DataError(
            f"{file}: {strange} of {values.size} voxels are NaN or infinite; replace them (0, say) or remove the case"
        )
    return values


def check_same_shape(image: tuple[int, ...], label: tuple[int, ...], image_file: Path, label_file: Path) -> None:
    """Raise DataError where a mask has another shape than its image."""
    if image != label:
        raise DataError(
            f"{label_file}: the mask is {shape_text(label)}, its image {image_file.name} is {shape_text(image)}; "
            "resample the mask to the image's grid (nearest neighbour) or pair it with the right image"
        )


def check_case_name(name: str, file: Path) -> str:
    """The case's name. Raises DataError where it cannot be a file name, here or on other systems."""
    safe = name.isprintable() and not set(name) & set('/\\:*?"<>|') and len(name.encode()) <= 200
    if not safe or not name or name.startswith(".") or name != name.strip(" ."):
        raise DataError(
            f'{file}: {name!r} cannot name a case: it needs printable characters other than /\\:*?"<>|, no dot or '
            "space at either end and at most 200 bytes; rename the files"
        )
    return name


@contextmanager
def following_links(allowed: bool) -> Iterator[None]:
    """Inside, ``check_inside`` allows symbolic links to lead out of the dataset's folder, or not."""
    token = _LINKS_ALLOWED.set(allowed)
    try:
        yield
    finally:
        _LINKS_ALLOWED.reset(token)


def check_inside(file: Path, folder: Path) -> Path:
    """The file. Raises DataError where it lies outside of the dataset's folder, links followed if none may lead out."""
    if file.resolve().is_relative_to(folder.resolve()):
        return file
    is_named_inside = file.is_relative_to(folder) and ".." not in file.relative_to(folder).parts
    if is_named_inside and _LINKS_ALLOWED.get():
        return file
    remedy = ", or add --follow-links if the link is your own" if is_named_inside else ""
    raise DataError(
        f"{file}: leaves the dataset's folder {folder}; only files inside it are read: copy the file there{remedy}"
    )


def identity_of(layout: str, folder: Path, files: Iterable[Path], **options: Any) -> str:
    """The identity of a source: its folder, options, and every file's size and time of change, as JSON."""
    stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in files]
    listing = sorted((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
    return json.dumps([layout, str(folder.resolve()), options, listing], sort_keys=True)


def unreadable(file: Path, kind: str, reason: object) -> DataError:
    """The error on a file that cannot be read as one of that ``kind``."""
    return DataError(f"{file}: cannot be read as {kind} ({reason}); copy or export it again, or remove the case")


def check_partners(images: Sequence[str], masks: Sequence[str], mask: str, folder: Path, remedy: str) -> None:
    """Raise DataError where ``images`` or ``masks`` have no partner; ``mask`` is the layout's word for a mask."""
    faults = [
        f"{listed(lonely, kind)} without {partner}"
        for lonely, kind, partner in ((images, "image", f"a {mask}"), (masks, mask, "an image"))
        if lonely
    ]
    if faults:
        raise DataError(f"{folder}: {' and '.join(faults)}; {remedy}")


def listed(items: Sequence[object], noun: str, plural: str = "") -> str:
    """A text like ``3 values (7, 8, 9)``, in which at most five items are shown."""
    shown = ", ".join(str(item) for item in items[:_LISTED])
    more = ", ..." if len(items) > _LISTED else ""
    return f"{len(items)} {noun if len(items) == 1 else plural or noun + 's'} ({shown}{more})"


def shape_text(shape: Sequence[object]) -> str:
    """A shape as a text like ``31x43x24``."""
    return "x".join(str(n) for n in shape)
