"""Diffusion policies that are tuned by preferences, demonstrations, or their own generations."""
