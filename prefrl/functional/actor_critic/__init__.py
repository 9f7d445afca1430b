"""Squashed Gaussians, smoothness, learned models, advantages, implicit Q-learning."""
