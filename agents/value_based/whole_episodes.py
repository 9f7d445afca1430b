"""Whole episodes out of data sets, for agents that look at all that followed an action."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor

from prefrl.data import ScoredSegments, TransitionDataset


class Episodes(NamedTuple):
    """E whole episodes, padded to L steps."""

    obs: Tensor
    """[E, L + 1, ...]; padding repeats the last one."""
    actions: Tensor
    """[E, L] counted from 0."""
    rewards: Tensor
    """[E, L], 0 in the padding."""
    mask: Tensor
    """[E, L] bool, True for transitions."""
    cut: Tensor
    """[E] bool, True where the last observation is not terminal."""

    def rows(self, chosen: Tensor) -> Episodes:
        """Return some of them."""
        return Episodes(*(values[chosen] for values in self))

    def to(self, device: torch.device) -> Episodes:
        """Return them on a device."""
        return Episodes(*(values.to(device) for values in self))


def whole_episodes(dataset: TransitionDataset | ScoredSegments, space: Any) -> Episodes:
    """Return the episodes of transitions, or segments whose score is paid at their end.

    Args:
        dataset: on the CPU.
        space: of the actions, Discrete.
    """
    if isinstance(dataset, ScoredSegments):
        segments = dataset.segments
        last = torch.arange(segments.max_length) == segments.lengths[:, None] - 1
        rewards = torch.where(last, dataset.scores[:, None], 0.0)
        ended = torch.ones_like(segments.terminated)  # the score is all there is to come
    else:
        ends = torch.nonzero(~dataset.has_next_action)[:, 0]
        starts = torch.cat([ends.new_zeros(1), ends[:-1] + 1])
        segments, rewards = dataset.segments(starts, int((ends - starts).max()) + 1)
        ended = segments.terminated
    actions = torch.where(segments.mask, segments.actions - int(space.start), 0)
    return Episodes(segments.obs, actions, rewards, segments.mask, ~ended)


def check_scored(
    scored: ScoredSegments, observation_space: gym.Space[Any], actions: gym.spaces.Discrete
) -> None:
    """Raise ValueError for scored segments with observations or actions of other spaces."""
    segments = scored.validate().segments
    for name, values, space in (("obs", segments.obs, observation_space),
                                ("actions", segments.actions[segments.mask], actions)):  # fmt: skip
        one = values.flatten(0, 1) if name == "obs" else values
        if tuple(one.shape[1:]) != tuple(space.shape or ()):
            raise ValueError(f"{name} of the segments have shape {tuple(one.shape[1:])}; those of {space} "
                             f"have {space.shape}")  # fmt: skip
        if isinstance(space, gym.spaces.Discrete):
            first, last = int(space.start), int(space.start + space.n - 1)
            if one.is_floating_point() or int(one.min()) < first or int(one.max()) > last:
                raise ValueError(f"{name} of the segments are {one.dtype} from {one.min()} to {one.max()}; "
                                 f"those of {space} are whole numbers from {first} to {last}")  # fmt: skip


def check_deterministic(episodes: Episodes, form: str) -> None:
    """Raise ValueError where the same action in the same observation was followed by two different ones.

    Args:
        episodes: on the CPU.
        form: of the residuals, for the message.
    """
    obs, following = (
        part[episodes.mask].flatten(1) if part.ndim > 2 else part[episodes.mask][:, None]
        for part in (episodes.obs[:, :-1], episodes.obs[:, 1:])
    )
    taken = episodes.actions[episodes.mask]
    seen, place = torch.unique(obs, dim=0, return_inverse=True)
    pair, pairs = place * (taken.max() + 1) + taken, len(seen) * int(taken.max() + 1)
    # Where each pair was seen somewhere; all other places are held against it.
    one = torch.zeros(pairs, dtype=torch.int64).scatter_(0, pair, torch.arange(len(pair)))
    other = torch.nonzero((following[one[pair]] != following).any(1))
    if len(other):
        row = int(other[0])
        a, b = (following[each].squeeze().tolist() for each in (row, int(one[pair[row]])))
        raise ValueError(
            f"form is {form!r}, and transitions are random: action {int(taken[row])} (counted from 0) in "
            f"observation {obs[row].squeeze().tolist()} led to {a} and to {b}; give form='one_step', since "
            "the others hold along a path only where its transitions are deterministic"
        )
