"""An architecture as a picture: SVG, and text for a terminal. No torch, and nothing is built."""

from unetx_studies.drawing.difference import differences, side_by_side, to_svgs
from unetx_studies.drawing.svg import Numbers, to_svg
from unetx_studies.drawing.terminal import to_text

__all__ = ["Numbers", "differences", "side_by_side", "to_svg", "to_svgs", "to_text"]
