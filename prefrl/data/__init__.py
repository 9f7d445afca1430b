"""Transitions, data sets of them, segments, preference pairs and their files."""

from prefrl.data.comparisons import (
    Preferences,
    ScoredSegments,
    concatenate_preferences,
    merge_preferences,
    split_preferences,
)
from prefrl.data.files.atomic import atomic_path
from prefrl.data.files.human import load_human_preferences, load_human_statistics
from prefrl.data.files.human_archives import load_human_archive
from prefrl.data.files.minari import load_minari
from prefrl.data.files.preference_files import load_preferences, save_preferences
from prefrl.data.files.transition_files import load_transitions, save_transitions

from .datasets import TransitionDataset, concatenate_transitions
from .devices import seeded_generator
from .segments import Segments, concatenate_segments
from .transitions import Transitions, map_obs, step_infos, successor_obs, transition_mask

__all__ = [
    "Preferences",
    "ScoredSegments",
    "Segments",
    "TransitionDataset",
    "Transitions",
    "atomic_path",
    "concatenate_preferences",
    "concatenate_segments",
    "concatenate_transitions",
    "load_human_archive",
    "load_human_preferences",
    "load_human_statistics",
    "load_minari",
    "load_preferences",
    "load_transitions",
    "map_obs",
    "merge_preferences",
    "save_preferences",
    "save_transitions",
    "seeded_generator",
    "split_preferences",
    "step_infos",
    "successor_obs",
    "transition_mask",
]
