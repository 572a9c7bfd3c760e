"""How we look: samplers, coordinator, executors, command line."""

INTERRUPTED = 130
"""Exit code of a command that the user ended."""
