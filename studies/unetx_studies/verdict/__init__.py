"""The verdict on finals: differences with their uncertainty, tests, the chosen and the cheapest, and power."""

from unetx_studies.verdict.conclusions import Cheapest, Chosen, Comparison, Verdict, conclusion, limits, verdict
from unetx_studies.verdict.differences import Difference, Scores, difference
from unetx_studies.verdict.power import Noise, Outlook, detectable, noise, outlook, outlook_lines
from unetx_studies.verdict.selection import best_of, cross_fitted
from unetx_studies.verdict.tables import case_means, scores_table

__all__ = [
    "Cheapest", "Chosen", "Comparison", "Difference", "Noise", "Outlook", "Scores", "Verdict", "best_of",
    "case_means", "conclusion", "cross_fitted", "detectable", "difference", "limits", "noise", "outlook",
    "outlook_lines", "scores_table", "verdict",
]  # fmt: skip
