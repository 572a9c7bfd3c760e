"""Evaluations in jobs of Slurm: the same workers, each held by a job on its node."""
