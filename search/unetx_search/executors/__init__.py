"""Where evaluations run: in this process, or in a process per slot."""
