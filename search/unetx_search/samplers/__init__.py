"""Optuna samplers for genomes."""
