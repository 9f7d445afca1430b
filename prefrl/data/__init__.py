"""Transitions, segments, preference pairs and their files."""

from .atomic import atomic_path
from .transitions import Transitions, successor_obs, transition_mask

__all__ = ["Transitions", "atomic_path", "successor_obs", "transition_mask"]
