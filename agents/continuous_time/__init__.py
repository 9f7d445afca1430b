"""Continuous time: diffusions by martingale conditions."""
