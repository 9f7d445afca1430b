"""Preference losses, hierarchies, games."""
