"""The report of a study: what it is made of, read once, the page, and the same figures in Optuna's dashboard."""
