"""Several agents in one world."""
