"""Where evaluations run: in this process, in a process per slot, or on a Ray cluster."""
