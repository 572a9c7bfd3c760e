"""Colours and rules of the picture sheet."""

from __future__ import annotations

from importlib.resources import files

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")
"""Okabe and Ito's palette, told apart by the colour-blind too (jfly.uni-koeln.de/color, 2008), the brightest first."""
DASHES = ("", "5 3", "1.5 3")
"""Beyond seven classes the colours come again, dashed and then dotted."""


def page_style() -> str:
    """The style sheet that every picture sheet has, for light and for dark."""
    return files("unetx_studies.sheet").joinpath("sheet.css").read_text(encoding="utf-8")


def class_colour(index: int) -> str:
    """The colour of the class with that label value; the background, 0, has none."""
    return COLOURS[(index - 1) % len(COLOURS)]


def class_style(n_classes: int) -> str:
    """The rules that colour each class's outline and hide it when its key is off."""
    rules = []
    for index in range(1, n_classes):
        dash = DASHES[min((index - 1) // len(COLOURS), len(DASHES) - 1)]
        rules.append(f".line.k{index}{{stroke:{class_colour(index)}{f';stroke-dasharray:{dash}' if dash else ''}}}")
        rules.append(f"body:has(#show{index}:not(:checked)) path.k{index}{{display:none}}")
    return "".join(rules)
