"""Explanations: what the skips of a design do, once it is trained on a dataset."""
