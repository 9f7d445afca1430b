"""Policies that no other is preferred to."""
