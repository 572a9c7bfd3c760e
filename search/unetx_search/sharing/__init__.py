"""How many workers share a GPU: measured once, decided by pure functions."""
