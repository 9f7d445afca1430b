"""Sweeps over seeds and settings."""
