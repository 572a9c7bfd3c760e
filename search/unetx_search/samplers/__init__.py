"""Optuna's samplers, and what makes their proposals valid designs."""
