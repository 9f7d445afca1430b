"""Finite horizons whose best return distributions are known."""
