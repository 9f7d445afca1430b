"""Actors with critics: soft actor-critic, with and without a model."""
