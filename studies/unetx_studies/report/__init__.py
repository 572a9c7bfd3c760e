"""The report of a study: numbers, figures and the page, each apart."""
