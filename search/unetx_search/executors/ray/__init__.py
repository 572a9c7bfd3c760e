"""Evaluations on a Ray cluster: the same jobs in the same seats, kept by actors."""
