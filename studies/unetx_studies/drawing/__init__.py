"""An architecture as a picture: SVG, and text for a terminal. No torch, and nothing is built."""

from unetx_studies.drawing.svg import Numbers, to_svg
from unetx_studies.drawing.terminal import to_text

__all__ = ["Numbers", "to_svg", "to_text"]
