"""Transitions, segments, preference pairs and their files."""

from .atomic import atomic_path
from .human import load_human_preferences, load_human_statistics
from .preference_files import load_preferences, save_preferences
from .seeding import seeded_generator
from .segments import Preferences, Segments, concatenate_segments, split_preferences
from .transitions import Transitions, successor_obs, transition_mask

__all__ = [
    "Preferences",
    "Segments",
    "Transitions",
    "atomic_path",
    "concatenate_segments",
    "load_human_preferences",
    "load_human_statistics",
    "load_preferences",
    "save_preferences",
    "seeded_generator",
    "split_preferences",
    "successor_obs",
    "transition_mask",
]
