"""The report of a study in parts: numbers, figures, pictures of cases, and the page that holds them."""
