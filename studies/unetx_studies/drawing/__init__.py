"""Drawings of an architecture, as SVG and as text for a terminal, without torch and without building it."""

from unetx_studies.drawing.difference import differences, side_by_side, to_svgs
from unetx_studies.drawing.svg import Numbers, to_svg, to_thumbnail
from unetx_studies.drawing.terminal import to_text

__all__ = ["Numbers", "differences", "side_by_side", "to_svg", "to_svgs", "to_text", "to_thumbnail"]
