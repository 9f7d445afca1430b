"""Diffusions, seen every dt."""
