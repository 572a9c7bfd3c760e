"""Datasets made ready for training."""
