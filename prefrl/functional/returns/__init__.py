"""Objectives of the whole return distribution."""
