"""How we look: samplers, coordinator, executors, command line."""
