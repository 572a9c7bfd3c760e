"""An architecture leaves in other formats."""

from unetx_studies.export.exporter import Exported, export
from unetx_studies.export.formats import FORMATS

__all__ = ["FORMATS", "Exported", "export"]
