"""Explanations: what the skips of a design do, once it is trained on a dataset."""

EXPLAIN = "explain"
"""Name of the folder of explanations, in a study's folder or below --out."""
