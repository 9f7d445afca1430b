"""Rewards and policies learned from preferences."""
