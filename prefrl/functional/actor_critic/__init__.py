"""Squashed Gaussians, smoothness, learned models."""
