"""The export of an architecture, as a network, a document or a drawing, in other formats."""

from unetx_studies.export.exporter import Exported, export
from unetx_studies.export.formats import FORMATS

__all__ = ["FORMATS", "Exported", "export"]
