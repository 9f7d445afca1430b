"""Martingale conditions."""
