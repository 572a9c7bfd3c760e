"""What a design's skips do: from what was observed of its trainings to numbers, words and a drawing."""

from unetx_studies.explanation.facts import Change, Explanation, Role, SeedObservations, SkipEffect, StageFlow
from unetx_studies.explanation.findings import make_explanation
from unetx_studies.explanation.words import explanation_svg, explanation_text

__all__ = [
    "Change", "Explanation", "Role", "SeedObservations", "SkipEffect", "StageFlow", "explanation_svg",
    "explanation_text", "make_explanation",
]  # fmt: skip
