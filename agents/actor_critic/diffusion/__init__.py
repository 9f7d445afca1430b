"""Policies that make actions out of noise."""
