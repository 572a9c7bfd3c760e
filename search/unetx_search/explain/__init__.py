"""Explanations: what the skips of a design do, once it is trained on a dataset."""

EXPLAIN = "explain"
"""Folder of the explanations, in a study's or below --out."""
