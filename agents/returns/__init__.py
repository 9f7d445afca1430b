"""The whole return distribution."""
