"""The user's options for reading a folder of images and masks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unetx_evaluators.tasks.sources.formats import stem_of

UNION, CLASSES = "union", "classes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """Location, names and meaning of images and masks; None: inferred from the data."""

    threshold: float | None = None
    """Pixels of a mask above it are foreground, the others background."""
    images: str | None = None
    """Folder of the images, relative to the dataset's."""
    masks: str | None = None
    """Folder of the masks, relative to the dataset's; it may be that of the images."""
    image_suffix: str | None = None
    """Ending of an image's name before its format: ``_training`` of ``21_training.tif``."""
    mask_suffix: str | None = None
    """Ending of a mask's name before its format: ``_segmentation`` of ``a_segmentation.png``."""
    several_masks: str | None = None
    """Meaning of several masks of one image: ``union``, ``classes`` (a class each), or the classes' names in the order
    in which they are drawn over each other, ``disc,cup``."""
    follow_links: bool = False
    """Whether symbolic links may lead out of the dataset's folder."""

    @property
    def stated(self) -> dict[str, Any]:
        """The options that the user has set, which are part of the source's identity, as they change the data."""
        options = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "follow_links"}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def names_folders(self) -> bool:
        """Whether the user states where images or masks lie."""
        return self.images is not None or self.masks is not None

    @property
    def tells_kinds(self) -> bool:
        """Whether the options distinguish images and masks that share a folder."""
        return self.image_suffix is not None or self.mask_suffix is not None or self.several_masks is not None

    @property
    def image_ending(self) -> str | None:
        """``image_suffix`` without a format."""
        return None if self.image_suffix is None else stem_of(Path(self.image_suffix))

    @property
    def mask_ending(self) -> str | None:
        """``mask_suffix`` without a format."""
        return None if self.mask_suffix is None else stem_of(Path(self.mask_suffix))

    @property
    def drawn(self) -> tuple[str, ...] | None:
        """The classes that ``several_masks`` names, in drawing order; None where it names none."""
        if self.several_masks in (None, UNION, CLASSES):
            return None
        return tuple(name.strip() for name in str(self.several_masks).split(","))


DEFAULT_READING = ReadingOptions()
"""Options of which none is set."""
