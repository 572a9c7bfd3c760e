"""Scores as pure functions on arrays."""

from unetx_evaluators.metrics.overlap import dice_per_class, objective

__all__ = ["dice_per_class", "objective"]
