"""Evaluations on a Ray cluster: the same workers, each held by an actor on its node."""
