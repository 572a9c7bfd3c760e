"""What a design's skips do: from what was seen of its trainings to numbers, words and a drawing."""

from unetx_studies.explanation.findings import Change, Explanation, Looked, Role, SkipEffect, StageFlow, explained
from unetx_studies.explanation.words import explanation_svg, explanation_text

__all__ = [
    "Change", "Explanation", "Looked", "Role", "SkipEffect", "StageFlow", "explained", "explanation_svg",
    "explanation_text",
]  # fmt: skip
