"""What is recorded of studies, concluded from them, shown and exported."""
