"""Audits of what was trained: stances, choices, alignment, rewards, and loops of own data."""
