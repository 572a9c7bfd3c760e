"""The choice of the module that reads a volume."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from unetx_evaluators.tasks.sources import itk, nifti
from unetx_evaluators.tasks.sources.formats import is_itk, is_nifti


def volume_reader(file: Path) -> ModuleType | None:
    """The module ``nifti`` or ``itk`` that reads a volume, both with the same functions; None for a picture."""
    return nifti if is_nifti(file) else itk if is_itk(file) else None
