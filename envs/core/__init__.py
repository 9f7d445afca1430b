"""One dynamics, three faces."""
