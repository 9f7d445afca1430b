"""Recipes of agents that learn from choices."""
