"""Recipes of diffusion policies that are tuned."""
