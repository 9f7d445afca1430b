"""Agents that learn from choices of people who look ahead."""
